// Attention of new tokens to growing sequences; the definition is in ops/decode.py.
//
// A call appends the new tokens of every sequence (keys, values, links) and then lets each of
// them attend. Links lead to earlier tokens only, so the two steps need no order among tokens.
// A token's own link is the start of one walk per round; the walks are merged from the latest
// token backwards, which meets a token that several rounds show exactly once. Scores are
// combined with a running maximum and sum, block by block, so memory is a block's, and a
// result depends on what a token sees alone: not on threads, nor on how tokens were portioned.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "parallel.h"
#include "simd.h"
#include "unit_key.h"

namespace reformer::appending {

using reformer::Worker;

inline constexpr int64_t kBlock = 64;
// Fewer multiplications than this are done by one thread: waking others costs more.
inline constexpr int64_t kParallelWork = 1 << 18;
inline constexpr double kKeyEpsilon = 1e-6;

struct Decode {
  const float* query;              // [T, H, K]
  const float* key;                // [T, H, K]; unused with rounds: keys are unit queries
  const float* value;              // [T, H, K]
  const int32_t* buckets;          // [T, H, R]
  float* out;                      // [T, H, K]
  const int64_t* first_row;        // [S + 1]: a sequence's rows among the T
  const int64_t* length;           // [S]: tokens it held before
  const int64_t* first_segment;    // [S + 1]: its segments among all
  const int64_t* segment_start;    // the first token of each segment
  float* const* segment_key;       // each [tokens, H, K]
  float* const* segment_value;     // each [tokens, H, K]
  int32_t* const* segment_link;    // each [tokens, H, R]
  int32_t* const* segment_bucket;  // each [tokens, H, R]
  int32_t* const* last;            // [S], each [H, R, N]
  // rounds 0: local attention to the last `window` tokens.
  // ahead: how many places after a token the value stands that it gives to others.
  int64_t sequences, heads, width, rounds, num_buckets, window, ahead;
  double scale;
  int64_t threads;
};

// Finds the segment of a token; neighbouring questions usually have the same answer.
class Places {
 public:
  Places(const Decode& d, int64_t sequence)
    : d_(d), low_(d.first_segment[sequence]), high_(d.first_segment[sequence + 1]),
          at_(high_ - 1) {}

  // Afterwards segment() holds the token, at offset().
  void find(int64_t token) {
    const bool here = d_.segment_start[at_] <= token &&
                          (at_ + 1 == high_ || token < d_.segment_start[at_ + 1]);
    if (!here) {
      const int64_t* begin = d_.segment_start + low_;
      const int64_t* end = d_.segment_start + high_;
      at_ = std::upper_bound(begin, end, token) - d_.segment_start - 1;
    }
    offset_ = token - d_.segment_start[at_];
  }
  int64_t segment() const { return at_; }
  int64_t offset() const { return offset_; }

 private:
  const Decode& d_;
  int64_t low_, high_, at_, offset_ = 0;
};

inline float dot(const float* a, const float* b, int64_t count) {
  Floats sums{};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) sums += load(a + i) * load(b + i);
  float total = sum(sums);
  for (; i < count; ++i) total += a[i] * b[i];
  return total;
}

// a += factor * b
inline void add_scaled(float* a, float factor, const float* b, int64_t count) {
  const Floats factors = splat(factor);
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) store(a + i, load(a + i) + factors * load(b + i));
  for (; i < count; ++i) a[i] += factor * b[i];
}

inline void write_token(const Decode& d, int64_t sequence, int64_t row, int64_t token, Places& places) {
  places.find(token);
  const int64_t segment = places.segment(), size = d.heads * d.width;
  float* key = d.segment_key[segment] + places.offset() * size;
  std::memcpy(d.segment_value[segment] + places.offset() * size, d.value + row * size,
        size * sizeof(float));
  if (d.rounds == 0) {
    std::memcpy(key, d.key + row * size, size * sizeof(float));
    return;
  }
  for (int64_t head = 0; head < d.heads; ++head) {
    const float* from = d.query + row * size + head * d.width;
    const float factor = unit_key_factor(dot(from, from, d.width), d.width, kKeyEpsilon);
    for (int64_t i = 0; i < d.width; ++i) key[head * d.width + i] = from[i] * factor;
    const int64_t place = (places.offset() * d.heads + head) * d.rounds;
    for (int64_t round = 0; round < d.rounds; ++round) {
      const int32_t bucket = d.buckets[(row * d.heads + head) * d.rounds + round];
      int32_t& last =
        d.last[sequence][(head * d.rounds + round) * d.num_buckets + bucket];
      d.segment_bucket[segment][place + round] = bucket;
      d.segment_link[segment][place + round] = last;
      last = (int32_t)token;
    }
  }
}

// Softmax attention of one query, fed with keys and values a few at a time.
class Softmax {
 public:
  Softmax(const float* query, float* out, int64_t width, float scale)
    : query_(query), out_(out), width_(width), scale_(scale) {
    std::fill(out, out + width, 0.0f);
  }

  void add(const float* key, const float* value) {
    __builtin_prefetch(key);
    __builtin_prefetch(value);
    keys_[count_] = key;
    values_[count_++] = value;
    if (count_ == kBlock) flush();
  }

  void finish() {
    flush();
    const float inverse = 1.0f / sum_;
    for (int64_t i = 0; i < width_; ++i) out_[i] *= inverse;
  }

 private:
  void flush() {
    if (count_ == 0) return;
    float scores[kBlock], largest = largest_;
    for (int64_t j = 0; j < count_; ++j) {
      scores[j] = scale_ * dot(query_, keys_[j], width_);
      largest = std::max(largest, scores[j]);
    }
    if (largest > largest_ && sum_ > 0) {
      const float factor = std::exp(largest_ - largest);
      sum_ *= factor;
      for (int64_t i = 0; i < width_; ++i) out_[i] *= factor;
    }
    largest_ = largest;
    for (int64_t j = 0; j < count_; ++j) {
      const float weight = std::exp(scores[j] - largest);
      const float* value = values_[j];
      sum_ += weight;
      add_scaled(out_, weight, value, width_);
    }
    count_ = 0;
  }

  const float* query_;
  float* out_;
  int64_t width_, count_ = 0;
  float scale_, sum_ = 0, largest_ = -std::numeric_limits<float>::infinity();
  const float* keys_[kBlock];
  const float* values_[kBlock];
};

// The walks of all rounds, merged: hands out each token that is seen once, latest first.
template <class See>
int64_t walk(const Decode& d, Places& places, int64_t token, int64_t head, See see) {
  std::vector<int32_t> at(d.rounds);
  std::vector<int64_t> steps(d.rounds, d.window - 1);
  int64_t seen = 0;
  const auto links = [&] {
    return d.segment_link[places.segment()] +
               (places.offset() * d.heads + head) * d.rounds;
  };
  places.find(token);
  for (int64_t round = 0; round < d.rounds; ++round)
    at[round] = steps[round] > 0 ? links()[round] : -1;
  for (;;) {
    const int32_t latest = *std::max_element(at.begin(), at.end());
    if (latest < 0) return seen;
    places.find(latest);
    see(latest);
    ++seen;
    for (int64_t round = 0; round < d.rounds; ++round)
      if (at[round] == latest) at[round] = --steps[round] > 0 ? links()[round] : -1;
  }
}

inline void attend(const Decode& d, int64_t sequence, int64_t row, int64_t token, int64_t head) {
  const int64_t place = (row * d.heads + head) * d.width;
  Places keys(d, sequence), values(d, sequence);
  Softmax softmax(d.query + place, d.out + place, d.width, (float)d.scale);
  const auto see = [&](int64_t from, int64_t ahead) {
    keys.find(from);
    values.find(from + ahead);
    const auto at = [&](const Places& p) { return (p.offset() * d.heads + head) * d.width; };
    softmax.add(d.segment_key[keys.segment()] + at(keys),
                d.segment_value[values.segment()] + at(values));
  };
  if (d.rounds == 0) {
    for (int64_t key = std::max<int64_t>(0, token - d.window + 1); key <= token; ++key) see(key, 0);
  } else if (walk(d, keys, token, head, [&](int64_t from) { see(from, d.ahead); }) == 0) {
    see(token, 0);
  }
  softmax.finish();
}

// The new tokens of every sequence: their keys, values and links.
inline void write_tokens(const Decode& d) {
  for (int64_t s = 0; s < d.sequences; ++s) {
    Places places(d, s);
    for (int64_t row = d.first_row[s]; row < d.first_row[s + 1]; ++row)
      write_token(d, s, row, d.length[s] + row - d.first_row[s], places);
  }
}

// Which sequence a row of the T belongs to.
inline int64_t sequence_of(const Decode& d, int64_t row) {
  return std::upper_bound(d.first_row, d.first_row + d.sequences + 1, row) - d.first_row - 1;
}

// A worker's share of the attention of all new tokens.
inline void attend_share(const Decode& d, const Worker& worker) {
  const int64_t items = d.first_row[d.sequences] * d.heads;
  for (int64_t item = worker.rank; item < items; item += worker.size) {
    const int64_t row = item / d.heads, s = sequence_of(d, row);
    attend(d, s, row, d.length[s] + row - d.first_row[s], item % d.heads);
  }
}

// Multiplications of that attention, at most.
inline int64_t attention_work(const Decode& d) {
  const int64_t keys = std::min<int64_t>(d.window, 1 << 16) * std::max<int64_t>(d.rounds, 1);
  return d.first_row[d.sequences] * d.heads * keys * d.width;
}

}  // namespace reformer::appending
