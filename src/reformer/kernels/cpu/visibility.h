// Which of a tile's queries see a key: integer comparisons, queries in the lanes.
#pragma once

#include <climits>

#include "head.h"
#include "simd.h"
#include "spans.h"

namespace reformer {

// Codes of lanes and rows that hold no token: far from each other and from every code.
constexpr int32_t kNoQuery = -(1 << 30);
constexpr int32_t kNoKey = -(1 << 29);

// Window rule. A key is seen iff least <= code(query) - code(key) <= most in this round and in
// no earlier one: the first round that shows a pair owns it. Codes that could pass 2^31 come as
// places and runs instead, and the runs must be equal.
template <bool kIsWide>
class WindowRule {
 public:
  // Scratch: codes of the span's queries [R][kSpan] and of the block's keys [kKeys][R].
  struct Scratch {
    int32_t *query_codes, *key_codes, *query_runs, *key_runs;
    static Scratch carve(Arena& arena, const Attention& a) {
      const int64_t wide = a.is_wide_order != 0;
      return {arena.take<int32_t>(a.rounds * kSpan), arena.take<int32_t>(a.rounds * kKeys),
              arena.take<int32_t>(wide * a.rounds * kSpan),
              arena.take<int32_t>(wide * a.rounds * kKeys)};
    }
  };

  WindowRule(const Head& head, const Scratch& scratch, int64_t round)
      : rounds_(head.a.rounds), round_(round), s_(scratch), codes_(head.tables.codes),
        runs_(head.tables.runs) {
    const int64_t window = head.window();
    const int64_t least = head.a.causal ? !head.a.include_self : -(window - 1);
    // Biased by `least` and INT_MIN, a signed comparison tests both bounds at once.
    bias_ = uint32_t(least) + uint32_t(INT_MIN);
    bound_ = int32_t(uint32_t(window - least) + uint32_t(INT_MIN));
    hides_self_ = !head.a.causal && !head.a.include_self;
  }

  void set_query(int slot, int64_t token) {
    for (int64_t r = 0; r <= round_; ++r) {
      s_.query_codes[r * kSpan + slot] = biased(code(r, token));
      if (kIsWide) s_.query_runs[r * kSpan + slot] = runs_(token)[r];
    }
  }
  void set_no_query(int slot) {
    for (int64_t r = 0; r <= round_; ++r) {
      s_.query_codes[r * kSpan + slot] = biased(kNoQuery);
      if (kIsWide) s_.query_runs[r * kSpan + slot] = kNoQuery;
    }
  }
  void set_key(int slot, int64_t token) {
    for (int64_t r = 0; r <= round_; ++r) {
      s_.key_codes[slot * rounds_ + r] = code(r, token);
      if (kIsWide) s_.key_runs[slot * rounds_ + r] = runs_(token)[r];
    }
  }
  void set_no_key(int slot) {
    for (int64_t r = 0; r <= round_; ++r) {
      s_.key_codes[slot * rounds_ + r] = kNoKey;
      if (kIsWide) s_.key_runs[slot * rounds_ + r] = kNoKey;
    }
  }

  // Queries in slots [slot, slot + kLanes) against one key.
  REFORMER_INLINE Ints operator()(int slot, int key) const {
    Ints seen = is_near(round_, slot, key);
    if (hides_self_) seen &= distance(round_, slot, key) != int32_t(0u - bias_);
    for (int64_t r = 0; r < round_; ++r) seen &= ~is_near(r, slot, key);
    return seen;
  }

 private:
  int32_t code(int64_t round, int64_t token) const {
    return codes_.data ? codes_(token)[round] : int32_t(token);
  }
  int32_t biased(int32_t code) const { return int32_t(uint32_t(code) - bias_); }

  REFORMER_INLINE Ints distance(int64_t round, int slot, int key) const {
    return (Ints)((Words)load(s_.query_codes + round * kSpan + slot) -
                  splat(uint32_t(s_.key_codes[key * rounds_ + round])));
  }
  REFORMER_INLINE Ints is_near(int64_t round, int slot, int key) const {
    Ints near = distance(round, slot, key) < bound_;
    if (kIsWide)
      near &= load(s_.query_runs + round * kSpan + slot) == s_.key_runs[key * rounds_ + round];
    return near;
  }

  const int64_t rounds_, round_;
  const Scratch s_;
  const PerToken<int32_t> codes_, runs_;
  uint32_t bias_;
  int32_t bound_;
  bool hides_self_;
};

// Chunk rule: every key of the neighbouring chunks, by position and segment.
class ChunkRule {
 public:
  struct Scratch {
    int32_t *query_positions, *query_segments, *key_positions, *key_segments;
    static Scratch carve(Arena& arena, const Attention&) {
      return {arena.take<int32_t>(kSpan), arena.take<int32_t>(kSpan),
              arena.take<int32_t>(kKeys), arena.take<int32_t>(kKeys)};
    }
  };

  ChunkRule(const Head& head, const Scratch& scratch, int64_t)
      : head_(head), s_(scratch), causal_(head.a.causal), self_(head.a.include_self) {}

  void set_query(int slot, int64_t token) {
    const int32_t segment = head_.segment(token);
    s_.query_positions[slot] = int32_t(token) + (causal_ && self_);
    s_.query_segments[slot] = segment < 0 ? kNoQuery : segment;
  }
  void set_no_query(int slot) {
    s_.query_positions[slot] = 0;
    s_.query_segments[slot] = kNoQuery;
  }
  void set_key(int slot, int64_t token) {
    const int32_t segment = head_.segment(token);
    s_.key_positions[slot] = int32_t(token);
    s_.key_segments[slot] = segment < 0 ? kNoKey : segment;
  }
  void set_no_key(int slot) {
    s_.key_positions[slot] = 0;
    s_.key_segments[slot] = kNoKey;
  }

  REFORMER_INLINE Ints operator()(int slot, int key) const {
    const Ints position = load(s_.query_positions + slot);
    Ints seen = load(s_.query_segments + slot) == s_.key_segments[key];
    if (causal_)
      seen &= position > s_.key_positions[key];
    else if (!self_)
      seen &= position != s_.key_positions[key];
    return seen;
  }

 private:
  const Head& head_;
  const Scratch s_;
  const bool causal_, self_;
};

// Dropout of pairs by a hash of (seed, row, query, key): `pair_keep_mask` in ops/randomness.py.
class PairDropout {
 public:
  struct Scratch {
    uint32_t *query_states, *key_terms;
    static Scratch carve(Arena& arena, const Attention&) {
      return {arena.take<uint32_t>(kSpan), arena.take<uint32_t>(kKeys)};
    }
  };

  PairDropout(const Head& head, const Scratch& scratch)
      : s_(scratch), factor_(float(head.a.keep_factor)),
        threshold_(uint32_t(head.a.dropout_threshold)) {
    const auto seed = uint64_t(head.a.dropout_seed);
    row_ = mix(uint32_t(head.row()) ^ uint32_t(seed)) ^ uint32_t(seed >> 32);
  }

  void set_query(int slot, int64_t token) { s_.query_states[slot] = query_state(token); }
  void set_key(int slot, int64_t token) { s_.key_terms[slot] = key_term(token); }

  // 0 for a dropped pair, 1 / (1 - rate) for one that is kept.
  REFORMER_INLINE Floats operator()(int slot, int key) const {
    const Words hashed = mix(load_as<Words>(s_.query_states + slot) ^ s_.key_terms[key]);
    return keep_where((Ints)(hashed >= threshold_), splat(factor_));
  }
  float pair(int64_t query, int64_t key) const {
    return mix(query_state(query) ^ key_term(key)) >= threshold_ ? factor_ : 0.0f;
  }

 private:
  template <class Word>
  REFORMER_INLINE static Word mix(Word x) {
    x ^= x >> 16;
    x *= 0x7feb352du;
    x ^= x >> 15;
    x *= 0x846ca68bu;
    return x ^ (x >> 16);
  }
  uint32_t query_state(int64_t token) const { return mix(row_ ^ uint32_t(token) * 0x9e3779b1u); }
  static uint32_t key_term(int64_t token) { return uint32_t(token) * 0x85ebca77u; }

  const Scratch s_;
  const float factor_;
  const uint32_t threshold_;
  uint32_t row_;
};

// Stands for PairDropout where nothing is dropped.
struct NoDropout {
  using Scratch = PairDropout::Scratch;
  NoDropout(const Head&, const Scratch&) {}
  void set_query(int, int64_t) {}
  void set_key(int, int64_t) {}
};

// A type as a value.
template <class T>
struct Type {
  using type = T;
};

// Calls body with the types of the rule and of the dropout that the op asks for.
template <class Body>
void with_rule_and_dropout(const Attention& a, const Body& body) {
  const auto with_dropout = [&](auto rule) {
    if (a.dropout_threshold)
      body(rule, Type<PairDropout>{});
    else
      body(rule, Type<NoDropout>{});
  };
  if (a.is_chunk_rule)
    with_dropout(Type<ChunkRule>{});
  else if (a.order.data && a.is_wide_order)
    with_dropout(Type<WindowRule<true>>{});
  else
    with_dropout(Type<WindowRule<false>>{});
}

// Scratch of every rule and of the dropout.
struct RuleScratch {
  WindowRule<false>::Scratch narrow;
  WindowRule<true>::Scratch wide;
  ChunkRule::Scratch chunk;
  PairDropout::Scratch dropout;

  static RuleScratch carve(Arena& arena, const Attention& a) {
    return {WindowRule<false>::Scratch::carve(arena, a), WindowRule<true>::Scratch::carve(arena, a),
            ChunkRule::Scratch::carve(arena, a), PairDropout::Scratch::carve(arena, a)};
  }
  const WindowRule<false>::Scratch& of(Type<WindowRule<false>>) const { return narrow; }
  const WindowRule<true>::Scratch& of(Type<WindowRule<true>>) const { return wide; }
  const ChunkRule::Scratch& of(Type<ChunkRule>) const { return chunk; }
};

}  // namespace reformer
