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
#include "visibility.h"

namespace reformer {
namespace {

struct SharedScratch {
  HeadTables tables;
  FloatRows query, key, value;  // sums, where the gradient tensors cannot hold them
  PerToken<char> upstream;      // rows, copied if there is an order
  PerToken<float> offset, lse;
  PerToken<int32_t> seen;  // the query saw someone
  int64_t* not_finite;

  static SharedScratch carve(Arena& arena, const Attention& a) {
    const int64_t padded = padded_width(a.width), apart = sums_in_place(a) ? 0 : padded;
    SharedScratch s{};
    s.tables = HeadTables::carve(arena, a, [&](Records& records, const auto& take_tables) {
      s.query = records.take<float>(apart);
      s.key = records.take<float>(a.shares_key() ? padded : apart);
      s.value = records.take<float>(apart);
      s.upstream = records.take<char>(a.order.data ? row_bytes(a) : 0);
      take_tables();
      s.offset = records.take<float>(1);
      s.lse = records.take<float>(1);
      s.seen = records.take<int32_t>(1);
    });
    s.not_finite = arena.take<int64_t>(1);
    return s;
  }
};

struct OwnScratch {
  float *rows, *up_rows;        // [kSpan][padded K]: queries, upstream gradients
  float *queries, *up;          // the same transposed, tile by tile; queries scaled
  float *keys, *values;         // [kKeys][padded K]
  float *weights, *slopes;      // [kKeys][kSpan]
  float *lse, *offset;          // [kSpan]
  float* trash;                 // [padded K], for lanes and rows without a token
  int32_t* seen;                // [kSpan]
  float *grad_query[kSpan], *grad_key[kKeys], *grad_value[kKeys];
  int32_t token[kSpan];
  RuleScratch rule;

  static OwnScratch carve(Arena& arena, const Attention& a) {
    const int64_t padded = padded_width(a.width);
    OwnScratch s{};
    for (float** rows : {&s.rows, &s.up_rows, &s.queries, &s.up})
      *rows = arena.take<float>(kSpan * padded);
    for (float** rows : {&s.keys, &s.values}) *rows = arena.take<float>(kKeys * padded);
    for (float** pairs : {&s.weights, &s.slopes}) *pairs = arena.take<float>(kKeys * kSpan);
    s.lse = arena.take<float>(kSpan);
    s.offset = arena.take<float>(kSpan);
    s.trash = arena.take<float>(padded);
    s.seen = arena.take<int32_t>(kSpan);
    s.rule = RuleScratch::carve(arena, a);
    return s;
  }
};

GradientSums sums_of(const Head& head, const SharedScratch& s) {
  const auto apart_or = [&](const FloatRows& apart, const Strided& tensor) {
    return apart.data ? apart : rows_of<float>(tensor, head.batch, head.head);
  };
  return {apart_or(s.query, head.a.grad_query), apart_or(s.key, head.a.grad_key),
          apart_or(s.value, head.a.grad_value)};
}

PerToken<char> upstream_of(const Head& head, const SharedScratch& s) {
  return s.upstream.data ? s.upstream : rows_of<char>(head.a.grad_out, head.batch, head.head);
}

template <class Rule, class Dropout>
class SpanBackward {
 public:
  SpanBackward(const Head& head, const SharedScratch& shared, OwnScratch& own, int64_t round)
      : head_(head), a_(head.a), padded_(padded_width(a_.width)), shared_(shared), own_(own),
        sums_(sums_of(head, shared)), upstream_(upstream_of(head, shared)),
        rule_(head, own.rule.of(Type<Rule>{}), round), dropout_(head, own.rule.dropout),
        ahead_(head, round) {}

  void operator()(const Span& span) {
    for (int t = 0; t < span.tiles; ++t) gather_queries(span, t);
    for_each_key_range(head_, span, [&](int64_t round, int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; block += kKeys)
        key_block(span, round, block, std::min(end, block + kKeys));
    });
    for (int t = 0; t < span.tiles; ++t)
      for (int64_t i = 0; i < span.tile[t].end - span.tile[t].begin; ++i) {
        const int slot = t * kTile + int(i);
        if (own_.seen[slot]) shared_.seen[own_.token[slot]] = 1;
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
        std::memset(key, 0, size_t(padded_) * 4);
        std::memset(value, 0, size_t(padded_) * 4);
        continue;
      }
      const int64_t token = order ? order[begin + j] : begin + j;
      ahead_();
      rule_.set_key(j, token);
      dropout_.set_key(j, token);
      own_.grad_key[j] = sums_.key(token);
      const int64_t source = head_.source(token);
      own_.grad_value[j] = source < 0 ? own_.trash : sums_.value(source);
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
    accumulate_group(own_.slopes + j * kSpan + slot, {kSpan, 1}, own_.rows + slot * padded_,
                     padded_, depth, own_.grad_key + j, Add{}, ahead_);
    accumulate_group(own_.weights + j * kSpan + slot, {kSpan, 1}, own_.up_rows + slot * padded_,
                     padded_, depth, own_.grad_value + j, Add{}, ahead_);
  }

  const Head& head_;
  const Attention& a_;
  const int64_t padded_;
  const SharedScratch& shared_;
  OwnScratch& own_;
  const GradientSums sums_;
  const PerToken<char> upstream_;
  Rule rule_;
  Dropout dropout_;
  Ahead ahead_;
};

void backward_rounds(Worker& worker, const Head& head, const SharedScratch& shared,
                     OwnScratch& own) {
  const Blocks blocks(head);
  with_rule_and_dropout(head.a, [&](auto rule, auto dropout) {
    for (int64_t round = 0; round < head.a.rounds; ++round) {
      SpanBackward<typename decltype(rule)::type, typename decltype(dropout)::type> differentiate(
          head, shared, own, round);
      const auto run = [&](int64_t b) {
        for_each_span(head, round, blocks.begin(b), blocks.end(b), differentiate);
      };
      for (int64_t colour = 0; colour < 2; ++colour) {
        for (int64_t b = colour + 2 * worker.rank; b < blocks.count(); b += 2 * worker.size)
          if (!blocks.wraps(b)) run(b);
        worker.barrier();
      }
      for (int64_t b = 0; worker.rank == 0 && b < blocks.count(); ++b)
        if (blocks.wraps(b)) run(b);
      worker.barrier();
    }
  });
}

// Per token: before the rounds, offsets and zeros; after them, what is left to add.
class Tokens {
 public:
  Tokens(const Head& head, const SharedScratch& shared, float* scratch)
      : head_(head), a_(head.a), padded_(padded_width(a_.width)), shared_(shared),
        sums_(sums_of(head, shared)), query_(scratch), key_(query_ + padded_),
        value_(key_ + padded_), up_(value_ + padded_), out_(up_ + kTogether * padded_) {
    static_assert(3 + 2 * kTogether <= kSpan, "the rows of the scratch");
  }

  void prepare(const Worker& worker) {
    const int64_t end = worker.end(a_.length);
    for (int64_t token = worker.begin(a_.length); token < end; token += kTogether) {
      const int64_t count = std::min(kTogether, end - token);
      float offsets[kTogether];
      for (int64_t i = 0; i < count; ++i) load_outcome(token + i, i);
      // A query that sees one key takes its whole value: its do . o is then do . v exactly.
      dots_in_order<kTogether>(up_, out_, padded_, offsets);
      for (int64_t i = 0; i < count; ++i) prepare(token + i, offsets[i]);
    }
  }

  void finish(const Worker& worker) {
    const int64_t end = worker.end(a_.length);
    for (int64_t token = worker.begin(a_.length); token < end; ++token) finish(token);
  }

 private:
  static constexpr int64_t kTogether = 8;

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
    shared_.seen[token] = 0;
    for (const FloatRows* rows : {&sums_.query, &sums_.key, &sums_.value})
      std::memset((*rows)(token), 0, size_t(padded_) * 4);
  }

  void finish(int64_t token) {
    float *query = sums_.query(token), *key = sums_.key(token), *value = sums_.value(token);
    if (!shared_.seen[token]) add_alone(token, query, key, value);
    if (a_.shares_key()) add_normalization(token, query, key);
    Ints not_finite{};
    for (const float* row : {query, key, value})
      for (int64_t k = 0; k < padded_; k += kLanes) not_finite |= is_not_finite(load(row + k));
    if (any(not_finite)) __atomic_store_n(shared_.not_finite, 1, __ATOMIC_RELAXED);
    put(shared_.query, a_.grad_query, token, query);
    put(shared_.value, a_.grad_value, token, value);
    if (!a_.shares_key()) put(shared_.key, a_.grad_key, token, key);
  }

  // A query that saw nobody took its own value with weight one; its lse is its own score.
  void add_alone(int64_t token, float* grad_query, float* grad_key, float* grad_value) {
    head_.load_query(token, query_);
    head_.load_key(token, key_);
    head_.load_own_value(token, value_);
    head_.load_upstream(upstream_of(head_, shared_)(token), token, up_);
    float along;
    dots_in_order<1>(up_, value_, padded_, &along);
    const float slope = (along - shared_.offset[token]) * float(a_.scale);
    for (int64_t k = 0; k < padded_; ++k) {
      grad_query[k] += slope * key_[k];
      grad_key[k] += slope * query_[k];
      grad_value[k] += up_[k];
    }
  }

  // Gradient through k = q / sqrt(mean(q^2) + epsilon) / sqrt(K). In double: where it lies along
  // the query, what is left of it is a small difference.
  void add_normalization(int64_t token, float* grad_query, const float* grad_key) {
    head_.load_raw(head_.query(token), 1.0f, query_);
    const double square = exact_dot(query_, query_, padded_);
    const double inverse = 1.0 / (square + double(a_.width) * a_.key_epsilon);
    const double along = exact_dot(grad_key, query_, padded_) * inverse;
    const double factor = std::sqrt(inverse);
    for (int64_t k = 0; k < padded_; ++k)
      grad_query[k] += float((grad_key[k] - query_[k] * along) * factor);
  }

  void put(const FloatRows& scratch, const Strided& tensor, int64_t token, const float* row) {
    if (scratch.data)
      store_row(row, a_.is_bfloat16, a_.width, tensor.at(head_.batch, head_.head, token));
  }

  const Head& head_;
  const Attention& a_;
  const int64_t padded_;
  const SharedScratch& shared_;
  const GradientSums sums_;
  float *query_, *key_, *value_;  // rows of one token
  float *up_, *out_;              // of kTogether tokens
};

void backward_pass(Worker& worker, const Head& head, const SharedScratch& shared,
                   OwnScratch& own) {
  Tokens tokens(head, shared, own.rows);
  tokens.prepare(worker);
  worker.barrier();
  backward_rounds(worker, head, shared, own);
  if (head.has_bad) {
    if (worker.rank == 0) spoil_gradients(head, sums_of(head, shared), shared.seen);
    worker.barrier();
  }
  tokens.finish(worker);
  worker.barrier();
}

void backward_head(Worker& worker, Head& head, const SharedScratch& shared, OwnScratch& own) {
  if (worker.rank == 0) *shared.not_finite = 0;
  head.prepare(worker, own.rows);
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
  return for_each_head<SharedScratch, OwnScratch>(
      *a, [&](Worker& worker, int64_t row, const SharedScratch& shared, OwnScratch& own) {
        Head head(*a, row, shared.tables);
        backward_head(worker, head, shared, own);
      });
}
