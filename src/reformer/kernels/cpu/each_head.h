// How heads are shared out: whole heads to single threads, or one head after the other to the
// whole team. Both give the same bits, because the pieces of a head do not depend on the team.
#pragma once

#include <atomic>
#include <vector>

#include "head.h"

namespace reformer {

// Scratch of a head, in bytes, up to which threads have a head each: what is larger they gather from
// together, for the caches and for the memory.
constexpr int64_t kLargestOfMany = int64_t(16) << 20;

// Tokens that a thread passes through at a time.
constexpr int64_t kTokens = 512;

// Runs body(worker, row, shared, own) for every (batch, head) row. Shared::carve gives the
// scratch of one head, Own::carve that of one thread.
template <class Shared, class Own, class Body>
int64_t for_each_head(const Attention& a, const Body& body) {
  const int64_t rows = a.batch * a.heads;
  const int threads = int(std::clamp<int64_t>(a.threads, 1, 1024));
  Arena shared_size, own_size;
  Shared::carve(shared_size, a);
  Own::carve(own_size, a);
  const bool are_many = rows % threads == 0 || rows >= 4 * threads;
  const bool whole_heads = threads == 1 || (are_many && shared_size.used() <= kLargestOfMany);
  const int64_t heads_at_once = whole_heads ? threads : 1;
  Arena memory(heads_at_once * shared_size.used() + threads * own_size.used());
  if (!memory.has_memory()) return kNoMemory;
  std::vector<Shared> shared;
  std::vector<Own> own;
  for (int i = 0; i < heads_at_once; ++i) shared.push_back(Shared::carve(memory, a));
  for (int i = 0; i < threads; ++i) own.push_back(Own::carve(memory, a));
  std::atomic<int64_t> next{0};
  parallel(threads, [&](Worker worker) {
    if (whole_heads) {
      Worker alone = Worker::alone();
      for (int64_t row = next++; row < rows; row = next++)
        body(alone, row, shared[worker.rank], own[worker.rank]);
    } else {
      for (int64_t row = 0; row < rows; ++row) body(worker, row, shared[0], own[worker.rank]);
    }
  });
  return kDone;
}

}  // namespace reformer
