// Rows of K numbers, float32 or bfloat16 in memory, float32 and padded with zeros in scratch.
#pragma once

#include <algorithm>

#include "attention.h"
#include "product.h"
#include "simd.h"

namespace reformer {

// Something of every token: a row of a tensor, or a field of its record.
template <class T>
struct PerToken {
  char* data = nullptr;
  int64_t stride = 0;  // bytes
  T* operator()(int64_t token) const { return reinterpret_cast<T*>(data + token * stride); }
  T& operator[](int64_t token) const { return *(*this)(token); }
};
using FloatRows = PerToken<float>;

// Bytes of a row in the tensors' dtype.
REFORMER_INLINE int64_t row_bytes(const Attention& a) { return a.width * (a.is_bfloat16 ? 2 : 4); }

// K rounded up to whole vectors: the width of every row in scratch.
REFORMER_INLINE int64_t padded_width(int64_t width) { return round_up(width, kLanes); }

// Whether rows of a result are summed in place: tokens in their own order, float32, whole vectors.
REFORMER_INLINE bool sums_in_place(const Attention& a) {
  return !a.order.data && !a.is_bfloat16 && a.width % kLanes == 0;
}

// Rows of a tensor of the same head.
template <class T>
REFORMER_INLINE PerToken<T> rows_of(const Strided& tensor, int64_t batch, int64_t head) {
  return {tensor.at(batch, head), tensor.row};
}

REFORMER_INLINE float from_bfloat16(uint16_t bits) {
  const uint32_t wide = uint32_t(bits) << 16;
  float x;
  std::memcpy(&x, &wide, 4);
  return x;
}

// Round to nearest, ties to even; NaN stays NaN.
REFORMER_INLINE uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return uint16_t(bits >> 16) | 0x40;
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// Asks for a row that will be needed in a while: into the second-level cache.
REFORMER_INLINE void prefetch_row(const void* row, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64)
    __builtin_prefetch(static_cast<const char*>(row) + i, 0, 2);
}

// to[0 … padded) = factor * from[0 … width); reads nothing past the row.
REFORMER_INLINE void load_row(const char* from, bool is_bfloat16, int64_t width, float factor,
                              float* to) {
  const int64_t padded = padded_width(width);
  const Floats scale = splat(factor);
  int64_t k = 0;
  if (is_bfloat16) {
    const auto* numbers = reinterpret_cast<const uint16_t*>(from);
    for (; k + kLanes <= width; k += kLanes) {
      const Words wide = __builtin_convertvector(load_as<Halves>(numbers + k), Words);
      store(to + k, (Floats)(wide << 16) * scale);
    }
    for (; k < width; ++k) to[k] = from_bfloat16(numbers[k]) * factor;
  } else {
    const auto* numbers = reinterpret_cast<const float*>(from);
    for (; k + kLanes <= width; k += kLanes) store(to + k, load(numbers + k) * scale);
    for (; k < width; ++k) to[k] = numbers[k] * factor;
  }
  for (; k < padded; ++k) to[k] = 0.0f;
}

// to[0 … width) = from, in the tensor's dtype.
REFORMER_INLINE void store_row(const float* from, bool is_bfloat16, int64_t width, char* to) {
  if (is_bfloat16) {
    for (int64_t k = 0; k < width; ++k) {
      const uint16_t bits = to_bfloat16(from[k]);
      std::memcpy(to + 2 * k, &bits, 2);
    }
  } else {
    std::memcpy(to, from, size_t(width) * 4);
  }
}

REFORMER_INLINE float dot(const float* a, const float* b, int64_t padded) {
  Floats total{};
  for (int64_t k = 0; k < padded; k += kLanes) total += load(a + k) * load(b + k);
  return sum(total);
}

// a * b + c, rounded once where the vectors' is.
REFORMER_INLINE float multiply_add(float a, float b, float c) {
#if defined(__FMA__) || defined(__aarch64__)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

// The same of kCount rows, summed over k in order, as `product` does: what is the same there and
// here is the same to the last bit.
template <int kCount>
REFORMER_INLINE void dots_in_order(const float* a, const float* b, int64_t padded, float* dots) {
  float total[kCount] = {};
  for (int64_t k = 0; k < padded; ++k)
#pragma GCC unroll 16
    for (int i = 0; i < kCount; ++i)
      total[i] = multiply_add(a[i * padded + k], b[i * padded + k], total[i]);
  std::copy_n(total, kCount, dots);
}

using Quad = float __attribute__((vector_size(16)));

// columns[k][lane] = factor * rows[lane][k] for kTile rows of `padded` numbers.
REFORMER_INLINE void transpose_tile(const float* rows, int64_t padded, float factor,
                                    float* columns) {
  for (int lane = 0; lane < kTile; lane += 4)
    for (int64_t k = 0; k < padded; k += 4) {
      const float* at = rows + lane * padded + k;
      const Quad a = load_as<Quad>(at) * factor, b = load_as<Quad>(at + padded) * factor;
      const Quad c = load_as<Quad>(at + 2 * padded) * factor;
      const Quad d = load_as<Quad>(at + 3 * padded) * factor;
      const Quad ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
      const Quad ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const Quad cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
      const Quad cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      float* to = columns + k * kTile + lane;
      store(to, __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
      store(to + kTile, __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
      store(to + 2 * kTile, __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
      store(to + 3 * kTile, __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
    }
}

}  // namespace reformer
