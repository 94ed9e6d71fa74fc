// One whole layer for a few new tokens of cached sequences: norms, projections, hashing,
// attention, feed-forward and the exact streams in one call, so that what a token costs is
// arithmetic. The definition is nn/append.py; a token's bits do not depend on its neighbours.

#include <cmath>
#include <new>
#include <vector>

#include "append.h"

namespace reformer::appending {
namespace {

struct Layer {
  int32_t *first, *second;  // the streams [T, D], on the grid
  const float *attention_norm_weight, *attention_norm_bias;
  const float *query_weight, *key_weight, *value_weight, *output_weight;  // no key: LSH
  const float *feed_forward_norm_weight, *feed_forward_norm_bias;
  const float *inner_weight, *inner_bias, *outer_weight, *outer_bias;
  const float *cosine, *sine;  // [T, K / 2], or null
  const float* rotations;      // [H, K, R, P], P = half the sum of the factors
  const int64_t* factors;
  int64_t num_factors, hidden, inner, is_relu;
  double norm_epsilon, unit;
  Decode decode;  // its query, key, value, buckets and out are filled in here
};

// Why a layer stopped: the numbers of its results.
enum Outcome : int64_t { kDone = 0, kNoMemory = 1, kAttentionRange = 2, kFeedForwardRange = 3 };

struct Range {
  int64_t begin, end;
};

// A worker's part of `count` things, in whole blocks of four.
Range share(int64_t count, const Worker& worker) {
  const int64_t blocks = (count + 3) / 4;
  const int64_t begin = blocks * worker.rank / worker.size * 4;
  const int64_t end = blocks * (worker.rank + 1) / worker.size * 4;
  return {std::min(begin, count), std::min(end, count)};
}

struct Scratch {
  explicit Scratch(const Layer& l, int64_t rows, int64_t heads_width, int64_t rounds, int64_t heads)
      : read(rows * l.hidden), query(rows * heads_width), key(l.key_weight ? query.size() : 0),
        value(query.size()), out(query.size()), branch(rows * l.hidden), inner(rows * l.inner),
        buckets(rows * heads * rounds) {}
  std::vector<float> read, query, key, value, out, branch, inner;
  std::vector<int32_t> buckets;
};

// read = norm(stream), row by row.
void normalize(const Layer& l, const int32_t* stream, const float* weight, const float* bias,
               float* read, int64_t rows, const Worker& worker) {
  const float step = float(1.0 / l.unit);
  for (int64_t row = worker.rank; row < rows; row += worker.size) {
    const int32_t* from = stream + row * l.hidden;
    float* to = read + row * l.hidden;
    double sum = 0, squares = 0;
    for (int64_t i = 0; i < l.hidden; ++i) sum += to[i] = from[i] * step;
    const double mean = sum / l.hidden;
    for (int64_t i = 0; i < l.hidden; ++i) squares += (to[i] - mean) * (to[i] - mean);
    const float scale = float(1.0 / std::sqrt(squares / l.hidden + l.norm_epsilon));
    for (int64_t i = 0; i < l.hidden; ++i) to[i] = (to[i] - float(mean)) * scale * weight[i] + bias[i];
  }
}

// y[T, outputs] = x[T, inputs] W^T + bias. Every output is one sum in one order.
void linear(const float* x, int64_t rows, int64_t inputs, const float* weight, const float* bias,
            int64_t outputs, float* y, const Worker& worker) {
  const Range mine = share(outputs, worker);
  for (int64_t o = mine.begin; o < mine.end; o += 4) {
    const int64_t count = std::min<int64_t>(4, mine.end - o);
    for (int64_t row = 0; row < rows; ++row) {
      const float* from = x + row * inputs;
      Floats sums[4] = {};
      float rest[4] = {};
      int64_t i = 0;
      for (; i + kLanes <= inputs; i += kLanes)
        for (int64_t n = 0; n < 4; ++n)
          sums[n] += load(from + i) * load(weight + (o + std::min(n, count - 1)) * inputs + i);
      for (; i < inputs; ++i)
        for (int64_t n = 0; n < count; ++n) rest[n] += from[i] * weight[(o + n) * inputs + i];
      for (int64_t n = 0; n < count; ++n)
        y[row * outputs + o + n] = sum(sums[n]) + rest[n] + (bias ? bias[o + n] : 0.0f);
    }
  }
}

// Turns the pairs (x_m, x_{m + K/2}) of one head.
void rotate(float* x, const float* cosine, const float* sine, int64_t width) {
  const int64_t half = width / 2;
  for (int64_t m = 0; m < half; ++m) {
    const float a = x[m], b = x[m + half];
    x[m] = a * cosine[m] - b * sine[m];
    x[m + half] = a * sine[m] + b * cosine[m];
  }
}

// The buckets of one head's vector: argmax of its projections and their negatives, by factors.
void hash(const Layer& l, const float* x, int64_t head, int32_t* buckets, float* projected) {
  const Decode& d = l.decode;
  int64_t half = 0;
  for (int64_t f = 0; f < l.num_factors; ++f) half += l.factors[f] / 2;
  const int64_t count = d.rounds * half;
  std::fill(projected, projected + count, 0.0f);
  const float* rotations = l.rotations + head * d.width * count;
  for (int64_t k = 0; k < d.width; ++k) add_scaled(projected, x[k], rotations + k * count, count);
  for (int64_t round = 0; round < d.rounds; ++round) {
    const float* part = projected + round * half;
    int64_t bucket = 0, stride = 1;
    for (int64_t f = 0; f < l.num_factors; ++f) {
      const int64_t size = l.factors[f] / 2;
      const float *high = std::max_element(part, part + size), *low = std::min_element(part, part + size);
      if (size > 0) bucket += stride * (-*low > *high ? size + (low - part) : high - part);
      part += size;
      stride *= l.factors[f];
    }
    buckets[round] = int32_t(bucket);
  }
}

// Rotary positions or hashing, head by head.
void prepare_heads(const Layer& l, Scratch& s, int64_t rows, const Worker& worker) {
  const Decode& d = l.decode;
  int64_t projections = 0;
  for (int64_t f = 0; f < l.num_factors; ++f) projections += d.rounds * (l.factors[f] / 2);
  std::vector<float> projected(projections);
  for (int64_t item = worker.rank; item < rows * d.heads; item += worker.size) {
    float* query = s.query.data() + item * d.width;
    if (d.rounds > 0)
      hash(l, query, item % d.heads, s.buckets.data() + item * d.rounds, projected.data());
    if (l.cosine == nullptr) continue;
    const int64_t angles = item / d.heads * (d.width / 2);
    rotate(query, l.cosine + angles, l.sine + angles, d.width);
    rotate(s.key.data() + item * d.width, l.cosine + angles, l.sine + angles, d.width);
  }
}

// stream += branch, on the grid; false when a value leaves half the range or is not a number.
bool add_to_stream(const Layer& l, const float* branch, int32_t* stream, int64_t count) {
  const float unit = float(l.unit), limit = float(2147483647.0 / l.unit / 2);
  bool inside = true;
  for (int64_t i = 0; i < count; ++i) {
    const bool fits = std::fabs(branch[i]) < limit;
    const int64_t total = int64_t(stream[i]) + (fits ? int64_t(std::nearbyintf(branch[i] * unit)) : 0);
    inside = inside && fits && total <= 1073741823 && total >= -1073741823;
    stream[i] = int32_t(std::min<int64_t>(std::max<int64_t>(total, -1073741823), 1073741823));
  }
  return inside;
}

void activate(float* x, int64_t count, bool is_relu, const Worker& worker) {
  const Range mine = share(count, worker);
  for (int64_t i = mine.begin; i < mine.end; ++i)
    x[i] = is_relu ? std::max(x[i], 0.0f) : 0.5f * x[i] * (1.0f + std::erf(x[i] * 0.70710678f));
}

int64_t run(Layer& l) {
  Decode& d = l.decode;
  const int64_t rows = d.first_row[d.sequences], size = d.heads * d.width;
  Scratch s(l, rows, size, d.rounds, d.heads);
  d.query = s.query.data();
  d.key = l.key_weight ? s.key.data() : nullptr;
  d.value = s.value.data();
  d.buckets = s.buckets.data();
  d.out = s.out.data();
  const int64_t weights = 4 * size * l.hidden + 2 * l.inner * l.hidden;
  const bool shared = rows * weights + attention_work(d) > 4 * kParallelWork;
  int64_t outcome = kDone;
  parallel(shared ? int(d.threads) : 1, [&](Worker worker) {
    normalize(l, l.second, l.attention_norm_weight, l.attention_norm_bias, s.read.data(), rows, worker);
    worker.barrier();
    linear(s.read.data(), rows, l.hidden, l.query_weight, nullptr, size, s.query.data(), worker);
    if (l.key_weight)
      linear(s.read.data(), rows, l.hidden, l.key_weight, nullptr, size, s.key.data(), worker);
    linear(s.read.data(), rows, l.hidden, l.value_weight, nullptr, size, s.value.data(), worker);
    worker.barrier();
    prepare_heads(l, s, rows, worker);
    worker.barrier();
    if (worker.rank == 0) write_tokens(d);
    worker.barrier();
    attend_share(d, worker);
    worker.barrier();
    linear(s.out.data(), rows, size, l.output_weight, nullptr, l.hidden, s.branch.data(), worker);
    worker.barrier();
    if (worker.rank == 0 && !add_to_stream(l, s.branch.data(), l.first, rows * l.hidden))
      outcome = kAttentionRange;
    worker.barrier();
    normalize(l, l.first, l.feed_forward_norm_weight, l.feed_forward_norm_bias, s.read.data(), rows, worker);
    worker.barrier();
    linear(s.read.data(), rows, l.hidden, l.inner_weight, l.inner_bias, l.inner, s.inner.data(), worker);
    worker.barrier();
    activate(s.inner.data(), rows * l.inner, l.is_relu, worker);
    worker.barrier();
    linear(s.inner.data(), rows, l.inner, l.outer_weight, l.outer_bias, l.hidden, s.branch.data(), worker);
    worker.barrier();
    if (worker.rank == 0 && outcome == kDone &&
        !add_to_stream(l, s.branch.data(), l.second, rows * l.hidden))
      outcome = kFeedForwardRange;
  });
  return outcome;
}

}  // namespace
}  // namespace reformer::appending

extern "C" __attribute__((visibility("default"))) int64_t reformer_append_layer(void* arguments) {
  try {
    using namespace reformer::appending;
    return run(*static_cast<Layer*>(arguments));
  } catch (const std::bad_alloc&) {
    return 1;
  }
}
