// A team of threads: OpenMP where the build has it, std::thread elsewhere.
//
// Loaded after torch, an OpenMP build shares torch's OpenMP runtime and its threads.
// Work is divided in fixed pieces that do not depend on the size of the team.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#else
#include <thread>
#include <vector>
#endif

namespace reformer {

// What a team of workers counts together.
struct Team {
  std::atomic<int64_t> begun{0}, arrivals{0};
};

class Worker {
 public:
  static Worker alone() { return Worker(0, 1, nullptr); }
  Worker(int rank, int size, Team* team) : rank(rank), size(size), team_(team) {}

  const int rank, size;

  // Waits until every worker of the team is here; what they wrote is then seen by all.
  void barrier() {
    if (size == 1) return;
#if defined(_OPENMP)
#pragma omp barrier
#else
    generation_ += size;
    team_->arrivals.fetch_add(1);
    while (team_->arrivals.load() < generation_) std::this_thread::yield();
#endif
  }

  // Runs body(i) once for each of `count` pieces, on whoever is free, then waits for all.
  template <class Body>
  void share(int64_t count, const Body& body) {
    if (size == 1) {
      for (int64_t i = 0; i < count; ++i) body(i);
      return;
    }
    for (int64_t i; (i = team_->begun.fetch_add(1) - before_) < count;) body(i);
    barrier();
    before_ += count + size;  // each worker has asked for a piece too many
  }
  // The same for ranges [begin, end) of `count` things, `at_a_time` of them each.
  template <class Body>
  void share(int64_t count, int64_t at_a_time, const Body& body) {
    share((count + at_a_time - 1) / at_a_time, [&](int64_t i) {
      body(i * at_a_time, std::min(count, (i + 1) * at_a_time));
    });
  }

 private:
  Team* team_;
  int64_t before_ = 0;      // pieces that earlier calls have begun
  int64_t generation_ = 0;
};

// Runs body(worker) on `threads` workers, or on fewer where no more can be had.
template <class Body>
void parallel(int threads, const Body& body) {
  if (threads <= 1) {
    body(Worker::alone());
    return;
  }
  Team team;
#if defined(_OPENMP)
#pragma omp parallel num_threads(threads)
  body(Worker(omp_get_thread_num(), omp_get_num_threads(), &team));
#else
  std::vector<std::thread> others;
  for (int rank = 1; rank < threads; ++rank)
    others.emplace_back([&, rank] { body(Worker(rank, threads, &team)); });
  body(Worker(0, threads, &team));
  for (std::thread& other : others) other.join();
#endif
}

}  // namespace reformer
