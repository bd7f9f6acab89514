// Which kernels this processor gets.
#include "kernels.h"

#include <cstdlib>
#include <string>

namespace glip {

#define GLIP_DECLARE_TABLES(space)                    \
  namespace space {                                   \
  const Kernels<float>& float_table(const char*);     \
  const Kernels<double>& double_table(const char*);   \
  }

GLIP_DECLARE_TABLES(simd_default)
#if defined(__x86_64__)
GLIP_DECLARE_TABLES(simd_avx2)
GLIP_DECLARE_TABLES(simd_avx512)
#if defined(GLIP_COMPILE_AVX512_BF16)
GLIP_DECLARE_TABLES(simd_avx512_bf16)
#else
namespace simd_avx512_bf16 = simd_avx512;
#endif
#endif

namespace {

enum class Capability { kDefault, kAvx2, kAvx512, kAvx512BFloat16 };

Capability best_capability() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    return Capability::kDefault;
  }
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl")) {
    return Capability::kAvx2;
  }
  return __builtin_cpu_supports("avx512bf16") ? Capability::kAvx512BFloat16 : Capability::kAvx512;
#else
  return Capability::kDefault;
#endif
}

Capability chosen_capability() {
  const Capability best = best_capability();
  const char* const wish = std::getenv("GLIP_CPU_CAPABILITY");
  if (wish == nullptr) return best;
  const std::string name = wish;
  Capability wanted = best;
  if (name == "default") wanted = Capability::kDefault;
  if (name == "avx2") wanted = Capability::kAvx2;
  if (name == "avx512") wanted = Capability::kAvx512;
  return wanted < best ? wanted : best;
}

Capability capability() {
  static const Capability chosen = chosen_capability();
  return chosen;
}

}  // namespace

#if defined(__x86_64__)
#define GLIP_CHOOSE(table)                                                            \
  switch (capability()) {                                                             \
    case Capability::kAvx2: return simd_avx2::table("avx2");                          \
    case Capability::kAvx512: return simd_avx512::table("avx512");                    \
    case Capability::kAvx512BFloat16: return simd_avx512_bf16::table("avx512_bf16");  \
    case Capability::kDefault: break;                                                 \
  }                                                                                   \
  return simd_default::table("default");
#else
#define GLIP_CHOOSE(table) return simd_default::table("default");
#endif

template <>
const Kernels<float>& kernels<float>() {
  GLIP_CHOOSE(float_table)
}

template <>
const Kernels<double>& kernels<double>() {
  GLIP_CHOOSE(double_table)
}

}  // namespace glip
