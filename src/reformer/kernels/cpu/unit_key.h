// The factor from a query to the key that it shares: k = q / sqrt(mean(q^2) + epsilon) / sqrt(K).
#pragma once

#include <cmath>
#include <cstdint>

namespace reformer {

// Of the sum of q^2. Rounded once: the error of this one number is in every number of the key.
inline float unit_key_factor(float squares, int64_t width, double epsilon) {
  return float(1.0 / std::sqrt(double(squares) + double(width) * epsilon));
}

}  // namespace reformer
