// e^x for vectors, with a relative error below 1.3e-7.
#pragma once

#include "simd.h"

namespace reformer {

// x log2(e) = n + f with |f| <= 1/2, and 2^f by a polynomial with p(0) = 1 (minimax: 2e-9 before
// rounding). n ln(2) is taken off x in two parts, of which the first is exact: x log2(e) would be
// rounded before n is taken off, by more the further x is from 0. exp_of(0) is exactly 1; where
// e^x < 2^-126 the result is 0; NaN stays NaN. For x up to 87.
REFORMER_INLINE Floats exp_of(Floats x) {
  const Floats shift = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Floats log2e = splat(1.44269504088896340736f);
  const Floats shifted = x * log2e + shift;
  const Floats n = shifted - shift;
  const Floats f = ((x - n * 0.693359375f) + n * 2.12194440e-4f) * log2e;
  Floats p = f * 1.5353362e-4f + 1.3398874e-3f;
  p = p * f + 9.6184369e-3f;
  p = p * f + 5.5503324e-2f;
  p = p * f + 2.4022648e-1f;
  p = p * f + 6.9314718e-1f;
  p = p * f + 1.0f;
  const Words exponent = ((Words)shifted << 23) + 0x3f800000u;
  return keep_where(~(x < -87.33654f), p * (Floats)exponent);
}

}  // namespace reformer
