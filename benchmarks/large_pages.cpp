// Whether large pages help on this machine: nanoseconds for one of a chain of loads, each from a
// page of 4 KB of its own, in memory that the system maps in pages of 2 MB.
//
// All that is read fits the second-level cache. So the time stays the same however many pages there
// are, if the processor translates addresses by large pages; it grows from about two thousand pages
// on, if under a virtual machine they are cut into small ones.
//
//     g++ -O2 benchmarks/large_pages.cpp -o large_pages && ./large_pages

#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

namespace {

constexpr size_t kLarge = size_t(2) << 20;
// A page and a line, so that lines do not fall into the same sets of the caches.
constexpr size_t kStep = 4096 + 64;
constexpr int kLoads = 5'000'000;

// The first load of a chain through `count` places in a random order.
void** chain(char* memory, size_t count) {
  std::vector<size_t> order(count);
  for (size_t i = 0; i < count; ++i) order[i] = i;
  std::shuffle(order.begin(), order.end(), std::mt19937(1));
  const auto place = [&](size_t i) { return memory + order[i % count] * kStep; };
  for (size_t i = 0; i < count; ++i) *reinterpret_cast<void**>(place(i)) = place(i + 1);
  return reinterpret_cast<void**>(memory);
}

void** follow(void** at, int loads) {
  for (int i = 0; i < loads; ++i) at = static_cast<void**>(*at);
  return at;
}

}  // namespace

int main() {
  for (const size_t count : {256, 512, 1024, 2048, 4096, 8192, 16384}) {
    const size_t size = (count * kStep + kLarge - 1) / kLarge * kLarge;
    char* memory = static_cast<char*>(std::aligned_alloc(kLarge, size));
    if (!memory || madvise(memory, size, MADV_HUGEPAGE) != 0) return std::perror("large pages"), 1;
    void** warm = follow(chain(memory, count), kLoads);
    const auto start = std::chrono::steady_clock::now();
    void** end = follow(warm, kLoads);
    const std::chrono::duration<double, std::nano> time = std::chrono::steady_clock::now() - start;
    std::printf("%6zu pages %6.1f ns%s\n", count, time.count() / kLoads, end ? "" : "?");
    std::free(memory);
  }
}
