// The arguments of the attention op, as Python passes them (a ctypes.Structure of the same
// layout), and the entry points.
//
// Shapes and meaning are those of `attend` in ops/attention.py.
#pragma once

#include <cstdint>

#define REFORMER_EXPORT __attribute__((visibility("default")))

namespace reformer {

// A tensor [B, H, X, contiguous] by its strides in bytes.
struct Strided {
  char* data;
  int64_t batch, head, row;

  char* at(int64_t b, int64_t h, int64_t x = 0) const {
    return data + b * batch + h * head + x * row;
  }
};

struct Attention {
  Strided query, key, value, out;                        // [B, H, L, K]; no key data: shared
  Strided grad_out, grad_query, grad_key, grad_value;    // backward only
  Strided order, code;                                   // [B, H, R, L]; no data: identity
  Strided lse, grad_lse;                                 // [B, H, L], rows of one float
  const int32_t* segments;                               // [B, L], or null: all one
  int64_t batch, heads, length, width, rounds;
  int64_t is_bfloat16, is_wide_order;                    // order and code are int64, not int32
  int64_t is_chunk_rule, window, causal, include_self, before, after;
  int64_t gives_next;                                    // tokens give their successors' values
  int64_t dropout_seed, dropout_threshold;               // threshold 0: no dropout
  double keep_factor, scale, key_epsilon;
  int64_t threads;

  bool shares_key() const { return key.data == nullptr; }
};

enum Status : int64_t { kDone = 0, kNoMemory = 1 };

}  // namespace reformer

extern "C" REFORMER_EXPORT int64_t reformer_attention_forward(const reformer::Attention*);
extern "C" REFORMER_EXPORT int64_t reformer_attention_backward(const reformer::Attention*);
