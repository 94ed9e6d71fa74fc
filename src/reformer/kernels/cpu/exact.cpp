// See exact.h.

#include "exact.h"

#include <cmath>

#include "visibility.h"

namespace reformer {
namespace {

// Whether query i sees key j by the codes of a round.
bool is_near(const Head& head, int64_t round, int64_t i, int64_t j) {
  const int64_t distance = head.code(round, i) - head.code(round, j);
  if (distance == 0) return head.a.include_self;
  const int64_t size = head.a.causal || distance > 0 ? distance : -distance;
  return size > 0 && size < head.a.window;
}

template <class Visit>
void for_each_window_key(const Head& head, int64_t round, int64_t place, Visit&& visit) {
  const int64_t i = head.token(round, place), reach = head.window() - 1;
  const int64_t begin = std::max<int64_t>(0, place - reach);
  const int64_t end = std::min(head.a.length, place + 1 + (head.a.causal ? 0 : reach));
  for (int64_t p = begin; p < end; ++p) {
    const int64_t j = head.token(round, p);
    bool is_first = is_near(head, round, i, j);
    for (int64_t r = 0; is_first && r < round; ++r) is_first = !is_near(head, r, i, j);
    if (is_first) visit(j);
  }
}

template <class Visit>
void for_each_chunk_key(const Head& head, int64_t round, int64_t place, Visit&& visit) {
  const int64_t i = head.token(round, place);
  Span span(round);
  span.tile[0].begin = place;
  for_each_key_range(head, span, [&](int64_t key_round, int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t j = head.token(key_round, p);
      const bool in_time = i == j ? head.a.include_self : (!head.a.causal || j < i);
      if (in_time && head.segment(i) >= 0 && head.segment(i) == head.segment(j)) visit(j);
    }
  });
}

// Visits the keys that the query at a place sees in a round.
template <class Visit>
void for_each_key(const Head& head, int64_t round, int64_t place, Visit&& visit) {
  if (head.a.is_chunk_rule)
    for_each_chunk_key(head, round, place, visit);
  else
    for_each_window_key(head, round, place, visit);
}

bool is_finite(const Head& head, const char* row, float* scratch) {
  head.load_raw(row, 1.0f, scratch);
  bool finite = true;
  for (int64_t k = 0; k < head.a.width; ++k) finite &= std::isfinite(scratch[k]);
  return finite;
}

// One query that sees something bad, or is bad: its sums over all rounds.
class ExactQuery {
 public:
  ExactQuery(const Head& head, const ForwardSums& sums, float* rows)
      : head_(head), a_(head.a), sums_(sums), padded_(padded_width(a_.width)),
        dropout_(head, {nullptr, nullptr}), query_(rows), key_(query_ + padded_),
        value_(key_ + padded_) {}

  void clear(int64_t i) const {
    sums_.top[i] = -INFINITY;
    sums_.mass[i] = 0.0f;
    std::fill_n(sums_.total(i), a_.width, 0.0f);
  }

  void add_round(int64_t round, int64_t place) const {
    const int64_t i = head_.token(round, place);
    head_.load_raw(head_.query(i), 1.0f, query_);
    const float old = sums_.top[i];
    float top = old;
    for_each_key(head_, round, place, [&](int64_t j) {
      const float s = score(j);
      if (s > top || std::isnan(s)) top = s;
    });
    const float anchor = top == -INFINITY ? 0.0f : top, shrink = std::exp(old - anchor);
    float* total = sums_.total(i);
    for (int64_t k = 0; k < a_.width; ++k) total[k] *= shrink;
    sums_.mass[i] *= shrink;
    sums_.top[i] = top;
    for_each_key(head_, round, place, [&](int64_t j) {
      const float weight = std::exp(score(j) - anchor);
      const float kept = a_.dropout_threshold ? weight * dropout_.pair(i, j) : weight;
      sums_.mass[i] += weight;
      head_.load_raw(head_.value(j), 1.0f, value_);
      // A value that is not finite is seen whatever its weight.
      for (int64_t k = 0; k < a_.width; ++k)
        total[k] += std::isfinite(value_[k]) ? kept * value_[k] : value_[k];
    });
  }

  void finish(int64_t i) const {
    float* total = sums_.total(i);
    if (sums_.top[i] == -INFINITY) {  // it saw nobody, so it sees itself
      head_.load_raw(head_.query(i), 1.0f, query_);
      head_.load_raw(head_.own_value(i), 1.0f, total);
      head_.lse(i) = score(i);
    } else {
      for (int64_t k = 0; k < a_.width; ++k) total[k] /= sums_.mass[i];
      head_.lse(i) = sums_.top[i] + std::log(sums_.mass[i]);
    }
    char* out = a_.out.at(head_.batch, head_.head, i);
    if (reinterpret_cast<char*>(total) != out) store_row(total, a_.is_bfloat16, a_.width, out);
  }

 private:
  float score(int64_t j) const {
    head_.load_raw(head_.key(j), head_.key_factor(j), key_);
    return float(a_.scale) * dot(query_, key_, padded_);
  }

  const Head& head_;
  const Attention& a_;
  const ForwardSums sums_;
  const int64_t padded_;
  const PairDropout dropout_;
  float *query_, *key_, *value_;
};

// Marks the queries to do again with this bit of tables.bad.
constexpr uint8_t kSeesBad = 4;

void mark_queries_that_see_bad(const Head& head) {
  uint8_t* bad = head.tables.bad;
  for (int64_t round = 0; round < head.a.rounds; ++round)
    for (int64_t place = 0; place < head.a.length; ++place) {
      const int64_t i = head.token(round, place);
      if (bad[i] & kBadQuery) bad[i] |= kSeesBad;
      for_each_key(head, round, place, [&](int64_t j) {
        if (bad[j] & kBadKey) bad[i] |= kSeesBad;
      });
    }
  // Those that see nobody see themselves; doing good ones again costs little. Where values are
  // given on, they read their own row as it is.
  for (int64_t i = 0; !head.a.gives_next && i < head.a.length; ++i)
    if (bad[i] & kBadKey) bad[i] |= kSeesBad;
}

}  // namespace

void find_bad(const Head& head, float* rows) {
  for (int64_t i = 0; i < head.a.length; ++i) {
    uint8_t bad = 0;
    if (!is_finite(head, head.query(i), rows)) bad |= kBadQuery;
    if (!is_finite(head, head.key(i), rows) || !is_finite(head, head.value(i), rows) ||
        !std::isfinite(head.key_factor(i)))
      bad |= kBadKey;
    head.tables.bad[i] = bad;
  }
}

void find_bad_upstream(const Head& head, const PerToken<float>& offset, float* rows) {
  for (int64_t i = 0; i < head.a.length; ++i)
    if (!is_finite(head, head.a.grad_out.at(head.batch, head.head, i), rows) ||
        !std::isfinite(offset[i]) ||
        !std::isfinite(head.lse(i)))
      head.tables.bad[i] |= kBadQuery;
}

void exact_forward(const Head& head, const ForwardSums& sums, float* rows) {
  mark_queries_that_see_bad(head);
  const ExactQuery query(head, sums, rows);
  const auto is_marked = [&](int64_t i) { return head.tables.bad[i] & kSeesBad; };
  for (int64_t i = 0; i < head.a.length; ++i)
    if (is_marked(i)) query.clear(i);
  for (int64_t round = 0; round < head.a.rounds; ++round)
    for (int64_t place = 0; place < head.a.length; ++place)
      if (is_marked(head.token(round, place))) query.add_round(round, place);
  for (int64_t i = 0; i < head.a.length; ++i)
    if (is_marked(i)) query.finish(i);
}

void spoil_gradients(const Head& head, const GradientSums& sums) {
  const auto spoil_key = [&](int64_t j) {
    std::fill_n(sums.key(j), head.a.width, NAN);
    std::fill_n(sums.value(j), head.a.width, NAN);
  };
  const auto is_bad = [&](int64_t i) { return head.tables.bad[i] & kBadQuery; };
  for (int64_t i = 0; i < head.a.length; ++i)
    if (is_bad(i)) std::fill_n(sums.query(i), head.a.width, NAN);
  for (int64_t round = 0; round < head.a.rounds; ++round)
    for (int64_t place = 0; place < head.a.length; ++place)
      if (is_bad(head.token(round, place))) for_each_key(head, round, place, spoil_key);
}

}  // namespace reformer
