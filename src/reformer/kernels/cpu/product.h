// The one register-tiled matrix product behind every product of the attention kernels:
//
//     C[i][n] = sum_d A(i, d) B[d][n],   i < M,   n < N vectors
//
// A is read by broadcast and may have any strides, so it can be a matrix or its transpose;
// rows of B are contiguous. Sums run over d in order, one accumulator per entry: a result never
// depends on what else is computed beside it.
#pragma once

#include "simd.h"

namespace reformer {

// Scores: keys are taken in groups of kGroup rows, queries in tiles of kTile lanes.
constexpr int kTile = 16;
constexpr int kScoreVectors = REFORMER_VECTOR_BYTES == 64 ? 1 : 2;
constexpr int kGroup = REFORMER_VECTOR_BYTES == 64 ? 8 : 6;
// Sums over values: columns are taken in blocks of kColumnVectors vectors.
constexpr int kColumnVectors = REFORMER_VECTOR_BYTES == 64 ? 4 : 2;
// Steps along the depth between two requests for records (ahead.h): about a hundred cycles.
constexpr int64_t kDepth = 16;

struct Strides {
  int64_t row, depth;
};

// Calls between() before every kDepth steps.
template <int M, int N, class Between>
REFORMER_INLINE void product(const float* a, Strides stride, const float* b, int64_t b_stride,
                             int64_t depth, Floats (&c)[M][N], Between&& between) {
#pragma GCC unroll 8
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) c[i][n] = Floats{};
  for (int64_t done = 0; done < depth; done += kDepth) {
    between();
    const int64_t steps = depth - done < kDepth ? depth - done : kDepth;
    for (int64_t d = 0; d < steps; ++d, a += stride.depth, b += b_stride) {
      Floats row[N];
#pragma GCC unroll 4
      for (int n = 0; n < N; ++n) row[n] = load(b + n * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < M; ++i) {
        const Floats factor = splat(a[i * stride.row]);
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) c[i][n] += factor * row[n];
      }
    }
  }
}

// scores[i][0 … kTile) = rows[i] . queries, for rows i in [begin, end), a range of whole groups.
// queries: transposed, [width][kTile].
template <class Between>
REFORMER_INLINE void score_rows(const float* rows, int64_t width, const float* queries, int begin,
                                int end, float* scores, int64_t scores_stride,
                                Between&& between) {
  for (int i = begin; i < end; i += kGroup) {
    for (int lane = 0; lane < kTile; lane += kScoreVectors * kLanes) {
      Floats c[kGroup][kScoreVectors];
      product(rows + i * width, {width, 1}, queries + lane, kTile, width, c, between);
#pragma GCC unroll 8
      for (int m = 0; m < kGroup; ++m)
#pragma GCC unroll 4
        for (int n = 0; n < kScoreVectors; ++n)
          store(scores + (i + m) * scores_stride + lane + n * kLanes, c[m][n]);
    }
  }
}

// What accumulate_rows does with the old contents of a row.
struct Add {
  REFORMER_INLINE Floats operator()(const float* row, int, Floats sum) const {
    return load(row) + sum;
  }
};
struct Overwrite {
  REFORMER_INLINE Floats operator()(const float*, int, Floats sum) const { return sum; }
};
struct ShrinkAndAdd {
  const float* factor;
  REFORMER_INLINE Floats operator()(const float* row, int i, Floats sum) const {
    return load(row) * splat(factor[i]) + sum;
  }
};

template <int M, int N, class Combine, class Between>
REFORMER_INLINE void accumulate_block(const float* a, Strides stride, const float* b,
                                      int64_t width, int64_t depth, float* const* rows,
                                      int64_t column, int first, Combine combine,
                                      Between&& between) {
  Floats c[M][N];
  product(a, stride, b + column, width, depth, c, between);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) {
      float* to = rows[m] + column + n * kLanes;
      store(to, combine(to, first + m, c[m][n]));
    }
}

// rows[i][0 … width) (=, +=) sum_d a(i, d) b[d], for M rows; width is a multiple of kLanes.
template <int M, class Combine, class Between>
REFORMER_INLINE void accumulate_rows(const float* a, Strides stride, const float* b, int64_t width,
                                     int64_t depth, float* const* rows, int first,
                                     Combine combine, Between&& between) {
  a += first * stride.row;
  rows += first;
  int64_t column = 0;
  for (; column + kColumnVectors * kLanes <= width; column += kColumnVectors * kLanes) {
    accumulate_block<M, kColumnVectors>(a, stride, b, width, depth, rows, column, first, combine,
                                        between);
  }
  for (; column < width; column += kLanes)
    accumulate_block<M, 1>(a, stride, b, width, depth, rows, column, first, combine, between);
}

// The same for the kTile queries of a tile, in register blocks of 6, 5 and 5 rows.
template <class Combine, class Between>
REFORMER_INLINE void accumulate_tile(const float* a, Strides stride, const float* b, int64_t width,
                                     int64_t depth, float* const* rows, Combine combine,
                                     Between&& between) {
  accumulate_rows<6>(a, stride, b, width, depth, rows, 0, combine, between);
  accumulate_rows<5>(a, stride, b, width, depth, rows, 6, combine, between);
  accumulate_rows<5>(a, stride, b, width, depth, rows, 11, combine, between);
}

}  // namespace reformer
