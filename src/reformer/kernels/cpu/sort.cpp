// The order of tokens by (segment, bucket, position) and their window codes: a counting sort, in
// one pass where segments and buckets can be counted together, digit by digit where they are many.

#include "sort.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "arena.h"
#include "parallel.h"

namespace reformer {

namespace {

constexpr int64_t kMostBins = 1 << 16;

// Tokens that are sorted to the same places: how many, then the next one's place, and their run.
struct Bin {
  int32_t place, run;
};

struct Scratch {
  int32_t *tokens, *sorted;
  Bin* bins;
};

// Segment ids of one sequence become 0, 1, … in their order, -1 for padding.
void rank_segments(const int64_t* ids, int64_t length, int64_t* distinct, int32_t* ranks) {
  int64_t count = 0;
  for (int64_t i = 0; i < length; ++i)
    if (ids[i] >= 0 && (count == 0 || distinct[count - 1] != ids[i])) distinct[count++] = ids[i];
  std::sort(distinct, distinct + count);
  int64_t* end = std::unique(distinct, distinct + count);
  const int64_t* found = distinct;
  for (int64_t i = 0; i < length; ++i) {
    if (ids[i] < 0) {
      ranks[i] = -1;
      continue;
    }
    if (found == end || *found != ids[i]) found = std::lower_bound(distinct, end, ids[i]);
    ranks[i] = int32_t(found - distinct);
  }
}

// Bins of `length` tokens that cost no more than the tokens do.
int64_t most_bins(int64_t length) { return std::clamp<int64_t>(2 * length, 256, kMostBins); }

// Order and code of tokens by key(token) < count; a negative key is padding, last and a run each.
template <class Index, class Key>
void sort_in_one_pass(const Sorting& a, int64_t row, Bin* bins, int64_t count, const Key& key) {
  Index* order = static_cast<Index*>(a.order) + row * a.length;
  Index* code = static_cast<Index*>(a.code) + row * a.length;
  std::fill(bins, bins + count, Bin{0, 0});
  for (int64_t i = 0; i < a.length; ++i)
    if (const int64_t k = key(i); k >= 0) ++bins[k].place;
  Bin next{0, 0};
  for (int64_t k = 0; k < count; ++k) {
    const int32_t size = bins[k].place;
    bins[k] = next;
    next.place += size;
    next.run += size > 0;
  }
  for (int64_t i = 0; i < a.length; ++i) {
    const int64_t k = key(i);
    const Bin at = k < 0 ? next : bins[k];
    ++(k < 0 ? next : bins[k]).place;
    next.run += k < 0;
    order[at.place] = Index(i);
    code[i] = Index(at.place + a.window * at.run);
  }
}

// Sorts s.tokens[0 … count) by key(token) >= 0, stably.
template <class Key>
void sort_by(Scratch& s, int64_t count, int64_t largest, const Key& key) {
  int bits = 8;
  while ((int64_t(1) << bits) <= std::min(largest, most_bins(count) - 1)) ++bits;
  const int64_t digits = int64_t(1) << bits;
  for (int shift = 0; shift < 63 && (largest >> shift) > 0; shift += bits) {
    const auto bin = [&](int32_t token) -> Bin& {
      return s.bins[(key(token) >> shift) & (digits - 1)];
    };
    std::fill(s.bins, s.bins + digits, Bin{0, 0});
    for (int64_t i = 0; i < count; ++i) ++bin(s.tokens[i]).place;
    int32_t place = 0;
    for (int64_t d = 0; d < digits; ++d) place += std::exchange(s.bins[d].place, place);
    for (int64_t i = 0; i < count; ++i) s.sorted[bin(s.tokens[i]).place++] = s.tokens[i];
    std::swap(s.tokens, s.sorted);
  }
}

template <class Index, class Bucket>
void write_order(const Sorting& a, int64_t row, const Scratch& s, int64_t real,
                 const Bucket* buckets, const int32_t* segments) {
  Index* order = static_cast<Index*>(a.order) + row * a.length;
  Index* code = static_cast<Index*>(a.code) + row * a.length;
  int64_t run = -1;
  for (int64_t p = 0; p < a.length; ++p) {
    const int32_t token = s.tokens[p];
    bool starts = p == 0 || p >= real;  // every padding token is a run of its own
    if (!starts) {
      const int32_t before = s.tokens[p - 1];
      starts = buckets[before] != buckets[token] ||
               (segments && segments[before] != segments[token]);
    }
    run += starts;
    order[p] = Index(token);
    code[token] = Index(p + a.window * run);
  }
}

// For keys of any size.
template <class Index, class Bucket>
void sort_by_digits(const Sorting& a, int64_t row, Scratch s, int64_t largest,
                    int64_t last_segment, const Bucket* buckets, const int32_t* segments) {
  int64_t real = 0;
  for (int64_t i = 0; i < a.length; ++i)
    if (!segments || segments[i] >= 0) s.tokens[real++] = int32_t(i);
  sort_by(s, real, largest, [&](int32_t token) { return int64_t(buckets[token]); });
  sort_by(s, real, last_segment, [&](int32_t token) { return int64_t(segments[token]); });
  int64_t padding = real;
  for (int64_t i = 0; segments && i < a.length; ++i)
    if (segments[i] < 0) s.tokens[padding++] = int32_t(i);
  write_order<Index>(a, row, s, real, buckets, segments);
}

template <class Index, class Bucket>
void sort_row(const Sorting& a, int64_t row, const Scratch& s, const int32_t* segments) {
  const Bucket* buckets = static_cast<const Bucket*>(a.buckets) + row * a.length;
  int64_t largest = 0, last_segment = 0;
  for (int64_t i = 0; i < a.length; ++i) {
    if (segments && segments[i] < 0) continue;
    largest = std::max(largest, int64_t(buckets[i]));
    if (segments) last_segment = std::max<int64_t>(last_segment, segments[i]);
  }
  const int64_t most = most_bins(a.length);
  if (largest >= most || (largest + 1) * (last_segment + 1) > most)
    sort_by_digits<Index>(a, row, s, largest, last_segment, buckets, segments);
  else if (segments)
    sort_in_one_pass<Index>(a, row, s.bins, (largest + 1) * (last_segment + 1), [&](int64_t i) {
      return segments[i] < 0 ? -1 : segments[i] * (largest + 1) + int64_t(buckets[i]);
    });
  else
    sort_in_one_pass<Index>(a, row, s.bins, largest + 1,
                            [&](int64_t i) { return int64_t(buckets[i]); });
}

// In the integer type of the buckets.
template <class Index>
void sort_row(const Sorting& a, int64_t row, const Scratch& s, const int32_t* segments) {
  switch (a.bucket_bytes) {
    case 1: return a.is_unsigned ? sort_row<Index, uint8_t>(a, row, s, segments)
                                 : sort_row<Index, int8_t>(a, row, s, segments);
    case 2: return sort_row<Index, int16_t>(a, row, s, segments);
    case 4: return sort_row<Index, int32_t>(a, row, s, segments);
    default: sort_row<Index, int64_t>(a, row, s, segments);
  }
}

int64_t sort_tokens(const Sorting& a) {
  const int threads = int(std::clamp<int64_t>(a.threads, 1, 1024));
  const int64_t rows = a.batch * a.heads * a.rounds, per_batch = a.heads * a.rounds;
  const int64_t num_ids = a.segment_ids ? a.batch * a.length : 0;
  const int64_t each = 2 * a.length * 4 + kMostBins * int64_t(sizeof(Bin)) + 3 * 64;
  Arena memory(threads * each + num_ids * (8 + 4) + 2 * 64);
  if (!memory.has_memory()) return kNoMemory;
  std::vector<Scratch> scratch;
  for (int i = 0; i < threads; ++i)
    scratch.push_back({memory.take<int32_t>(a.length), memory.take<int32_t>(a.length),
                       memory.take<Bin>(kMostBins)});
  int64_t* distinct = memory.take<int64_t>(num_ids);
  int32_t* segments = memory.take<int32_t>(num_ids);
  parallel(threads, [&](Worker worker) {
    worker.share(segments ? a.batch : 0, [&](int64_t b) {
      rank_segments(a.segment_ids + b * a.length, a.length, distinct + b * a.length,
                    segments + b * a.length);
    });
    worker.share(rows, [&](int64_t row) {
      const int32_t* own = segments ? segments + row / per_batch * a.length : nullptr;
      (a.is_wide ? sort_row<int64_t> : sort_row<int32_t>)(a, row, scratch[worker.rank], own);
    });
  });
  return kDone;
}

}  // namespace
}  // namespace reformer

int64_t reformer_sort_tokens(const reformer::Sorting* sorting) {
  return reformer::sort_tokens(*sorting);
}
