// The fast Hadamard transform of vectors whose signs are flipped first, tokens in the lanes:
//
//     to[k] = sum_j (-1)^(bits that j and k share) signs[j] from[j],   j, k < width, a power of two
//
// Eight rows are combined in registers at a time. Sums are in one order, whatever the lanes hold.
#pragma once

#include "product.h"
#include "simd.h"

namespace reformer {

// v[0 … N), transformed.
template <int N>
REFORMER_INLINE void transform_registers(Floats (&v)[N]) {
#pragma GCC unroll 3
  for (int half = 1; half < N; half *= 2)
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i) {
      if (i & half) continue;
      const Floats a = v[i], b = v[i + half];
      v[i] = a + b;
      v[i + half] = a - b;
    }
}

// Combines N rows at a distance of `stride` rows, everywhere; rows of kTile lanes.
template <int N, class Sign>
REFORMER_INLINE void transform_pass(const float* from, float* to, int64_t width, int64_t stride,
                                    const Sign& sign) {
  for (int64_t begin = 0; begin < width; begin += N * stride)
    for (int64_t first = begin; first < begin + stride; ++first)
      for (int lane = 0; lane < kTile; lane += kLanes) {
        Floats v[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) {
          const int64_t row = first + n * stride;
          v[n] = load(from + row * kTile + lane) * splat(sign(row));
        }
        transform_registers(v);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) store(to + (first + n * stride) * kTile + lane, v[n]);
      }
}

// Rows of kTile lanes; `to` may be `from`. width is at least 8.
inline void transform(const float* from, const float* signs, int64_t width, float* to) {
  const auto one = [](int64_t) { return 1.0f; };
  transform_pass<8>(from, to, width, 1, [&](int64_t row) { return signs[row]; });
  int64_t stride = 8;
  for (; stride * 8 <= width; stride *= 8) transform_pass<8>(to, to, width, stride, one);
  if (width / stride == 4) transform_pass<4>(to, to, width, stride, one);
  if (width / stride == 2) transform_pass<2>(to, to, width, stride, one);
}

}  // namespace reformer
