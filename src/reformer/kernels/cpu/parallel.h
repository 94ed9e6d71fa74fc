// A team of threads: OpenMP where the build has it, std::thread elsewhere.
//
// Loaded after torch, an OpenMP build shares torch's OpenMP runtime and its threads.
// Work is divided in fixed pieces that do not depend on the size of the team.
#pragma once

#include <atomic>
#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#else
#include <thread>
#include <vector>
#endif

namespace reformer {

class Worker {
 public:
  static Worker alone() { return Worker(0, 1, nullptr); }
  Worker(int rank, int size, std::atomic<int64_t>* arrivals)
      : rank(rank), size(size), arrivals_(arrivals) {}

  const int rank, size;

  // This worker's share of `count` things: [begin, end).
  int64_t begin(int64_t count) const { return count * rank / size; }
  int64_t end(int64_t count) const { return count * (rank + 1) / size; }

  // Waits until every worker of the team is here; what they wrote is then seen by all.
  void barrier() {
    if (size == 1) return;
#if defined(_OPENMP)
#pragma omp barrier
#else
    generation_ += size;
    arrivals_->fetch_add(1);
    while (arrivals_->load() < generation_) std::this_thread::yield();
#endif
  }

 private:
  std::atomic<int64_t>* arrivals_;
  int64_t generation_ = 0;
};

// Runs body(worker) on `threads` workers, or on fewer where no more can be had.
template <class Body>
void parallel(int threads, const Body& body) {
  if (threads <= 1) {
    body(Worker::alone());
    return;
  }
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
  body(Worker(omp_get_thread_num(), omp_get_num_threads(), nullptr));
#else
  std::atomic<int64_t> arrivals{0};
  std::vector<std::thread> team;
  for (int rank = 1; rank < threads; ++rank)
    team.emplace_back([&, rank] { body(Worker(rank, threads, &arrivals)); });
  body(Worker(0, threads, &arrivals));
  for (std::thread& member : team) member.join();
#endif
}

}  // namespace reformer
