// How the work of a round is cut: blocks of places for the threads, spans of a few query tiles
// inside a block, and for every tile the places of the keys that it may see.
//
// A place is an index into a round's order. The cuts depend on the order alone.
#pragma once

#include <algorithm>
#include <cstring>

#include "head.h"

namespace reformer {

constexpr int kSpanTiles = 4;
constexpr int kSpan = kSpanTiles * kTile;
// Keys are gathered in blocks of whole groups.
constexpr int kKeys = 96;
static_assert(kKeys % kGroup == 0, "a key block is made of whole groups");

inline int64_t chunks_per_round(const Attention& a) { return (a.length + a.window - 1) / a.window; }

struct QueryTile {
  int64_t begin, end;                  // places of the queries
  int64_t key_begin = 0, key_end = 0;  // window rule: places of the keys
};

struct Span {
  explicit Span(int64_t round) : round(round) {}
  int64_t round;
  int tiles = 0;
  QueryTile tile[kSpanTiles];
};

// Blocks of a round. Blocks of one colour touch different keys, as long as each is at least as
// long as the reach of a window on both sides together.
class Blocks {
 public:
  explicit Blocks(const Head& head) : head_(head) {
    const Attention& a = head.a;
    if (a.is_chunk_rule) {
      const int64_t chunks = std::max<int64_t>(a.before + a.after, kSmallest / a.window);
      size_ = a.window * std::min(std::max<int64_t>(chunks, 1), chunks_per_round(head_.a));
    } else {
      size_ = std::max<int64_t>(kSmallest, head.window() * (a.causal ? 1 : 2));
    }
  }
  int64_t count() const { return (head_.a.length + size_ - 1) / size_; }
  int64_t begin(int64_t block) const { return block * size_; }
  int64_t end(int64_t block) const { return std::min(head_.a.length, (block + 1) * size_); }

  // Chunk rule: blocks whose keys may lie in another round, or in any chunk at all.
  bool wraps(int64_t block) const {
    if (!head_.a.is_chunk_rule) return false;
    const int64_t first = begin(block) / head_.a.window, last = (end(block) - 1) / head_.a.window;
    return first < head_.a.before || last + head_.a.after >= chunks_per_round(head_.a);
  }

 private:
  static constexpr int64_t kSmallest = 1024;
  const Head& head_;
  int64_t size_;
};

// The runs of a round under the window rule.
class Runs {
 public:
  Runs(const Head& head, int64_t round) : starts_(head.starts(round)), length_(head.a.length) {}

  // First place of the run that holds `place`, or `earliest` if the run began before it.
  int64_t begin(int64_t place, int64_t earliest) const {
    if (!starts_) return earliest;
    while (place > earliest && !starts_[place]) --place;
    return place;
  }
  // The place after the run that holds `place`, or `latest` if the run goes on there.
  int64_t end(int64_t place, int64_t latest) const {
    latest = std::min(latest, length_);
    if (!starts_ || place + 1 >= latest) return latest;
    const void* found = std::memchr(starts_ + place + 1, 1, size_t(latest - place - 1));
    return found ? static_cast<const uint8_t*>(found) - starts_ : latest;
  }
  // A tile from `place` to at most `limit`. It ends early, with a run, where that costs few
  // lanes: the next tile then sees no keys of this run.
  int64_t tile_end(int64_t place, int64_t limit) const {
    constexpr int kEnoughLanes = 11;
    if (!starts_) return limit;
    for (int64_t p = limit; p >= place + kEnoughLanes && p < length_; --p)
      if (starts_[p]) return p;
    return limit;
  }

 private:
  const uint8_t* starts_;
  int64_t length_;
};

template <class Visit>
void window_spans(const Head& head, int64_t round, int64_t begin, int64_t end, Visit&& visit) {
  const Attention& a = head.a;
  const Runs runs(head, round);
  const int64_t reach = head.window() - 1;
  int64_t place = begin;
  while (place < end) {
    Span span(round);
    while (place < end && span.tiles < kSpanTiles) {
      QueryTile& tile = span.tile[span.tiles++];
      tile.begin = place;
      tile.end = runs.tile_end(place, std::min(place + kTile, end));
      tile.key_begin = runs.begin(place, std::max<int64_t>(0, place - reach));
      tile.key_end = a.causal ? tile.end - !a.include_self
                              : runs.end(tile.end - 1, tile.end + reach);
      place = tile.end;
    }
    visit(span);
  }
}

template <class Visit>
void chunk_spans(const Head& head, int64_t round, int64_t begin, int64_t end, Visit&& visit) {
  const int64_t chunk = head.a.window;
  int64_t place = begin;
  while (place < end) {
    Span span(round);
    const int64_t chunk_end = std::min(end, (place / chunk + 1) * chunk);
    while (place < chunk_end && span.tiles < kSpanTiles) {
      QueryTile& tile = span.tile[span.tiles++];
      tile.begin = place;
      tile.end = place = std::min(place + kTile, chunk_end);
    }
    visit(span);
  }
}

// Visits the spans of the places [begin, end) of a round.
template <class Visit>
void for_each_span(const Head& head, int64_t round, int64_t begin, int64_t end, Visit&& visit) {
  if (head.a.is_chunk_rule)
    chunk_spans(head, round, begin, end, visit);
  else
    window_spans(head, round, begin, end, visit);
}

// Visits (round, begin, end): the places of all keys that a span may see.
template <class Visit>
void for_each_key_range(const Head& head, const Span& span, Visit&& visit) {
  const Attention& a = head.a;
  if (!a.is_chunk_rule) {
    int64_t end = 0;
    for (int t = 0; t < span.tiles; ++t) end = std::max(end, span.tile[t].key_end);
    visit(span.round, span.tile[0].key_begin, end);
    return;
  }
  const int64_t chunk = a.window, per_round = chunks_per_round(a);
  const int64_t total = per_round * a.rounds;
  const int64_t own = span.round * per_round + span.tile[0].begin / chunk;
  for (int64_t g = own - a.before; g <= own + a.after; ++g) {
    const int64_t wrapped = ((g % total) + total) % total;
    const int64_t begin = wrapped % per_round * chunk;
    visit(wrapped / per_round, begin, std::min(a.length, begin + chunk));
  }
}

// Chunk rule: a round has fewer chunks than a query looks at, and so it meets some tokens again.
inline bool meets_tokens_again(const Attention& a) {
  return a.is_chunk_rule && a.before + 1 + a.after > chunks_per_round(a);
}

// Where the keys [begin, end) of a block meet what a tile may see: whole groups, relative to
// the block's begin.
struct Groups {
  int begin, end;
  bool empty() const { return begin >= end; }
};

REFORMER_INLINE Groups visible_groups(const Head& head, const QueryTile& tile, int64_t begin,
                                      int64_t end) {
  int64_t first = 0, last = end - begin;
  if (!head.a.is_chunk_rule) {
    first = std::max(tile.key_begin - begin, first);
    last = std::min(tile.key_end - begin, last);
  }
  if (first >= last) return {0, 0};
  return {int(first / kGroup * kGroup), int(round_up(last, kGroup))};
}

}  // namespace reformer
