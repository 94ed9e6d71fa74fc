// Angular hashing: projection and argmax in one pass, so no [L, R, N] array ever exists.
//
// Lanes are tokens. A token's projections are sums over K in order, whatever else is hashed
// beside it, so its bucket never depends on the length or the batch. Where the rotations are
// products of signs and Hadamard's matrix (hadamard.h), K log K additions find K projections.

#include "hash.h"

#include <algorithm>
#include <vector>

#include "arena.h"
#include "hadamard.h"
#include "parallel.h"
#include "rows.h"

namespace reformer {

namespace {

int64_t projections_per_round(const Hashing& h) {
  int64_t count = 0;
  for (int64_t f = 0; f < h.num_factors; ++f) count += h.factors[f] / 2;
  return count;
}

// The row of a round's first projection. Blocks of K serve as many rounds as they have room for
// (`first_projections` in ops/hashing.py); any others stand side by side.
int64_t first_projection(const Hashing& h, int64_t round, int64_t count) {
  if (!h.signs || count == 0) return round * count;
  if (count > h.width) return round * round_up(count, h.width);
  const int64_t together = h.width / count;
  return round / together * h.width + round % together * count;
}

// Projections of all rounds, in whole groups or blocks; surplus ones are never looked at.
int64_t num_rows(const Hashing& h) {
  if (h.signs) return (h.num_signs - 2) * h.width;
  return round_up(h.rounds * projections_per_round(h), kGroup);
}

// What a head's vectors are multiplied by. Without signs, packed[projection][k]; surplus ones zero.
void pack_rotations(const Hashing& h, int64_t head, float* packed) {
  const int64_t count = h.rounds * projections_per_round(h), rows = num_rows(h);
  const float* from = h.rotations + head * h.width * count;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t k = 0; k < h.width; ++k)
      packed[i * h.width + k] = i < count ? from[k * count + i] : 0.0f;
}

// hashed[lane] += stride * argmax of [x ; -x], the first of equals, over one factor's projections
// x, [count][kTile]. What is largest is found first and where it stands second: less work than
// both at once.
void hash_factor(const float* projections, int64_t count, int64_t stride, int64_t* hashed) {
  for (int lane = 0; lane < kTile; lane += kLanes) {
    const float* x = projections + lane;
    Floats high = load(x), low = high;
    for (int64_t i = 1; i < count; ++i) {
      high = larger(load(x + i * kTile), high);
      low = smaller(load(x + i * kTile), low);
    }
    const Ints is_low = -low > high;
    const Floats wanted = select(is_low, low, high);
    Ints at{}, found{};
    at += int32_t(count);
    for (int64_t i = count - 1; i >= 0; --i) {
      at -= 1;
      found = select(load(x + i * kTile) == wanted, at, found);
    }
    found += is_low & splat(int32_t(count));
    for (int i = 0; i < kLanes; ++i) hashed[lane + i] += stride * found[i];
  }
}

template <class Bucket>
void write_buckets(void* buckets, int64_t at, const int64_t* hashed, int64_t count) {
  for (int64_t i = 0; i < count; ++i) static_cast<Bucket*>(buckets)[at + i] = Bucket(hashed[i]);
}

constexpr int64_t kTilesAtOnce = 32;

// Scratch of one thread.
struct Own {
  float *rows, *columns;  // a tile of tokens: [kTile][padded K], and transposed
  float* projections;     // [num_rows][kTile]

  static Own carve(Arena& arena, const Hashing& h) {
    const int64_t tile = kTile * padded_width(h.width);
    return {arena.take<float>(tile), arena.take<float>(tile),
            arena.take<float>(kTile * num_rows(h))};
  }
};

// Projections of a tile by products of signs and Hadamard's matrix.
void project_fast(const Hashing& h, int64_t head, const Own& own) {
  const float* signs = h.signs + head * h.num_signs * h.width;
  transform(own.columns, signs, h.width, own.columns);
  transform(own.columns, signs + h.width, h.width, own.columns);
  for (int64_t block = 0; block < h.num_signs - 2; ++block)
    transform(own.columns, signs + (2 + block) * h.width, h.width,
              own.projections + block * h.width * kTile);
}

// One tile of tokens of a (batch, head) row, all rounds.
void hash_tile(const Hashing& h, int64_t row, int64_t token, const float* packed, const Own& own) {
  const int64_t padded = padded_width(h.width), per_round = projections_per_round(h);
  const int64_t count = std::min<int64_t>(kTile, h.length - token);
  std::fill(own.rows, own.rows + kTile * padded, 0.0f);
  for (int64_t i = 0; i < count; ++i)
    load_row(h.vectors.at(row / h.heads, row % h.heads, token + i), h.is_bfloat16, h.width, 1.0f,
             own.rows + i * padded);
  // Three transforms make a vector K^(3/2) times as long.
  const float factor = h.signs ? 1.0f / float(h.width * h.width) : 1.0f;
  transpose_tile(own.rows, padded, factor, own.columns);
  if (h.signs)
    project_fast(h, row % h.heads, own);
  else
    score_rows(packed, h.width, own.columns, 0, int(num_rows(h)), own.projections, kTile, [] {});
  for (int64_t round = 0; round < h.rounds; ++round) {
    const float* projections = own.projections + first_projection(h, round, per_round) * kTile;
    int64_t hashed[kTile] = {}, stride = 1;
    for (int64_t f = 0; f < h.num_factors; ++f) {
      const int64_t factor = h.factors[f];
      if (factor > 1) hash_factor(projections, factor / 2, stride, hashed);
      projections += factor / 2 * kTile;
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
  const int64_t rows = h.batch * h.heads, head_size = h.signs ? 0 : num_rows(h) * h.width;
  Arena own_size;
  Own::carve(own_size, h);
  Arena memory(h.heads * head_size * 4 + threads * own_size.used() + 64);
  if (!memory.has_memory()) return kNoMemory;
  float* packed = memory.take<float>(h.heads * head_size);
  std::vector<Own> own;
  for (int i = 0; i < threads; ++i) own.push_back(Own::carve(memory, h));
  parallel(threads, [&](Worker worker) {
    worker.share(packed ? h.heads : 0,
                 [&](int64_t head) { pack_rotations(h, head, packed + head * head_size); });
    const int64_t per_row = (h.length + kTile - 1) / kTile;
    worker.share(rows * per_row, kTilesAtOnce, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        hash_tile(h, t / per_row, t % per_row * kTile,
                  packed + t / per_row % h.heads * head_size, own[worker.rank]);
    });
  });
  return kDone;
}

}  // namespace
}  // namespace reformer

int64_t reformer_hash_vectors(const reformer::Hashing* hashing) {
  return reformer::hash_vectors(*hashing);
}
