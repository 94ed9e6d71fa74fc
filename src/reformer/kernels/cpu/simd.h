// Vectors of float and int32 whose width is fixed by the instruction set of the build.
//
// Only the compiler's vector extensions are used (GCC, Clang), so one source serves SSE2, AVX2,
// AVX-512 and NEON. REFORMER_VECTOR_BYTES overrides the width: the 64-byte code can then be
// compiled for, and tested on, a machine with narrower registers.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if !defined(REFORMER_VECTOR_BYTES)
#if defined(__AVX512F__)
#define REFORMER_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define REFORMER_VECTOR_BYTES 32
#else
#define REFORMER_VECTOR_BYTES 16
#endif
#endif

#define REFORMER_INLINE inline __attribute__((always_inline))

namespace reformer {

constexpr int kLanes = REFORMER_VECTOR_BYTES / 4;

using Floats = float __attribute__((vector_size(REFORMER_VECTOR_BYTES)));
using Ints = int32_t __attribute__((vector_size(REFORMER_VECTOR_BYTES)));
using Words = uint32_t __attribute__((vector_size(REFORMER_VECTOR_BYTES)));
using Halves = uint16_t __attribute__((vector_size(REFORMER_VECTOR_BYTES / 2)));

template <class Vector, class Element>
REFORMER_INLINE Vector load_as(const Element* from) {
  Vector v;
  std::memcpy(&v, from, sizeof v);
  return v;
}

REFORMER_INLINE Floats load(const float* from) { return load_as<Floats>(from); }
REFORMER_INLINE Ints load(const int32_t* from) { return load_as<Ints>(from); }

template <class Element, class Vector>
REFORMER_INLINE void store(Element* to, Vector v) {
  std::memcpy(to, &v, sizeof v);
}

REFORMER_INLINE Floats splat(float x) { return x - Floats{}; }
REFORMER_INLINE Ints splat(int32_t x) { return x - Ints{}; }
REFORMER_INLINE Words splat(uint32_t x) { return x - Words{}; }

// mask lanes are all ones or all zeros.
REFORMER_INLINE Floats select(Ints mask, Floats yes, Floats no) { return mask ? yes : no; }
REFORMER_INLINE Ints select(Ints mask, Ints yes, Ints no) { return mask ? yes : no; }
REFORMER_INLINE Floats keep_where(Ints mask, Floats x) { return (Floats)((Ints)x & mask); }

// The second where the first is NaN.
REFORMER_INLINE Floats larger(Floats a, Floats b) {
#if defined(__AVX2__) && REFORMER_VECTOR_BYTES == 32
  return _mm256_max_ps(a, b);
#else
  return a > b ? a : b;
#endif
}

REFORMER_INLINE Floats smaller(Floats a, Floats b) {
#if defined(__AVX2__) && REFORMER_VECTOR_BYTES == 32
  return _mm256_min_ps(a, b);
#else
  return a < b ? a : b;
#endif
}

REFORMER_INLINE bool any(Ints mask) {
#if defined(__AVX2__) && REFORMER_VECTOR_BYTES == 32
  return _mm256_movemask_epi8((__m256i)mask) != 0;
#else
  Ints all{};
  for (int i = 0; i < kLanes; ++i) all[0] |= mask[i];
  return all[0] != 0;
#endif
}

// The lanes, each moved `kBy` to the left.
template <int kBy, int... kLane>
REFORMER_INLINE Floats rotated(Floats v, std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(v, v, (kLane + kBy) % kLanes...);
}
// The sum of the lanes: halves are added until one number is left.
template <int kWidth = kLanes>
REFORMER_INLINE float sum(Floats v) {
  if constexpr (kWidth == 1) return v[0];
  else return sum<kWidth / 2>(v + rotated<kWidth / 2>(v, std::make_integer_sequence<int, kLanes>()));
}

// x - x is 0 for a finite number and NaN otherwise.
REFORMER_INLINE Ints is_not_finite(Floats x) { return (x - x) != Floats{}; }

REFORMER_INLINE int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

}  // namespace reformer
