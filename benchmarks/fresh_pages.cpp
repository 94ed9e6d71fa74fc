// What new memory costs on this machine: gigabytes a second at which one thread touches 2 GB that were
// just mapped, in large pages: at once after the last ones were given back, and seconds later.
//
// A virtual machine's host may take back what lies free in it. Then new memory comes from the host,
// page by page, and not only from the system inside.
//
//     g++ -O2 benchmarks/fresh_pages.cpp -o fresh_pages && ./fresh_pages

#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

namespace {

constexpr size_t kLarge = size_t(2) << 20, kSize = size_t(2) << 30;

// Seconds to touch new memory, which is then given back; below zero where there is none.
double touch() {
  char* memory = static_cast<char*>(std::aligned_alloc(kLarge, kSize));
  if (!memory || madvise(memory, kSize, MADV_HUGEPAGE) != 0) return -1;
  const auto start = std::chrono::steady_clock::now();
  for (size_t i = 0; i < kSize; i += 4096) static_cast<volatile char*>(memory)[i] = 1;
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  std::free(memory);
  return time.count();
}

}  // namespace

int main() {
  for (const unsigned pause : {0u, 0u, 1u, 2u, 4u, 8u, 0u}) {
    sleep(pause);
    const double seconds = touch();
    if (seconds < 0) return std::perror("large pages"), 1;
    std::printf("%u s after the last: %.2f GB/s\n", pause, kSize / seconds / 1e9);
  }
}
