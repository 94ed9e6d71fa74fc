// Everything that a round gathers of a token, side by side in one record per token.
//
// Rounds meet the tokens in orders of their own, so what is gathered comes from all over the
// memory. Neighbours are fetched at little more than the price of one, and large pages (arena.h)
// are found at once.
#pragma once

#include "arena.h"
#include "rows.h"

namespace reformer {

class Records {
 public:
  // Without memory records only measure.
  Records() = default;
  Records(char* data, int64_t stride) : data_(data), stride_(stride) {}

  // A field of `count` numbers; one without data where it would be empty.
  template <class T>
  PerToken<T> take(int64_t count) {
    if (count == 0) return {};
    const int64_t start = used_;
    used_ += round_up(count * int64_t(sizeof(T)), 4);
    return {data_ ? data_ + start : nullptr, stride_};
  }
  // Records that fill a cache line begin with one.
  int64_t size() const { return used_ < kLine ? used_ : round_up(used_, kLine); }

 private:
  static constexpr int64_t kLine = 64;
  char* data_ = nullptr;
  int64_t stride_ = 0, used_ = 0;
};

// Records of `length` tokens, whose fields `take_fields(records)` takes. Returns them whole.
template <class TakeFields>
PerToken<char> carve_records(Arena& arena, int64_t length, const TakeFields& take_fields) {
  Records measure;
  take_fields(measure);
  char* data = arena.take<char>(length * measure.size());
  Records records(data, measure.size());
  take_fields(records);
  return {data, measure.size()};
}

}  // namespace reformer
