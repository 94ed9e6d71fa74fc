// Forward of the attention op: rounds are combined in place by a running maximum and sum.
//
// The pass assumes finite numbers. A result that is not finite sends the head through a second
// pass, in which tokens that are not finite are zeros; exact.h then redoes the queries that see
// such tokens.

#include "ahead.h"
#include "each_head.h"
#include "exact.h"
#include "exp.h"
#include "visibility.h"

namespace reformer {
namespace {

struct SharedScratch {
  HeadTables tables;
  PerToken<float> top, mass;  // running maximum and sum
  FloatRows total;            // running weighted values, where `out` cannot hold them
  int64_t* not_finite;

  static SharedScratch carve(Arena& arena, const Attention& a) {
    SharedScratch s{};
    s.tables = HeadTables::carve(arena, a, [&](Records& records, const auto& take_tables) {
      s.total = records.take<float>(sums_in_place(a) ? 0 : padded_width(a.width));
      take_tables();
      s.top = records.take<float>(1);
      s.mass = records.take<float>(1);
    });
    s.not_finite = arena.take<int64_t>(1);
    return s;
  }
  FloatRows sums(const Head& head) const {
    return total.data ? total : rows_of<float>(head.a.out, head.batch, head.head);
  }
};

// Whether a round is summed apart from those before it: the same numbers, added again and again in
// one long chain, are rounded in the same direction.
inline bool sums_apart(const Attention& a) { return a.rounds > 1 && meets_tokens_again(a); }

struct OwnScratch {
  float* queries;            // [kSpanTiles][padded K][kTile], scaled
  float *keys, *values;      // [kKeys][padded K]
  float* scores;             // [kKeys][kTile]
  float* rows;               // [kTile][padded K]
  float *top, *mass;         // [kSpan]
  float* apart;              // [kSpan][padded K], sums of one round
  float* trash;              // [padded K], for lanes without a query
  float* row[kSpan];         // where the weighted values of a query are summed
  bool fresh[kSpanTiles];    // nothing summed there yet
  int32_t token[kSpan];
  RuleScratch rule;

  static OwnScratch carve(Arena& arena, const Attention& a) {
    const int64_t padded = padded_width(a.width);
    OwnScratch s{};
    s.queries = arena.take<float>(kSpan * padded);
    s.keys = arena.take<float>(kKeys * padded);
    s.values = arena.take<float>(kKeys * padded);
    s.scores = arena.take<float>(kKeys * kTile);
    s.rows = arena.take<float>(kTile * padded);
    s.top = arena.take<float>(kSpan);
    s.mass = arena.take<float>(kSpan);
    s.apart = arena.take<float>(sums_apart(a) ? kSpan * padded : 0);
    s.trash = arena.take<float>(padded);
    s.rule = RuleScratch::carve(arena, a);
    return s;
  }
};

template <class Rule, class Dropout>
class SpanForward {
 public:
  SpanForward(const Head& head, const SharedScratch& shared, OwnScratch& own, int64_t round)
      : head_(head), a_(head.a), padded_(padded_width(a_.width)), shared_(shared), own_(own),
        sums_(shared.sums(head)), rule_(head, own.rule.of(Type<Rule>{}), round),
        dropout_(head, own.rule.dropout), ahead_(head, round), is_first_(round == 0),
        is_apart_(round > 0 && sums_apart(a_)),
        ends_with_span_(round == a_.rounds - 1 && !shared.total.data) {}

  void operator()(const Span& span) {
    for (int t = 0; t < span.tiles; ++t) gather_queries(span, t);
    for_each_key_range(head_, span, [&](int64_t round, int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; block += kKeys) {
        const int64_t block_end = std::min(end, block + kKeys);
        bool gathered = false;
        for (int t = 0; t < span.tiles; ++t) {
          const Groups groups = visible_groups(head_, span.tile[t], block, block_end);
          if (groups.empty()) continue;
          if (!gathered) gather_keys(round, block, block_end);
          gathered = true;
          attend(t, groups);
        }
      }
    });
    for (int t = 0; t < span.tiles; ++t) finish(span.tile[t], t);
  }

  // After the last round. What was summed in records becomes results in the tokens' own order:
  // written from front to back, not all over the tensor.
  void finish_tokens(int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      if (token + kSoon < a_.length) prefetch_row(sums_(token + kSoon), padded_ * 4);
      finish_token(token, shared_.top[token], shared_.mass[token], sums_(token));
    }
  }

 private:
  static constexpr int64_t kSoon = 16;  // tokens from asking for sums to their use

  void gather_queries(const Span& span, int t) {
    const QueryTile& tile = span.tile[t];
    const int32_t* order = head_.order(span.round);
    const int count = int(tile.end - tile.begin);
    ahead_.from(tile.begin);
    for (int lane = 0; lane < kTile; ++lane) {
      const int slot = t * kTile + lane;
      float* row = own_.rows + lane * padded_;
      if (lane >= count) {
        rule_.set_no_query(slot);
        own_.row[slot] = own_.trash;
        own_.top[slot] = -INFINITY;
        own_.mass[slot] = 0.0f;
        std::memset(row, 0, size_t(padded_) * 4);
        continue;
      }
      const int64_t token = order ? order[tile.begin + lane] : tile.begin + lane;
      ahead_();
      own_.token[slot] = int32_t(token);
      own_.row[slot] = is_apart_ ? own_.apart + slot * padded_ : sums_(token);
      own_.top[slot] = is_first_ ? -INFINITY : shared_.top[token];
      own_.mass[slot] = is_first_ || is_apart_ ? 0.0f : shared_.mass[token];
      rule_.set_query(slot, token);
      dropout_.set_query(slot, token);
      head_.load_query(token, row);
    }
    own_.fresh[t] = is_first_ || is_apart_;
    transpose_tile(own_.rows, padded_, float(a_.scale),
                   own_.queries + t * kTile * padded_);
  }

  void gather_keys(int64_t round, int64_t begin, int64_t end) {
    const int32_t* order = head_.order(round);
    const int count = int(end - begin), rows = int(round_up(count, kGroup));
    for (int j = 0; j < rows; ++j) {
      float *key = own_.keys + j * padded_, *value = own_.values + j * padded_;
      if (j >= count) {
        rule_.set_no_key(j);
        std::memset(key, 0, size_t(padded_) * 4);
        std::memset(value, 0, size_t(padded_) * 4);
        continue;
      }
      const int64_t token = order ? order[begin + j] : begin + j;
      ahead_();
      rule_.set_key(j, token);
      dropout_.set_key(j, token);
      head_.load_key(token, key);
      head_.load_value(token, value);
    }
  }

  // One tile of queries against the keys of some groups: scores, softmax, values.
  void attend(int t, Groups groups) {
    score_rows(own_.keys, padded_, own_.queries + t * kTile * padded_, groups.begin, groups.end,
               own_.scores, kTile, ahead_);
    alignas(64) float shrink[kTile];
    for (int lane = 0; lane < kTile; lane += kLanes) weigh(t, lane, groups, shrink + lane);
    const float* weights = own_.scores + groups.begin * kTile;
    const float* values = own_.values + groups.begin * padded_;
    const int64_t depth = groups.end - groups.begin;
    float* const* rows = own_.row + t * kTile;
    if (own_.fresh[t])
      accumulate_tile(weights, {1, kTile}, values, padded_, depth, rows, Overwrite{}, ahead_);
    else
      accumulate_tile(weights, {1, kTile}, values, padded_, depth, rows, ShrinkAndAdd{shrink},
                      ahead_);
    own_.fresh[t] = false;
  }

  // Scores to weights, in place, for one vector of queries; updates their maximum and sum.
  REFORMER_INLINE void weigh(int t, int lane, Groups groups, float* shrink) {
    const int slot = t * kTile + lane;
    float* scores = own_.scores + lane;
    const Floats old = load(own_.top + slot);
    Floats top = old;
    for (int j = groups.begin; j < groups.end; ++j) {
      const Floats score =
          select(rule_(slot, j), load(scores + j * kTile), splat(-INFINITY));
      store(scores + j * kTile, score);
      top = larger(score, top);
    }
    const Floats anchor = select(top == -INFINITY, Floats{}, top);
    Floats mass{};
    for (int j = groups.begin; j < groups.end; ++j) {
      Floats weight = exp_of(load(scores + j * kTile) - anchor);
      mass += weight;
      if constexpr (std::is_same_v<Dropout, PairDropout>) weight *= dropout_(slot, j);
      store(scores + j * kTile, weight);
    }
    const Floats factor = exp_of(old - anchor);
    store(shrink, factor);
    store(own_.top + slot, top);
    store(own_.mass + slot, load(own_.mass + slot) * factor + mass);
  }

  void finish(const QueryTile& tile, int t) {
    for (int64_t i = 0; i < tile.end - tile.begin; ++i) {
      const int slot = t * kTile + int(i), token = own_.token[slot];
      if (own_.fresh[t]) std::memset(own_.row[slot], 0, size_t(padded_) * 4);
      if (is_apart_) add_to_earlier_rounds(slot, token);
      if (ends_with_span_) {
        finish_token(token, own_.top[slot], own_.mass[slot], own_.row[slot]);
      } else {
        shared_.top[token] = own_.top[slot];
        shared_.mass[token] = own_.mass[slot];
      }
    }
  }

  void add_to_earlier_rounds(int slot, int64_t token) {
    const float top = own_.top[slot], anchor = top == -INFINITY ? 0.0f : top;
    const Floats shrink = exp_of(splat(shared_.top[token] - anchor));
    float *sums = sums_(token), *apart = own_.row[slot];
    for (int64_t k = 0; k < padded_; k += kLanes)
      store(sums + k, load(sums + k) * shrink + load(apart + k));
    own_.mass[slot] += shared_.mass[token] * shrink[0];
    own_.row[slot] = sums;
  }

  // A query that saw nobody in any round sees itself.
  void finish_token(int64_t token, float top, float mass, float* row) {
    const bool is_alone = top == -INFINITY && mass == 0.0f;
    if (is_alone) {
      float* query = own_.rows;
      head_.load_query(token, query);
      head_.load_key(token, own_.trash);
      top = float(a_.scale) * dot(query, own_.trash, padded_);
      head_.load_own_value(token, row);
      mass = 1.0f;
    }
    const auto lse = float(double(top) + std::log(double(mass)));
    head_.lse(token) = lse;
    const Floats inverse = splat(1.0f / mass);
    Ints not_finite = is_not_finite(splat(lse));
    for (int64_t k = 0; k < padded_; k += kLanes) {
      const Floats x = load(row + k) * inverse;
      not_finite |= is_not_finite(x);
      store(row + k, x);
    }
    if (any(not_finite)) __atomic_store_n(shared_.not_finite, 1, __ATOMIC_RELAXED);
    if (shared_.total.data)
      store_row(row, a_.is_bfloat16, a_.width, a_.out.at(head_.batch, head_.head, token));
  }

  const Head& head_;
  const Attention& a_;
  const int64_t padded_;
  const SharedScratch& shared_;
  OwnScratch& own_;
  const FloatRows sums_;
  Rule rule_;
  Dropout dropout_;
  Ahead ahead_;
  const bool is_first_, is_apart_, ends_with_span_;
};

void forward_rounds(Worker& worker, const Head& head, const SharedScratch& shared,
                    OwnScratch& own) {
  const Blocks blocks(head);
  with_rule_and_dropout(head.a, [&](auto rule, auto dropout) {
    for (int64_t round = 0; round < head.a.rounds; ++round) {
      SpanForward<typename decltype(rule)::type, typename decltype(dropout)::type> attend(
          head, shared, own, round);
      worker.share(blocks.count(), [&](int64_t b) {
        for_each_span(head, round, blocks.begin(b), blocks.end(b), attend);
      });
      if (round == head.a.rounds - 1 && shared.total.data)
        worker.share(head.a.length, kTokens, [&](int64_t begin, int64_t end) {
          attend.finish_tokens(begin, end);
        });
    }
  });
}

void forward_head(Worker& worker, Head& head, const SharedScratch& shared, OwnScratch& own) {
  if (worker.rank == 0) *shared.not_finite = 0;
  head.tabulate_rounds(worker);
  worker.share(head.a.length, kTokens, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) head.fill_record(token, own.rows);
  });
  forward_rounds(worker, head, shared, own);
  if (*shared.not_finite) {
    if (worker.rank == 0) find_bad(head, own.rows);
    worker.barrier();
    head.has_bad = true;
    forward_rounds(worker, head, shared, own);
    if (worker.rank == 0)
      exact_forward(head, {shared.top, shared.mass, shared.sums(head)}, own.rows);
  }
  worker.barrier();
}

}  // namespace
}  // namespace reformer

int64_t reformer_attention_forward(const reformer::Attention* a) {
  using namespace reformer;
  return for_each_head<SharedScratch, OwnScratch>(
      *a, [&](Worker& worker, int64_t row, const SharedScratch& shared, OwnScratch& own) {
        Head head(*a, row, shared.tables);
        forward_head(worker, head, shared, own);
      });
}
