// Angular hashing: projection and argmax in one pass, so no [L, R, N] array ever exists.
//
// Lanes are tokens. A token's projections are sums over K in order, whatever else is hashed
// beside it, so its bucket never depends on the length or the batch.

#include "hash.h"

#include <algorithm>
#include <cmath>

#include "arena.h"
#include "parallel.h"
#include "rows.h"

namespace reformer {

namespace {

// Projections of a factor, in whole groups of rows; surplus rows are zeros and never looked at.
int64_t packed_rows(const Hashing& h) {
  int64_t rows = 0;
  for (int64_t f = 0; f < h.num_factors; ++f) rows += round_up(h.factors[f] / 2, kGroup);
  return rows;
}

// packed[round][row][k] of one head.
void pack_rotations(const Hashing& h, int64_t head, float* packed) {
  int64_t projections = 0;
  for (int64_t f = 0; f < h.num_factors; ++f) projections += h.factors[f] / 2;
  const float* from = h.rotations + head * h.width * h.rounds * projections;
  for (int64_t round = 0; round < h.rounds; ++round) {
    int64_t column = round * projections;
    for (int64_t f = 0; f < h.num_factors; ++f) {
      const int64_t count = h.factors[f] / 2, rows = round_up(count, kGroup);
      for (int64_t i = 0; i < rows; ++i, packed += h.width)
        for (int64_t k = 0; k < h.width; ++k)
          packed[k] = i < count ? from[k * h.rounds * projections + column + i] : 0.0f;
      column += count;
    }
  }
}

// The largest and the smallest projection so far and where they were first met, for some lanes.
struct Extremes {
  Floats high = splat(-INFINITY), low = splat(INFINITY);
  Ints high_at{}, low_at{};

  REFORMER_INLINE void meet(Floats x, int32_t at) {
    const Ints above = x > high, below = x < low;
    high = select(above, x, high);
    low = select(below, x, low);
    high_at = select(above, splat(at), high_at);
    low_at = select(below, splat(at), low_at);
  }
  // argmax of [x ; -x], the first of equals.
  REFORMER_INLINE Ints argmax(int32_t count) const {
    return select(-low > high, low_at + count, high_at);
  }
};

// hashed[lane] += stride * argmax over one factor's projections.
void hash_factor(const float* rotations, int64_t width, const float* vectors, int64_t count,
                 int64_t stride, int64_t* hashed) {
  for (int lane = 0; lane < kTile; lane += kScoreVectors * kLanes) {
    Extremes extremes[kScoreVectors];
    for (int64_t i = 0; i < count; i += kGroup) {
      Floats c[kGroup][kScoreVectors];
      product(rotations + i * width, {width, 1}, vectors + lane, kTile, width, c);
      const int rows = int(std::min<int64_t>(kGroup, count - i));
      if (rows == kGroup) {
#pragma GCC unroll 8
        for (int m = 0; m < kGroup; ++m)
          for (int n = 0; n < kScoreVectors; ++n) extremes[n].meet(c[m][n], int32_t(i) + m);
      } else {
        for (int m = 0; m < rows; ++m)
          for (int n = 0; n < kScoreVectors; ++n) extremes[n].meet(c[m][n], int32_t(i) + m);
      }
    }
    for (int n = 0; n < kScoreVectors; ++n) {
      const Ints found = extremes[n].argmax(int32_t(count));
      for (int i = 0; i < kLanes; ++i) hashed[lane + n * kLanes + i] += stride * found[i];
    }
  }
}

template <class Bucket>
void write_buckets(void* buckets, int64_t at, const int64_t* hashed, int64_t count) {
  for (int64_t i = 0; i < count; ++i) static_cast<Bucket*>(buckets)[at + i] = Bucket(hashed[i]);
}

// One tile of tokens of a (batch, head) row, all rounds.
void hash_tile(const Hashing& h, int64_t row, int64_t token, const float* packed, float* rows,
               float* columns) {
  const int64_t padded = padded_width(h.width);
  const int64_t count = std::min<int64_t>(kTile, h.length - token);
  std::fill(rows, rows + kTile * padded, 0.0f);
  for (int64_t i = 0; i < count; ++i)
    load_row(h.vectors.at(row / h.heads, row % h.heads, token + i), h.is_bfloat16, h.width, 1.0f,
             rows + i * padded);
  transpose_tile(rows, padded, 1.0f, columns);
  for (int64_t round = 0; round < h.rounds; ++round) {
    int64_t hashed[kTile] = {}, stride = 1;
    for (int64_t f = 0; f < h.num_factors; ++f) {
      const int64_t factor = h.factors[f];
      if (factor > 1) hash_factor(packed, h.width, columns, factor / 2, stride, hashed);
      packed += round_up(factor / 2, kGroup) * h.width;
      stride *= factor;
    }
    const int64_t at = (row * h.rounds + round) * h.length + token;
    switch (h.bucket_bytes) {
      case 1: write_buckets<uint8_t>(h.buckets, at, hashed, count); break;
      case 2: write_buckets<int16_t>(h.buckets, at, hashed, count); break;
      case 4: write_buckets<int32_t>(h.buckets, at, hashed, count); break;
      default: write_buckets<int64_t>(h.buckets, at, hashed, count);
    }
  }
}

int64_t hash_vectors(const Hashing& h) {
  const int threads = int(std::clamp<int64_t>(h.threads, 1, 1024));
  const int64_t padded = padded_width(h.width), rows = h.batch * h.heads;
  const int64_t head_size = h.rounds * packed_rows(h) * h.width;
  const int64_t own_size = round_up(2 * kTile * padded, 16);
  Arena memory((h.heads * head_size + threads * own_size) * 4 + 128);
  if (!memory.has_memory()) return kNoMemory;
  float* packed = memory.take<float>(h.heads * head_size);
  float* own = memory.take<float>(threads * own_size);
  parallel(threads, [&](Worker worker) {
    for (int64_t head = worker.rank; head < h.heads; head += worker.size)
      pack_rotations(h, head, packed + head * head_size);
    worker.barrier();
    float *tile = own + worker.rank * own_size, *columns = tile + kTile * padded;
    const int64_t per_row = (h.length + kTile - 1) / kTile, tiles = rows * per_row;
    const int64_t end = tiles * (worker.rank + 1) / worker.size;
    for (int64_t t = tiles * worker.rank / worker.size; t < end; ++t) {
      const int64_t row = t / per_row;
      hash_tile(h, row, t % per_row * kTile, packed + row % h.heads * head_size, tile, columns);
    }
  });
  return kDone;
}

}  // namespace
}  // namespace reformer

int64_t reformer_hash_vectors(const reformer::Hashing* hashing) {
  return reformer::hash_vectors(*hashing);
}
