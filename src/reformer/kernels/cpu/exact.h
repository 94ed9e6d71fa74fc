// What is not finite reaches exactly the queries that see it. A fast pass would spread it over a
// tile, since 0 * NaN is NaN; so tokens that are not finite are zeros there, and these functions
// put their effect in, pair by pair. Slow, and run only on heads that hold such numbers.
#pragma once

#include "head.h"

namespace reformer {

// Fills tables.bad from queries, keys and values. rows: scratch for one padded row.
void find_bad(const Head& head, float* rows);

// Marks as bad queries also those whose gradient, offset or lse is not finite.
void find_bad_upstream(const Head& head, const PerToken<float>& offset, float* rows);

struct ForwardSums {
  PerToken<float> top, mass;
  FloatRows total;  // [padded K]
};

// Does out and lse again for bad queries and for those that see bad keys. rows: scratch for
// three padded rows.
void exact_forward(const Head& head, const ForwardSums& sums, float* rows);

// Sums of gradients of every token's query, key and of the value that it gives.
struct GradientSums {
  FloatRows query, key, value;
};

// A bad query makes NaN of its own gradient and of those of all that it sees in a round.
void spoil_gradients(const Head& head, const GradientSums& sums);

}  // namespace reformer
