// The arguments of hashing, as Python passes them, and its entry point.
#pragma once

#include "attention.h"

namespace reformer {

// The arguments of `hash_vectors` in ops/hashing.py.
struct Hashing {
  Strided vectors;         // [B, H, L, K]
  const float* rotations;  // [H, K, R, sum(factors) / 2], contiguous
  const float* signs;      // [H, num_signs, K], contiguous: the same as a product; or null
  void* buckets;           // [B, H, R, L], contiguous
  const int64_t* factors;
  int64_t num_signs, num_factors, bucket_bytes;
  int64_t batch, heads, length, width, rounds;
  int64_t is_bfloat16;
  int64_t threads;
};

}  // namespace reformer

extern "C" REFORMER_EXPORT int64_t reformer_hash_vectors(const reformer::Hashing*);
