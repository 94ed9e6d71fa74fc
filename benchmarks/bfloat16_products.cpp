// Multiply-adds a second of one core: float32 FMA beside bfloat16 dot products, both of 64 bytes.
//
//     g++ -O3 -mavx512f -mavx512bf16 benchmarks/bfloat16_products.cpp -o products && ./products
#include <immintrin.h>

#include <chrono>
#include <cstdio>

namespace {

constexpr long kSteps = 50'000'000;
constexpr int kSums = 16;  // more than the latency of either instruction needs

// Billions of multiply-adds a second; step(sum) does `each` of them.
template <class Step>
double rate(int each, const Step& step) {
  __m512 sums[kSums];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  const auto start = std::chrono::steady_clock::now();
  for (long n = 0; n < kSteps; ++n)
#pragma GCC unroll 16
    for (int i = 0; i < kSums; ++i) sums[i] = step(sums[i]);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  for (__m512& sum : sums) asm volatile("" : "+v"(sum));  // they are needed
  return double(kSteps) * kSums * each / seconds.count() / 1e9;
}

}  // namespace

int main() {
  __m512 x = _mm512_set1_ps(1e-9f);
  auto pairs = (__m512bh)_mm512_set1_epi32(0x3f803f80);
  const double wide = rate(16, [&](__m512 sum) {
    asm volatile("" : "+v"(x));  // not known before it is multiplied
    return _mm512_fmadd_ps(x, x, sum);
  });
  const double narrow = rate(32, [&](__m512 sum) {
    asm volatile("" : "+v"(pairs));
    return _mm512_dpbf16_ps(sum, pairs, pairs);
  });
  std::printf("float32 %.0f, bfloat16 %.0f billion multiply-adds a second\n", wide, narrow);
}
