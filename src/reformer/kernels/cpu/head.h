// One (batch, head) row of the op, with the small tables that its rounds share.
#pragma once

#include <algorithm>

#include "arena.h"
#include "attention.h"
#include "parallel.h"
#include "records.h"
#include "unit_key.h"

namespace reformer {

// Tokens with numbers that are not finite, found only after a pass has met some: a second pass
// reads their rows as zeros, and exact.h gives them the effect they should have.
enum Bad : uint8_t { kBadQuery = 1, kBadKey = 2 };

// Tables of one head, shared by the team that works on it.
struct HeadTables {
  int32_t* order;   // [R, L]: copy of a wide order
  uint8_t* starts;  // [R, L]: window rule, place p begins a run
  uint8_t* bad;     // [L]
  // Fields of every token's record.
  PerToken<char> query, key, value;  // rows of the tensors, copied if there is an order
  PerToken<int32_t> codes, runs;     // [R]: window rule; of wide codes, places and runs
  PerToken<float> inverse;           // shared keys: what makes a query a key
  PerToken<char> record;             // all of it

  // take_fields(records, take_own) takes the fields of whoever shares the records, and these by
  // calling take_own().
  template <class TakeFields>
  static HeadTables carve(Arena& arena, const Attention& a, const TakeFields& take_fields) {
    const int64_t by_code = a.order.data && !a.is_chunk_rule, is_wide = a.is_wide_order != 0;
    const int64_t row = a.order.data ? row_bytes(a) : 0;
    HeadTables t{};
    t.order = arena.take<int32_t>(a.order.data && is_wide ? a.rounds * a.length : 0);
    t.starts = arena.take<uint8_t>(by_code ? a.rounds * a.length : 0);
    t.bad = arena.take<uint8_t>(a.length);
    t.record = carve_records(arena, a.length, [&](Records& records) {
      take_fields(records, [&] {
        t.query = records.take<char>(row);
        t.key = records.take<char>(a.shares_key() ? 0 : row);
        t.value = records.take<char>(row);
        t.codes = records.take<int32_t>(by_code * a.rounds);
        t.runs = records.take<int32_t>(by_code * is_wide * a.rounds);
        t.inverse = records.take<float>(a.shares_key());
      });
    });
    return t;
  }
};

struct Head {
  const Attention& a;
  const int64_t batch, head;
  const HeadTables tables;
  bool has_bad = false;
  // Rows, in the tensors' dtype. A value is what the token gives to those who see it.
  const PerToken<char> query, key, value;

  Head(const Attention& a, int64_t row, const HeadTables& tables)
      : a(a), batch(row / a.heads), head(row % a.heads), tables(tables),
        query(copied_or(tables.query, a.query)),
        key(a.shares_key() ? query : copied_or(tables.key, a.key)),
        value(copied_or(tables.value, a.value)) {}

  int64_t row() const { return batch * a.heads + head; }
  // Window lengths past the sequence mean the same as the sequence's length.
  int64_t window() const { return std::min(a.window, a.length); }

  float key_factor(int64_t token) const { return a.shares_key() ? tables.inverse[token] : 1.0f; }

  // Rows as float32, padded. Those of bad tokens are zeros.
  void load_query(int64_t token, float* to) const { load(query(token), token, kBadQuery, 1.0f, to); }
  void load_upstream(const char* row, int64_t token, float* to) const {
    load(row, token, kBadQuery, 1.0f, to);
  }
  void load_key(int64_t token, float* to) const {
    load(key(token), token, kBadKey, key_factor(token), to);
  }
  void load_value(int64_t token, float* to) const { load(value(token), token, kBadKey, 1.0f, to); }
  // What a token reads that sees nobody, as a row and as load_value has it.
  const char* own_value(int64_t token) const {
    return a.gives_next ? a.value.at(batch, head, token) : value(token);
  }
  void load_own_value(int64_t token, float* to) const {
    if (a.gives_next)
      load_raw(own_value(token), 1.0f, to);
    else
      load_value(token, to);
  }
  // The token whose value this one gives, or -1: the last one of a segment gives zeros.
  int64_t source(int64_t token) const {
    if (!a.gives_next) return token;
    const int64_t next = token + 1;
    return next < a.length && segment(next) == segment(token) ? next : -1;
  }
  // The token that gives this one's value, or -1.
  int64_t giver(int64_t token) const {
    if (!a.gives_next) return token;
    return token > 0 && source(token - 1) == token ? token - 1 : -1;
  }
  // The same as it is, whatever it holds.
  void load_raw(const char* row, float factor, float* to) const {
    load_row(row, a.is_bfloat16, a.width, factor, to);
  }

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

  // Fills the tables of the rounds.
  void tabulate_rounds(Worker& worker) const {
    worker.share(a.rounds, [&](int64_t round) {
      if (tables.order) narrow_order(round);
      if (tables.runs.data) tabulate_places(round);
      if (tables.starts) find_starts(round);
    });
  }
  // Fills what rounds share of a token's record; row_scratch holds one padded row.
  void fill_record(int64_t token, float* row_scratch) const {
    copy_row(a.query, token, tables.query, token);
    copy_row(a.key, token, tables.key, token);
    if (const int64_t from = source(token); from >= 0)
      copy_row(a.value, from, tables.value, token);
    else
      std::memset(tables.value(token), 0, size_t(row_bytes(a)));
    for (int64_t r = 0; tables.codes.data && !tables.runs.data && r < a.rounds; ++r)
      tables.codes(token)[r] = static_cast<int32_t>(code(r, token));
    if (!a.shares_key()) return;
    load_raw(query(token), 1.0f, row_scratch);
    const float squares = dot(row_scratch, row_scratch, padded_width(a.width));
    tables.inverse[token] = unit_key_factor(squares, a.width, a.key_epsilon);
  }

 private:
  REFORMER_INLINE void load(const char* row, int64_t token, uint8_t bad, float factor,
                            float* to) const {
    if (has_bad && (tables.bad[token] & bad))
      std::fill_n(to, padded_width(a.width), 0.0f);
    else
      load_row(row, a.is_bfloat16, a.width, factor, to);
  }

  void narrow_order(int64_t round) const {
    const auto* wide = reinterpret_cast<const int64_t*>(a.order.at(batch, head, round));
    for (int64_t p = 0; p < a.length; ++p)
      tables.order[round * a.length + p] = static_cast<int32_t>(wide[p]);
  }

  // Visits (place, token, whether a run starts there).
  template <class Visit>
  void for_each_place(int64_t round, const Visit& visit) const {
    const int32_t* tokens = order(round);
    int64_t previous = 0;
    for (int64_t p = 0; p < a.length; ++p) {
      const int64_t now = code(round, tokens[p]);
      visit(p, tokens[p], p == 0 || now != previous + 1);
      previous = now;
    }
  }

  void find_starts(int64_t round) const {
    uint8_t* to = tables.starts + round * a.length;
    for_each_place(round, [&](int64_t p, int64_t, bool starts) { to[p] = starts; });
  }

  void tabulate_places(int64_t round) const {
    int32_t run = -1;
    for_each_place(round, [&](int64_t p, int64_t token, bool starts) {
      tables.codes(token)[round] = static_cast<int32_t>(p);
      tables.runs(token)[round] = run += starts;
    });
  }

  void copy_row(const Strided& tensor, int64_t from, const PerToken<char>& to,
                int64_t token) const {
    if (to.data) std::memcpy(to(token), tensor.at(batch, head, from), size_t(row_bytes(a)));
  }
  PerToken<char> copied_or(const PerToken<char>& copy, const Strided& tensor) const {
    return copy.data ? copy : rows_of<char>(tensor, batch, head);
  }
};

}  // namespace reformer
