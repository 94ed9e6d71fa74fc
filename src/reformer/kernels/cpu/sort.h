// The arguments of sorting, as Python passes them, and its entry point.
#pragma once

#include "attention.h"

namespace reformer {

// The arguments of `sort_tokens` in ops/order.py.
struct Sorting {
  const void* buckets;         // [B, H, R, L], contiguous, non-negative
  const int64_t* segment_ids;  // [B, L], contiguous, or null; negative is padding
  void *order, *code;          // [B, H, R, L], contiguous
  int64_t bucket_bytes, is_unsigned, is_wide;  // order and code are int64, not int32
  int64_t batch, heads, length, rounds, window;
  int64_t threads;
};

}  // namespace reformer

extern "C" REFORMER_EXPORT int64_t reformer_sort_tokens(const reformer::Sorting*);
