// Which of the builds this processor can run.

#include <cstdint>

// 1 if every feature that the build named by `level` was compiled with is there.
extern "C" __attribute__((visibility("default"))) int64_t reformer_can_run(int64_t level) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (level == 0) return 1;
  if (level == 1) return avx2;
  if (level == 2) return avx512;
  return 0;
#else
  return level == 0;
#endif
}
