// One (batch, head) row of the op, with the small tables that its rounds share.
#pragma once

#include <algorithm>
#include <cmath>

#include "arena.h"
#include "attention.h"
#include "parallel.h"
#include "rows.h"

namespace reformer {

// Tokens with numbers that are not finite, found only after a pass has met some: a second pass
// reads their rows as zeros, and exact.h gives them the effect they should have.
enum Bad : uint8_t { kBadQuery = 1, kBadKey = 2 };

// Tables of one head, shared by the team that works on it.
struct HeadTables {
  int32_t* order;   // [R, L]: copy of a wide order
  int32_t* codes;   // [L, R]: window rule, all codes of a token side by side; places, if wide
  int32_t* runs;    // [L, R]: window rule with wide codes, the runs of a token
  uint8_t* starts;  // [R, L]: window rule, place p begins a run
  float* inverse;   // [L]: shared keys, what makes a query a key
  uint8_t* bad;     // [L]

  static HeadTables carve(Arena& arena, const Attention& a) {
    const int64_t all = a.rounds * a.length, by_code = a.order.data && !a.is_chunk_rule;
    HeadTables t{};
    t.order = arena.take<int32_t>(a.order.data && a.is_wide_order ? all : 0);
    t.codes = arena.take<int32_t>(by_code ? all : 0);
    t.runs = arena.take<int32_t>(by_code && a.is_wide_order ? all : 0);
    t.starts = arena.take<uint8_t>(by_code ? all : 0);
    t.inverse = arena.take<float>(a.shares_key() ? a.length : 0);
    t.bad = arena.take<uint8_t>(a.length);
    return t;
  }
};

struct Head {
  const Attention& a;
  const int64_t batch, head;
  const HeadTables tables;
  bool has_bad = false;

  Head(const Attention& a, int64_t row, const HeadTables& tables)
      : a(a), batch(row / a.heads), head(row % a.heads), tables(tables) {}

  int64_t row() const { return batch * a.heads + head; }
  // Window lengths past the sequence mean the same as the sequence's length.
  int64_t window() const { return std::min(a.window, a.length); }

  const char* query(int64_t token) const { return a.query.at(batch, head, token); }
  const char* value(int64_t token) const { return a.value.at(batch, head, token); }
  const char* upstream(int64_t token) const { return a.grad_out.at(batch, head, token); }
  const char* key(int64_t token) const {
    return a.shares_key() ? query(token) : a.key.at(batch, head, token);
  }
  float key_factor(int64_t token) const { return a.shares_key() ? tables.inverse[token] : 1.0f; }

  // Rows as float32, padded. Those of bad tokens are zeros.
  void load_query(int64_t token, float* to) const { load(query(token), token, kBadQuery, 1.0f, to); }
  void load_upstream(int64_t token, float* to) const {
    load(upstream(token), token, kBadQuery, 1.0f, to);
  }
  void load_key(int64_t token, float* to) const {
    load(key(token), token, kBadKey, key_factor(token), to);
  }
  void load_value(int64_t token, float* to) const { load(value(token), token, kBadKey, 1.0f, to); }
  // The same as it is, whatever it holds.
  void load_raw(const char* row, float factor, float* to) const {
    load_row(row, a.is_bfloat16, a.width, factor, to);
  }

  // Asks for what a tile will gather of the token that stands a few tiles further on. Places in
  // an order are tokens far apart, which the hardware cannot foresee.
  template <class PrefetchMore>
  REFORMER_INLINE void prefetch(int64_t round, int64_t place, const PrefetchMore& more) const {
    if (!a.order.data || place + kAhead >= a.length) return;
    const int64_t ahead = order(round)[place + kAhead];
    const int64_t bytes = a.width * (a.is_bfloat16 ? 2 : 4);
    prefetch_row(query(ahead), bytes);
    prefetch_row(value(ahead), bytes);
    if (!a.shares_key()) prefetch_row(key(ahead), bytes);
    if (tables.codes) prefetch_row(tables.codes + ahead * a.rounds, a.rounds * 4);
    more(ahead);
  }
  static constexpr int64_t kAhead = 24;

  float& lse(int64_t token) const {
    return *reinterpret_cast<float*>(a.lse.at(batch, head, token));
  }
  int32_t segment(int64_t token) const {
    return a.segments ? a.segments[batch * a.length + token] : 0;
  }
  // The order of a round, or null for the identity.
  const int32_t* order(int64_t round) const {
    if (!a.order.data) return nullptr;
    if (a.is_wide_order) return tables.order + round * a.length;
    return reinterpret_cast<const int32_t*>(a.order.at(batch, head, round));
  }
  int64_t token(int64_t round, int64_t place) const {
    return a.order.data ? order(round)[place] : place;
  }
  const uint8_t* starts(int64_t round) const {
    return tables.starts ? tables.starts + round * a.length : nullptr;
  }
  int64_t code(int64_t round, int64_t token) const {
    if (!a.code.data) return token;
    const char* codes = a.code.at(batch, head, round);
    return a.is_wide_order ? reinterpret_cast<const int64_t*>(codes)[token]
                           : reinterpret_cast<const int32_t*>(codes)[token];
  }

  // Fills the tables, save `bad`; row_scratch holds one padded row. Ends with a barrier.
  void prepare(Worker& worker, float* row_scratch) const {
    for (int64_t round = worker.rank; round < a.rounds; round += worker.size) {
      if (tables.order) narrow_order(round);
      if (tables.codes) tabulate_codes(round);
    }
    if (a.shares_key()) {
      const int64_t end = a.length * (worker.rank + 1) / worker.size;
      for (int64_t token = a.length * worker.rank / worker.size; token < end; ++token) {
        load_raw(query(token), 1.0f, row_scratch);
        tables.inverse[token] = inverse_norm(row_scratch);
      }
    }
    worker.barrier();
  }

 private:
  REFORMER_INLINE void load(const char* row, int64_t token, uint8_t bad, float factor,
                            float* to) const {
    if (has_bad && (tables.bad[token] & bad))
      std::fill_n(to, padded_width(a.width), 0.0f);
    else
      load_row(row, a.is_bfloat16, a.width, factor, to);
  }

  // 1 / sqrt(mean q^2 + epsilon) / sqrt(K): the factor from query to key.
  float inverse_norm(const float* query) const {
    const float square = dot(query, query, padded_width(a.width)) / float(a.width);
    return 1.0f / std::sqrt(square + float(a.key_epsilon)) / std::sqrt(float(a.width));
  }

  void narrow_order(int64_t round) const {
    const auto* wide = reinterpret_cast<const int64_t*>(a.order.at(batch, head, round));
    for (int64_t p = 0; p < a.length; ++p)
      tables.order[round * a.length + p] = static_cast<int32_t>(wide[p]);
  }

  void tabulate_codes(int64_t round) const {
    const int32_t* tokens = order(round);
    int64_t previous = -1;
    int32_t run = -1;
    for (int64_t p = 0; p < a.length; ++p) {
      const int64_t token = tokens[p], now = code(round, token), at = token * a.rounds + round;
      const bool starts = p == 0 || now != previous + 1;
      run += starts;
      tables.starts[round * a.length + p] = starts;
      tables.codes[at] = static_cast<int32_t>(tables.runs ? p : now);
      if (tables.runs) tables.runs[at] = run;
      previous = now;
    }
  }
};

}  // namespace reformer
