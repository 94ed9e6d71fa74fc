// Scratch memory: one allocation, carved into aligned arrays by the same code that measures it.
#pragma once

#include <cstdint>
#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "simd.h"

namespace reformer {

class Arena {
 public:
  // Without memory an arena only measures.
  Arena() = default;
  explicit Arena(int64_t bytes) {
    const int64_t alignment = bytes < kHugePage ? kAlignment : kHugePage;
    const int64_t size = round_up(bytes + 1, alignment);
    memory_ = std::aligned_alloc(size_t(alignment), size_t(size));
#if defined(__linux__)
    // Rows are gathered from all over large arrays: fewer, larger pages are found faster.
    if (memory_ && alignment == kHugePage) madvise(memory_, size_t(size), MADV_HUGEPAGE);
#endif
  }
  ~Arena() { std::free(memory_); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  bool has_memory() const { return memory_ != nullptr; }
  int64_t used() const { return used_; }

  // An aligned array; null where it would be empty.
  template <class T>
  T* take(int64_t count) {
    if (count == 0) return nullptr;
    const int64_t start = used_;
    used_ += round_up(count * int64_t(sizeof(T)), kAlignment);
    return memory_ ? reinterpret_cast<T*>(static_cast<char*>(memory_) + start) : nullptr;
  }

 private:
  static constexpr int64_t kAlignment = 64, kHugePage = int64_t(1) << 21;
  void* memory_ = nullptr;
  int64_t used_ = 0;
};

}  // namespace reformer
