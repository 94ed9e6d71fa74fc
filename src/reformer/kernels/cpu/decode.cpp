// Appending to cached sequences, one layer's attention at a time; see append.h.

#include "append.h"

extern "C" __attribute__((visibility("default"))) int64_t reformer_decode(const void* arguments) {
  using namespace reformer::appending;
  const Decode& d = *static_cast<const Decode*>(arguments);
  write_tokens(d);
  const int threads = attention_work(d) > kParallelWork ? (int)d.threads : 1;
  reformer::parallel(threads, [&](Worker worker) { attend_share(d, worker); });
  return 0;
}
