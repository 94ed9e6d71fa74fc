// What the backward keeps of every token of a head, and what it does to each of them before the
// rounds and after them.
#pragma once

#include "exact.h"
#include "head.h"
#include "spans.h"

namespace reformer {

// What the rounds have done with a token.
enum State : int32_t { kUntouched, kHasSums, kSawSomeone };

struct TokenGradients {
  HeadTables tables;
  // Sums, where the gradient tensors cannot hold them. Shared keys' go to their queries', values'
  // to those who give them.
  FloatRows query, key, value;
  PerToken<char> upstream;      // rows, copied if there is an order
  PerToken<float> offset, lse;
  PerToken<int32_t> state;
  int64_t* not_finite;

  static TokenGradients carve(Arena& arena, const Attention& a) {
    const int64_t padded = padded_width(a.width), apart = sums_in_place(a) ? 0 : padded;
    TokenGradients s{};
    s.tables = HeadTables::carve(arena, a, [&](Records& records, const auto& take_tables) {
      s.query = records.take<float>(apart);
      s.key = records.take<float>(a.shares_key() ? 0 : apart);
      s.value = records.take<float>(apart);
      s.upstream = records.take<char>(a.order.data ? row_bytes(a) : 0);
      take_tables();
      s.offset = records.take<float>(1);
      s.lse = records.take<float>(1);
      s.state = records.take<int32_t>(1);
    });
    s.not_finite = arena.take<int64_t>(1);
    return s;
  }
};

inline GradientSums sums_of(const Head& head, const TokenGradients& s) {
  const auto apart_or = [&](const FloatRows& apart, const Strided& tensor) {
    return apart.data ? apart : rows_of<float>(tensor, head.batch, head.head);
  };
  const FloatRows query = apart_or(s.query, head.a.grad_query);
  return {query, head.a.shares_key() ? query : apart_or(s.key, head.a.grad_key),
          apart_or(s.value, head.a.grad_value)};
}

inline PerToken<char> upstream_of(const Head& head, const TokenGradients& s) {
  return s.upstream.data ? s.upstream : rows_of<char>(head.a.grad_out, head.batch, head.head);
}

// Clears the sums of a token that no round has touched: in the first round, whose order brings
// them to the cache anyway.
REFORMER_INLINE void begin_sums(const Attention& a, const GradientSums& sums,
                                const PerToken<int32_t>& state, int64_t token) {
  if (state[token] != kUntouched) return;
  state[token] = kHasSums;
  const size_t bytes = size_t(padded_width(a.width)) * 4;
  std::memset(sums.query(token), 0, bytes);
  std::memset(sums.value(token), 0, bytes);
  if (!a.shares_key()) std::memset(sums.key(token), 0, bytes);
}

// What a shared key's gradient adds to its query's, through the key's normalisation
// k = q / sqrt(mean(q^2) + epsilon) / sqrt(K), whose Jacobian is inverse (1 - k k^T). Rows.
REFORMER_INLINE void add_through_key(const Attention& a, const float* gradient, const float* key,
                                     float inverse, float* sum_of_query) {
  const int64_t padded = padded_width(a.width);
  const float along = dot(gradient, key, padded);
  const auto across = [&](int64_t k) { return load(gradient + k) - splat(along) * load(key + k); };
  float more = 0.0f;
  if (padded == kLanes) {
    // Most of what is left of a narrow row can be rounding; epsilon leaves 1 - |k|^2 of `along`.
    const float left = float(a.width) * float(a.key_epsilon) * inverse * inverse;
    more = sum(across(0) * load(key)) - along * left;
  }
  for (int64_t k = 0; k < padded; k += kLanes) {
    const Floats rest = across(k) - splat(more) * load(key + k);
    store(sum_of_query + k, load(sum_of_query + k) + rest * splat(inverse));
  }
}

// Per token: before the rounds, its record and offset; after them, what is left to add.
class TokenPass {
 public:
  TokenPass(const Head& head, const TokenGradients& shared, float* scratch)
      : head_(head), a_(head.a), padded_(padded_width(a_.width)), shared_(shared),
        sums_(sums_of(head, shared)), query_(scratch), key_(query_ + padded_),
        value_(key_ + padded_), given_to_none_(value_ + padded_),
        up_(given_to_none_ + padded_), out_(up_ + kTogether * padded_) {
    static_assert(4 + 2 * kTogether <= kSpan, "the rows of the scratch");
  }

  void prepare(int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; token += kTogether) {
      const int64_t count = std::min(kTogether, end - token);
      float offsets[kTogether];
      for (int64_t i = 0; i < count; ++i) {
        head_.fill_record(token + i, query_);
        load_outcome(token + i, i);
      }
      // A query that sees one key takes its whole value: its do . o is then do . v exactly.
      dots_in_order<kTogether>(up_, out_, padded_, offsets);
      for (int64_t i = 0; i < count; ++i) prepare(token + i, offsets[i]);
    }
  }

  void finish(int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      if (shared_.query.data && token + kSoon < a_.length) prefetch_sums(token + kSoon);
      finish(token);
    }
  }

 private:
  static constexpr int64_t kTogether = 8;
  static constexpr int64_t kSoon = 8;  // tokens from asking for sums to their use

  // Of a record only what `finish` reads.
  void prefetch_sums(int64_t token) const {
    const int64_t bytes = padded_ * 4;
    prefetch_row(sums_.query(token), bytes);
    prefetch_row(sums_.value(token), bytes);
    if (!a_.shares_key()) prefetch_row(sums_.key(token), bytes);
    prefetch_row(shared_.state(token), 4);
  }

  void load_outcome(int64_t token, int64_t slot) {
    const char* upstream = a_.grad_out.at(head_.batch, head_.head, token);
    if (shared_.upstream.data)
      std::memcpy(shared_.upstream(token), upstream, size_t(row_bytes(a_)));
    head_.load_raw(upstream, 1.0f, up_ + slot * padded_);
    head_.load_raw(a_.out.at(head_.batch, head_.head, token), 1.0f, out_ + slot * padded_);
  }

  void prepare(int64_t token, float offset) {
    const float grad_lse = *reinterpret_cast<float*>(
        a_.grad_lse.at(head_.batch, head_.head, token));
    shared_.offset[token] = offset - grad_lse;
    shared_.lse[token] = head_.lse(token);
    if (head_.has_bad && (shared_.tables.bad[token] & kBadQuery)) {
      shared_.offset[token] = 0.0f;
      shared_.lse[token] = INFINITY;  // every weight is then zero
    }
    shared_.state[token] = kUntouched;
  }

  void finish(int64_t token) {
    float *query = sums_.query(token), *key = sums_.key(token), *value = sum_of_value(token);
    if (shared_.state[token] != kSawSomeone) add_alone(token, query, key, value);
    Ints not_finite{};
    for (int64_t k = 0; k < padded_; k += kLanes)
      not_finite |= is_not_finite(load(query + k)) | is_not_finite(load(key + k)) |
                    is_not_finite(load(value + k));
    if (any(not_finite)) __atomic_store_n(shared_.not_finite, 1, __ATOMIC_RELAXED);
    put(shared_.query, a_.grad_query, token, query);
    put(shared_.value, a_.grad_value, token, value);
    if (!a_.shares_key()) put(shared_.key, a_.grad_key, token, key);
  }

  // Zeros where nobody gives the token's value.
  float* sum_of_value(int64_t token) {
    if (const int64_t giver = head_.giver(token); giver >= 0) return sums_.value(giver);
    std::memset(given_to_none_, 0, size_t(padded_) * 4);
    return given_to_none_;
  }

  // A query that saw nobody took its own value with weight one; its lse is its own score.
  void add_alone(int64_t token, float* grad_query, float* grad_key, float* grad_value) {
    if (head_.has_bad && (shared_.tables.bad[token] & kBadQuery)) {
      for (float* row : {grad_key, grad_value}) std::fill_n(row, a_.width, NAN);
      return;
    }
    head_.load_query(token, query_);
    head_.load_key(token, key_);
    head_.load_own_value(token, value_);
    head_.load_upstream(upstream_of(head_, shared_)(token), token, up_);
    float along;
    dots_in_order<1>(up_, value_, padded_, &along);
    const float slope = (along - shared_.offset[token]) * float(a_.scale);
    for (int64_t k = 0; k < padded_; ++k) {
      grad_query[k] += slope * key_[k];
      grad_value[k] += up_[k];
      query_[k] *= slope;
      if (!a_.shares_key()) grad_key[k] += query_[k];
    }
    if (a_.shares_key())
      add_through_key(a_, query_, key_, head_.key_factor(token), grad_query);
  }

  void put(const FloatRows& scratch, const Strided& tensor, int64_t token, const float* row) {
    if (scratch.data)
      store_row(row, a_.is_bfloat16, a_.width, tensor.at(head_.batch, head_.head, token));
  }

  const Head& head_;
  const Attention& a_;
  const int64_t padded_;
  const TokenGradients& shared_;
  const GradientSums sums_;
  float *query_, *key_, *value_, *given_to_none_;  // rows of one token
  float *up_, *out_;              // of kTogether tokens
};

}  // namespace reformer
