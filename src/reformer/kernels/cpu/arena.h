// Scratch memory: one allocation, carved into aligned arrays by the same code that measures it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <mutex>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "simd.h"

namespace reformer {

// Memory of `size` bytes, aligned; none where the system has none.
struct Block {
  static constexpr int64_t kAlignment = 64, kHugePage = int64_t(1) << 21;
  void* memory = nullptr;
  int64_t size = 0;

  static Block allocate(int64_t bytes) {
    const int64_t alignment = bytes < kHugePage ? kAlignment : kHugePage;
    const int64_t size = round_up(bytes + 1, alignment);
    void* memory = std::aligned_alloc(size_t(alignment), size_t(size));
#if defined(__linux__)
    // Rows are gathered from all over large arrays: fewer, larger pages are found faster.
    if (memory && alignment == kHugePage) madvise(memory, size_t(size), MADV_HUGEPAGE);
#endif
    return {memory, size};
  }
};

// The large block that was given back last, kept for the next call: its pages are mapped, large and
// in the caches.
class KeptBlock {
 public:
  static KeptBlock& of_process() {
    static KeptBlock kept;
    return kept;
  }
  // A block of at least `bytes`: the kept one, or else a new one in its place.
  Block take(int64_t bytes) {
    if (bytes < Block::kHugePage) return Block::allocate(bytes);
    Block block = exchange({});
    if (block.size > bytes) return block;
    std::free(block.memory);
    return Block::allocate(bytes);
  }
  void give_back(Block block) {
    if (block.size >= Block::kHugePage && block.size <= kMost) block = exchange(block);
    std::free(block.memory);
  }

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr int64_t kMost = 0;  // a block of its own shows who reads past it
#else
  static constexpr int64_t kMost = int64_t(64) << 20;
#endif
  // Keeps a block instead of the one that was kept, which it returns.
  Block exchange(Block block) {
    const std::lock_guard<std::mutex> guard(mutex_);
    std::swap(block, kept_);
    return block;
  }
  std::mutex mutex_;
  Block kept_;
};

class Arena {
 public:
  // Without memory an arena only measures.
  Arena() = default;
  explicit Arena(int64_t bytes) : block_(KeptBlock::of_process().take(bytes)) {}
  ~Arena() { KeptBlock::of_process().give_back(block_); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  bool has_memory() const { return block_.memory != nullptr; }
  int64_t used() const { return used_; }

  // An aligned array; null where it would be empty.
  template <class T>
  T* take(int64_t count) {
    if (count == 0) return nullptr;
    const int64_t start = used_;
    used_ += round_up(count * int64_t(sizeof(T)), Block::kAlignment);
    return has_memory() ? reinterpret_cast<T*>(static_cast<char*>(block_.memory) + start) : nullptr;
  }

 private:
  Block block_;
  int64_t used_ = 0;
};

}  // namespace reformer
