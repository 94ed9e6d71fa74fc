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
// As many at once as there are registers for their sums.
constexpr int kGroups = REFORMER_VECTOR_BYTES == 64 ? 2 : 1;
// Sums over values: columns are taken in blocks of kColumnVectors vectors.
constexpr int kColumnVectors = REFORMER_VECTOR_BYTES == 64 ? 4 : 2;
// Steps along the depth between two requests for records (ahead.h): about thirty cycles, so that
// the products of a tile ask for all of the next one, and nothing is left to ask for at once.
constexpr int64_t kDepth = 4;

struct Strides {
  int64_t row, depth;
};

// One step along the depth: c[i][n] += A(i, d) B[d][n].
template <int M, int N>
REFORMER_INLINE void product_step(const float* a, int64_t row_stride, const float* b,
                                  Floats (&c)[M][N]) {
  Floats row[N];
#pragma GCC unroll 4
  for (int n = 0; n < N; ++n) row[n] = load(b + n * kLanes);
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i) {
    const Floats factor = splat(a[i * row_stride]);
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) c[i][n] += factor * row[n];
  }
}

// Calls between() before every kDepth steps.
template <int M, int N, class Between>
REFORMER_INLINE void product(const float* a, Strides stride, const float* b, int64_t b_stride,
                             int64_t depth, Floats (&c)[M][N], Between&& between) {
#pragma GCC unroll 16
  for (int i = 0; i < M; ++i)
#pragma GCC unroll 4
    for (int n = 0; n < N; ++n) c[i][n] = Floats{};
  for (; depth >= kDepth; depth -= kDepth) {
    between();
#pragma GCC unroll 2
    for (int d = 0; d < kDepth; ++d, a += stride.depth, b += b_stride)
      product_step(a, stride.row, b, c);
  }
  if (depth == 0) return;
  between();
  for (; depth > 0; --depth, a += stride.depth, b += b_stride) product_step(a, stride.row, b, c);
}

template <int M, class Between>
REFORMER_INLINE void score_block(const float* rows, int64_t width, const float* queries,
                                 float* scores, int64_t scores_stride, Between&& between) {
  for (int lane = 0; lane < kTile; lane += kScoreVectors * kLanes) {
    Floats c[M][kScoreVectors];
    product(rows, {width, 1}, queries + lane, kTile, width, c, between);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
      for (int n = 0; n < kScoreVectors; ++n)
        store(scores + m * scores_stride + lane + n * kLanes, c[m][n]);
  }
}

template <class Between>
REFORMER_INLINE void score_rows_of(int64_t width, const float* rows, const float* queries,
                                   int begin, int end, float* scores, int64_t scores_stride,
                                   Between&& between) {
  for (; end - begin >= kGroups * kGroup; begin += kGroups * kGroup)
    score_block<kGroups * kGroup>(rows + begin * width, width, queries,
                                  scores + begin * scores_stride, scores_stride, between);
  for (; begin < end; begin += kGroup)
    score_block<kGroup>(rows + begin * width, width, queries, scores + begin * scores_stride,
                        scores_stride, between);
}

// scores[i][0 … kTile) = rows[i] . queries, for rows i in [begin, end), a range of whole groups.
// queries: transposed, [width][kTile].
template <class Between>
REFORMER_INLINE void score_rows(const float* rows, int64_t width, const float* queries, int begin,
                                int end, float* scores, int64_t scores_stride,
                                Between&& between) {
  // Rows at a distance that the compiler knows need no register each to be found.
  if (width == 64)
    score_rows_of(64, rows, queries, begin, end, scores, scores_stride, between);
  else
    score_rows_of(width, rows, queries, begin, end, scores, scores_stride, between);
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

// The same for the kGroup keys of a group, as many at once as there are registers for.
template <class Combine, class Between>
REFORMER_INLINE void accumulate_group(const float* a, Strides stride, const float* b,
                                      int64_t width, int64_t depth, float* const* rows,
                                      Combine combine, Between&& between) {
  constexpr int kRows = REFORMER_VECTOR_BYTES == 64 ? kGroup / 2 : kGroup;
  for (int first = 0; first < kGroup; first += kRows)
    accumulate_rows<kRows>(a, stride, b, width, depth, rows, first, combine, between);
}

}  // namespace reformer
