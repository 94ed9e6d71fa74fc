// Records asked for ahead of their use, a few at a time between pieces of arithmetic: places in
// an order are tokens far apart, which the hardware cannot foresee, and a core waits when it asks
// for more than it can keep in flight.
#pragma once

#include "head.h"

namespace reformer {

class Ahead {
 public:
  Ahead(const Head& head, int64_t round)
      : order_(head.order(round)), length_(order_ ? head.a.length : 0),
        records_(head.tables.record) {}

  // The tile at `place` is next.
  void from(int64_t place) {
    if (next_ < place || next_ > place + kMost) next_ = place, asked_ = 0;
    limit_ = std::min(length_, place + kMost);
    while (next_ < std::min(length_, place + kLeast)) (*this)();
  }
  // Asks for a part of the next record.
  REFORMER_INLINE void operator()() {
    if (next_ >= limit_) return;
    if (asked_ == 0 && next_ % kPages == 0) find_pages(next_ + kSoon);
    const int64_t part = std::min(kPart, records_.stride - asked_);
    prefetch_row(records_(order_[next_]) + asked_, part);
    asked_ += part;
    if (asked_ == records_.stride) ++next_, asked_ = 0;
  }

 private:
  REFORMER_INLINE void find_pages(int64_t place) {
    if (place + kPages > length_) return;
    for (int i = 0; i < kPages; ++i) __builtin_prefetch(records_(order_[place + i]), 0, 2);
  }

  // Places ahead; their records should fit the second-level cache beside the tile at work.
  static constexpr int64_t kLeast = 32, kMost = 128;
  // A record's begin is asked for this much earlier than the rest of it: in a large array, finding
  // the page takes as long as fetching a line, and a core waits for it. It waits once for a few that
  // it looks for together.
  static constexpr int64_t kSoon = 64, kPages = 4;
  static constexpr int64_t kPart = 256;  // bytes

  const int32_t* order_;
  int64_t length_, next_ = 0, limit_ = 0, asked_ = 0;
  const PerToken<char> records_;
};

}  // namespace reformer
