// Hash, sort, attend and differentiate random inputs with one thread and with several, without
// Python: the program that the thread sanitizer watches. Exits with 1 where bits differ.
//
// Every array is a heap block of its own, so the address sanitizer sees a step outside it.

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "attention.h"
#include "hash.h"
#include "sort.h"

using reformer::Strided;

namespace {

struct Shape {
  int64_t batch, heads, length, width, rounds;
};

// A contiguous [B, H, X, K] tensor.
template <class T>
struct Tensor {
  std::vector<T> data;
  int64_t heads, x, width;
  Tensor(int64_t batch, int64_t heads, int64_t x, int64_t width)
      : data(size_t(batch * heads * x * width)), heads(heads), x(x), width(width) {}
  Strided view() {
    const int64_t row = width * int64_t(sizeof(T));
    return {reinterpret_cast<char*>(data.data()), heads * x * row, x * row, row};
  }
  bool operator==(const Tensor& other) const {
    return !std::memcmp(data.data(), other.data.data(), data.size() * sizeof(T));
  }
};

struct Inputs {
  Shape shape;
  reformer::Attention attention{};  // the settings; pointers are set in `run`
  Tensor<float> query, key, value, upstream, grad_lse;
  std::vector<float> rotations, signs;
  std::vector<int64_t> factors, segments;
  bool shares_key, has_segments;

  explicit Inputs(const Shape& s)
      : shape(s), query(s.batch, s.heads, s.length, s.width),
        key(s.batch, s.heads, s.length, s.width), value(s.batch, s.heads, s.length, s.width),
        upstream(s.batch, s.heads, s.length, s.width), grad_lse(s.batch, s.heads, s.length, 1) {}
};

struct Results {
  Tensor<uint8_t> buckets;
  Tensor<int32_t> order, code;
  Tensor<float> out, lse, grad_query, grad_key, grad_value;
  explicit Results(const Shape& s)
      : buckets(s.batch, s.heads, s.rounds, s.length), order(s.batch, s.heads, s.rounds, s.length),
        code(s.batch, s.heads, s.rounds, s.length), out(s.batch, s.heads, s.length, s.width),
        lse(s.batch, s.heads, s.length, 1), grad_query(s.batch, s.heads, s.length, s.width),
        grad_key(s.batch, s.heads, s.length, s.width),
        grad_value(s.batch, s.heads, s.length, s.width) {}
  bool operator==(const Results& r) const {
    return buckets == r.buckets && order == r.order && code == r.code && out == r.out &&
           lse == r.lse && grad_query == r.grad_query && grad_key == r.grad_key &&
           grad_value == r.grad_value;
  }
};

Inputs random_inputs(unsigned seed) {
  std::mt19937 random(seed);
  const auto below = [&](int64_t n) { return int64_t(random() % uint64_t(n)); };
  const int64_t widths[] = {1, 5, 8, 16, 24, 64};
  Inputs in({1 + below(2), 1 + below(3), 1 + below(seed % 4 ? 150 : 3000), widths[below(6)],
             1 + below(3)});
  std::normal_distribution<float> normal;
  for (auto* t : {&in.query, &in.key, &in.value, &in.upstream, &in.grad_lse})
    for (float& x : t->data) x = normal(random);
  if (seed % 7 == 0) in.query.data[0] = NAN;
  in.factors = {2 + 2 * below(8), 2 + 2 * below(3)};
  in.rotations.resize(
      size_t(in.shape.heads * in.shape.width * in.shape.rounds * (in.factors[0] + in.factors[1]) / 2));
  for (float& x : in.rotations) x = normal(random);
  // Enough blocks for every round, where there is a fast product.
  const int64_t width = in.shape.width, projections = (in.factors[0] + in.factors[1]) / 2;
  if ((width == 16 || width == 64) && below(2))
    in.signs.resize(size_t(
        in.shape.heads * width * (2 + in.shape.rounds * ((projections + width - 1) / width))));
  for (float& x : in.signs) x = below(2) ? 1.0f : -1.0f;
  in.segments.resize(size_t(in.shape.batch * in.shape.length));
  for (int64_t& id : in.segments) id = below(4) - 1;
  in.shares_key = below(2);
  in.has_segments = below(2);
  reformer::Attention& a = in.attention;
  a.is_chunk_rule = below(2);
  a.window = 1 + below(80);
  a.causal = below(2);
  a.include_self = below(2);
  a.before = below(3);
  a.after = below(2);
  a.dropout_threshold = below(2) << 29;
  a.dropout_seed = seed;
  a.keep_factor = 8.0 / 7.0;
  a.scale = 0.5;
  a.key_epsilon = 1e-6;
  return in;
}

Results run(Inputs& in, int64_t threads) {
  const Shape& s = in.shape;
  Results r(s);
  const auto num_signs = int64_t(in.signs.size()) / (s.heads * s.width);
  reformer::Hashing hashing{in.query.view(), in.rotations.data(),
                            num_signs ? in.signs.data() : nullptr, r.buckets.data.data(),
                            in.factors.data(), num_signs, 2, 1, s.batch, s.heads, s.length,
                            s.width, s.rounds, 0, threads};
  reformer::Sorting sorting{r.buckets.data.data(), in.has_segments ? in.segments.data() : nullptr,
                            r.order.data.data(), r.code.data.data(), 1, 1, 0, s.batch, s.heads,
                            s.length, s.rounds, in.attention.window, threads};
  reformer::Attention a = in.attention;
  const std::vector<int32_t> segments(in.segments.begin(), in.segments.end());
  a.query = in.query.view();
  if (!in.shares_key) a.key = in.key.view();
  a.value = in.value.view();
  a.out = r.out.view();
  a.lse = r.lse.view();
  a.order = r.order.view();
  a.code = r.code.view();
  a.segments = in.has_segments ? segments.data() : nullptr;
  a.batch = s.batch, a.heads = s.heads, a.length = s.length, a.width = s.width;
  a.rounds = s.rounds, a.threads = threads;
  int64_t failed = reformer_hash_vectors(&hashing) || reformer_sort_tokens(&sorting) ||
                   reformer_attention_forward(&a);
  a.grad_out = in.upstream.view();
  a.grad_lse = in.grad_lse.view();
  a.grad_query = r.grad_query.view();
  if (!in.shares_key) a.grad_key = r.grad_key.view();
  a.grad_value = r.grad_value.view();
  failed = failed || reformer_attention_backward(&a);
  if (failed) std::exit(2);
  return r;
}

}  // namespace

int main(int count, char** words) {
  const unsigned seeds = count > 1 ? unsigned(std::atoi(words[1])) : 100;
  for (unsigned seed = 0; seed < seeds; ++seed) {
    Inputs in = random_inputs(seed);
    const Results alone = run(in, 1);
    for (int64_t threads : {2, 3, 5})
      if (!(run(in, threads) == alone)) {
        std::printf("seed %u: %lld threads give other bits\n", seed, (long long)threads);
        return 1;
      }
  }
  std::printf("%u inputs: the same bits with 1, 2, 3 and 5 threads\n", seeds);
}
