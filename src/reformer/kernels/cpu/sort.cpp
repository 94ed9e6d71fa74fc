// The order of tokens by (segment, bucket, position) and their window codes: a counting sort,
// digit by digit, which is stable and one pass for the usual number of buckets.

#include "sort.h"

#include <algorithm>
#include <vector>

#include "arena.h"
#include "parallel.h"

namespace reformer {

namespace {

constexpr int64_t kMostDigits = 1 << 16;

struct Scratch {
  int32_t *tokens, *sorted, *counts;
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

// Sorts s.tokens[0 … count) by key(token) >= 0, stably.
template <class Key>
void sort_by(Scratch& s, int64_t count, int64_t largest, const Key& key) {
  int bits = 8;
  while (bits < 16 && (int64_t(1) << bits) <= largest && (int64_t(1) << bits) < 2 * count) ++bits;
  const int64_t digits = int64_t(1) << bits;
  for (int shift = 0; shift < 63 && (largest >> shift) > 0; shift += bits) {
    std::fill(s.counts, s.counts + digits, 0);
    for (int64_t i = 0; i < count; ++i) ++s.counts[(key(s.tokens[i]) >> shift) & (digits - 1)];
    int32_t place = 0;
    for (int64_t d = 0; d < digits; ++d) {
      const int32_t size = s.counts[d];
      s.counts[d] = place;
      place += size;
    }
    for (int64_t i = 0; i < count; ++i) {
      const int32_t token = s.tokens[i];
      s.sorted[s.counts[(key(token) >> shift) & (digits - 1)]++] = token;
    }
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

template <class Bucket>
void sort_row(const Sorting& a, int64_t row, Scratch s, const int32_t* segments) {
  const Bucket* buckets = static_cast<const Bucket*>(a.buckets) + row * a.length;
  int64_t real = 0, largest = 0, last_segment = 0;
  for (int64_t i = 0; i < a.length; ++i) {
    if (segments && segments[i] < 0) continue;
    s.tokens[real++] = int32_t(i);
    largest = std::max(largest, int64_t(buckets[i]));
    if (segments) last_segment = std::max<int64_t>(last_segment, segments[i]);
  }
  sort_by(s, real, largest, [&](int32_t token) { return int64_t(buckets[token]); });
  sort_by(s, real, last_segment, [&](int32_t token) { return int64_t(segments[token]); });
  int64_t padding = real;
  for (int64_t i = 0; segments && i < a.length; ++i)
    if (segments[i] < 0) s.tokens[padding++] = int32_t(i);
  if (a.is_wide)
    write_order<int64_t>(a, row, s, real, buckets, segments);
  else
    write_order<int32_t>(a, row, s, real, buckets, segments);
}

// In the integer type of the buckets.
void sort_row(const Sorting& a, int64_t row, const Scratch& s, const int32_t* segments) {
  switch (a.bucket_bytes) {
    case 1: return a.is_unsigned ? sort_row<uint8_t>(a, row, s, segments)
                                 : sort_row<int8_t>(a, row, s, segments);
    case 2: return sort_row<int16_t>(a, row, s, segments);
    case 4: return sort_row<int32_t>(a, row, s, segments);
    default: sort_row<int64_t>(a, row, s, segments);
  }
}

int64_t sort_tokens(const Sorting& a) {
  const int threads = int(std::clamp<int64_t>(a.threads, 1, 1024));
  const int64_t rows = a.batch * a.heads * a.rounds, per_batch = a.heads * a.rounds;
  const int64_t num_ids = a.segment_ids ? a.batch * a.length : 0;
  const int64_t own = 2 * a.length * 4 + kMostDigits * 4 + 3 * 64;
  Arena memory(threads * own + num_ids * (8 + 4) + 2 * 64);
  if (!memory.has_memory()) return kNoMemory;
  std::vector<Scratch> scratch;
  for (int i = 0; i < threads; ++i)
    scratch.push_back({memory.take<int32_t>(a.length), memory.take<int32_t>(a.length),
                       memory.take<int32_t>(kMostDigits)});
  int64_t* distinct = memory.take<int64_t>(num_ids);
  int32_t* segments = memory.take<int32_t>(num_ids);
  parallel(threads, [&](Worker worker) {
    worker.share(segments ? a.batch : 0, [&](int64_t b) {
      rank_segments(a.segment_ids + b * a.length, a.length, distinct + b * a.length,
                    segments + b * a.length);
    });
    worker.share(rows, [&](int64_t row) {
      sort_row(a, row, scratch[worker.rank],
               segments ? segments + row / per_batch * a.length : nullptr);
    });
  });
  return kDone;
}

}  // namespace
}  // namespace reformer

int64_t reformer_sort_tokens(const reformer::Sorting* sorting) {
  return reformer::sort_tokens(*sorting);
}
