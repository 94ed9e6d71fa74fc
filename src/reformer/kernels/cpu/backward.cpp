// Backward of the attention op. With p_ij = exp(s_ij - lse_i), the share of a pair in the whole
// softmax, and offset_i = do_i . o_i - dlse_i:
//
//     ds_ij = scale * p_ij (do_i . v_j - offset_i)
//     dq_i = sum_j ds_ij k_j      dk_j = sum_i ds_ij q_i      dv_j = sum_i p_ij do_i
//
// Each round is recomputed tile by tile; gradients are summed per token over all rounds. What is
// not finite is treated as in the forward: a second pass without it, and its effect put in.

#include "ahead.h"
#include "each_head.h"
#include "exact.h"
#include "exp.h"
#include "token_gradients.h"
#include "visibility.h"

namespace reformer {
namespace {

struct OwnScratch {
  float *rows, *up_rows;        // [kSpan][padded K]: queries, upstream gradients
  float *queries, *up;          // the same transposed, tile by tile; queries scaled
  float *keys, *values;         // [kKeys][padded K]
  float* grad_keys;             // [kGroup][padded K]: of shared keys
  float *weights, *slopes;      // [kKeys][kSpan]
  float *lse, *offset;          // [kSpan]
  float* trash;                 // [padded K], for lanes and rows without a token
  int32_t* seen;                // [kSpan]
  float *grad_query[kSpan], *grad_key[kKeys], *grad_value[kKeys];
  float inverse[kKeys];         // what made them keys
  int32_t token[kSpan];
  RuleScratch rule;

  static OwnScratch carve(Arena& arena, const Attention& a) {
    const int64_t padded = padded_width(a.width);
    OwnScratch s{};
    for (float** rows : {&s.rows, &s.up_rows, &s.queries, &s.up})
      *rows = arena.take<float>(kSpan * padded);
    for (float** rows : {&s.keys, &s.values}) *rows = arena.take<float>(kKeys * padded);
    s.grad_keys = arena.take<float>(a.shares_key() ? kGroup * padded : 0);
    for (float** pairs : {&s.weights, &s.slopes}) *pairs = arena.take<float>(kKeys * kSpan);
    s.lse = arena.take<float>(kSpan);
    s.offset = arena.take<float>(kSpan);
    s.trash = arena.take<float>(padded);
    s.seen = arena.take<int32_t>(kSpan);
    s.rule = RuleScratch::carve(arena, a);
    return s;
  }
};

template <class Rule, class Dropout>
class SpanBackward {
 public:
  SpanBackward(const Head& head, const TokenGradients& shared, OwnScratch& own, int64_t round)
      : head_(head), a_(head.a), padded_(padded_width(a_.width)), shared_(shared), own_(own),
        sums_(sums_of(head, shared)), upstream_(upstream_of(head, shared)),
        rule_(head, own.rule.of(Type<Rule>{}), round), dropout_(head, own.rule.dropout),
        ahead_(head, round), is_first_(round == 0) {}

  void operator()(const Span& span) {
    for (int t = 0; t < span.tiles; ++t) gather_queries(span, t);
    for_each_key_range(head_, span, [&](int64_t round, int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; block += kKeys)
        key_block(span, round, block, std::min(end, block + kKeys));
    });
    for (int t = 0; t < span.tiles; ++t)
      for (int64_t i = 0; i < span.tile[t].end - span.tile[t].begin; ++i) {
        const int slot = t * kTile + int(i);
        if (own_.seen[slot]) shared_.state[own_.token[slot]] = kSawSomeone;
      }
  }

 private:
  void gather_queries(const Span& span, int t) {
    const QueryTile& tile = span.tile[t];
    const int32_t* order = head_.order(span.round);
    const int count = int(tile.end - tile.begin);
    ahead_.from(tile.begin);
    for (int lane = 0; lane < kTile; ++lane) {
      const int slot = t * kTile + lane;
      float *row = own_.rows + slot * padded_, *up = own_.up_rows + slot * padded_;
      own_.seen[slot] = 0;
      if (lane >= count) {
        rule_.set_no_query(slot);
        own_.grad_query[slot] = own_.trash;
        own_.lse[slot] = own_.offset[slot] = 0.0f;
        std::memset(row, 0, size_t(padded_) * 4);
        std::memset(up, 0, size_t(padded_) * 4);
        continue;
      }
      const int64_t token = order ? order[tile.begin + lane] : tile.begin + lane;
      ahead_();
      if (is_first_) begin_sums(a_, sums_, shared_.state, token);
      own_.token[slot] = int32_t(token);
      own_.grad_query[slot] = sums_.query(token);
      own_.lse[slot] = shared_.lse[token];
      own_.offset[slot] = shared_.offset[token];
      rule_.set_query(slot, token);
      dropout_.set_query(slot, token);
      head_.load_query(token, row);
      head_.load_upstream(upstream_(token), token, up);
    }
    const int64_t at = t * kTile * padded_;
    transpose_tile(own_.rows + at, padded_, float(a_.scale), own_.queries + at);
    transpose_tile(own_.up_rows + at, padded_, 1.0f, own_.up + at);
  }

  void gather_keys(int64_t round, int64_t begin, int64_t end) {
    const int32_t* order = head_.order(round);
    const int count = int(end - begin), rows = int(round_up(count, kGroup));
    for (int j = 0; j < rows; ++j) {
      float *key = own_.keys + j * padded_, *value = own_.values + j * padded_;
      if (j >= count) {
        rule_.set_no_key(j);
        own_.grad_key[j] = own_.grad_value[j] = own_.trash;
        own_.inverse[j] = 0.0f;
        std::memset(key, 0, size_t(padded_) * 4);
        std::memset(value, 0, size_t(padded_) * 4);
        continue;
      }
      const int64_t token = order ? order[begin + j] : begin + j;
      ahead_();
      if (is_first_) begin_sums(a_, sums_, shared_.state, token);
      rule_.set_key(j, token);
      dropout_.set_key(j, token);
      own_.grad_key[j] = sums_.key(token);
      own_.inverse[j] = head_.key_factor(token);
      own_.grad_value[j] = sums_.value(token);
      head_.load_key(token, key);
      head_.load_value(token, value);
    }
  }

  void key_block(const Span& span, int64_t round, int64_t begin, int64_t end) {
    Groups groups[kSpanTiles];
    bool gathered = false;
    for (int t = 0; t < span.tiles; ++t) {
      groups[t] = visible_groups(head_, span.tile[t], begin, end);
      if (groups[t].empty()) continue;
      if (!gathered) gather_keys(round, begin, end);
      gathered = true;
      tile_gradient(t, groups[t]);
    }
    if (!gathered) return;
    const int rows = int(round_up(end - begin, kGroup));
    for (int j = 0; j < rows; j += kGroup) group_gradient(span, groups, j);
  }

  // Weights and slopes of a tile's queries and some groups of keys, and the queries' gradient.
  void tile_gradient(int t, Groups groups) {
    const int slot = t * kTile;
    score_rows(own_.keys, padded_, own_.queries + slot * padded_, groups.begin, groups.end,
               own_.weights + slot, kSpan, ahead_);
    score_rows(own_.values, padded_, own_.up + slot * padded_, groups.begin, groups.end,
               own_.slopes + slot, kSpan, ahead_);
    for (int lane = 0; lane < kTile; lane += kLanes) weigh(slot + lane, groups);
    accumulate_tile(own_.slopes + groups.begin * kSpan + slot, {1, kSpan},
                    own_.keys + groups.begin * padded_, padded_, groups.end - groups.begin,
                    own_.grad_query + slot, Add{}, ahead_);
  }

  // Scores to weights and do . v to slopes, in place, for one vector of queries.
  REFORMER_INLINE void weigh(int slot, Groups groups) {
    const Floats lse = load(own_.lse + slot), offset = load(own_.offset + slot);
    const Floats scale = splat(float(a_.scale));
    Ints seen = load(own_.seen + slot);
    for (int j = groups.begin; j < groups.end; ++j) {
      float *weights = own_.weights + j * kSpan + slot, *slopes = own_.slopes + j * kSpan + slot;
      const Ints visible = rule_(slot, j);
      seen |= visible;
      Floats weight = keep_where(visible, exp_of(load(weights) - lse)), up = load(slopes);
      const Floats whole = weight;
      if constexpr (std::is_same_v<Dropout, PairDropout>) {
        const Floats keep = dropout_(slot, j);
        up *= keep;
        weight *= keep;
      }
      store(weights, weight);
      store(slopes, whole * (up - offset) * scale);
    }
    store(own_.seen + slot, seen);
  }

  // The gradients of one group of keys and values, from all tiles that see it.
  void group_gradient(const Span& span, const Groups* groups, int j) {
    int first = 0, last = span.tiles;
    const auto sees = [&](int t) { return groups[t].begin <= j && j < groups[t].end; };
    while (first < last && !sees(first)) ++first;
    while (last > first && !sees(last - 1)) --last;
    if (first == last) return;
    const int64_t slot = first * kTile, depth = (last - first) * kTile;
    const float *slopes = own_.slopes + j * kSpan + slot, *queries = own_.rows + slot * padded_;
    if (a_.shares_key())
      shared_key_gradient(slopes, queries, depth, j);
    else
      accumulate_group(slopes, {kSpan, 1}, queries, padded_, depth, own_.grad_key + j, Add{},
                       ahead_);
    accumulate_group(own_.weights + j * kSpan + slot, {kSpan, 1}, own_.up_rows + slot * padded_,
                     padded_, depth, own_.grad_value + j, Add{}, ahead_);
  }

  void shared_key_gradient(const float* slopes, const float* queries, int64_t depth, int j) {
    float* rows[kGroup];
    for (int m = 0; m < kGroup; ++m) rows[m] = own_.grad_keys + m * padded_;
    accumulate_group(slopes, {kSpan, 1}, queries, padded_, depth, rows, Overwrite{}, ahead_);
    for (int m = 0; m < kGroup; ++m)
      add_through_key(a_, rows[m], own_.keys + (j + m) * padded_, own_.inverse[j + m],
                      own_.grad_key[j + m]);
  }

  const Head& head_;
  const Attention& a_;
  const int64_t padded_;
  const TokenGradients& shared_;
  OwnScratch& own_;
  const GradientSums sums_;
  const PerToken<char> upstream_;
  Rule rule_;
  Dropout dropout_;
  Ahead ahead_;
  const bool is_first_;
};

void backward_rounds(Worker& worker, const Head& head, const TokenGradients& shared,
                     OwnScratch& own) {
  const Blocks blocks(head);
  with_rule_and_dropout(head.a, [&](auto rule, auto dropout) {
    for (int64_t round = 0; round < head.a.rounds; ++round) {
      SpanBackward<typename decltype(rule)::type, typename decltype(dropout)::type> differentiate(
          head, shared, own, round);
      const auto run = [&](int64_t b) {
        for_each_span(head, round, blocks.begin(b), blocks.end(b), differentiate);
      };
      for (int64_t colour = 0; colour < 2; ++colour)
        worker.share((blocks.count() - colour + 1) / 2, [&](int64_t i) {
          if (!blocks.wraps(colour + 2 * i)) run(colour + 2 * i);
        });
      for (int64_t b = 0; worker.rank == 0 && b < blocks.count(); ++b)
        if (blocks.wraps(b)) run(b);
      worker.barrier();
    }
  });
}

void backward_pass(Worker& worker, const Head& head, const TokenGradients& shared,
                   OwnScratch& own) {
  TokenPass tokens(head, shared, own.rows);
  worker.share(head.a.length, kTokens,
               [&](int64_t begin, int64_t end) { tokens.prepare(begin, end); });
  backward_rounds(worker, head, shared, own);
  if (head.has_bad) {
    if (worker.rank == 0) spoil_gradients(head, sums_of(head, shared));
    worker.barrier();
  }
  worker.share(head.a.length, kTokens,
               [&](int64_t begin, int64_t end) { tokens.finish(begin, end); });
}

void backward_head(Worker& worker, Head& head, const TokenGradients& shared, OwnScratch& own) {
  if (worker.rank == 0) *shared.not_finite = 0;
  head.tabulate_rounds(worker);
  backward_pass(worker, head, shared, own);
  if (*shared.not_finite) {
    if (worker.rank == 0) {
      find_bad(head, own.rows);
      find_bad_upstream(head, shared.offset, own.rows);
    }
    worker.barrier();
    head.has_bad = true;
    backward_pass(worker, head, shared, own);
  }
  worker.barrier();
}

}  // namespace
}  // namespace reformer

int64_t reformer_attention_backward(const reformer::Attention* a) {
  using namespace reformer;
  return for_each_head<TokenGradients, OwnScratch>(
      *a, [&](Worker& worker, int64_t row, const TokenGradients& shared, OwnScratch& own) {
        Head head(*a, row, shared.tables);
        backward_head(worker, head, shared, own);
      });
}
