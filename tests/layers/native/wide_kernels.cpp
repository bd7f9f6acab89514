// Kernels with vectors of 64 bytes and bfloat16 products, which the compiler makes of whatever the
// processor has: what the AVX-512 kernels do, on any machine (slowly).
#include "cpu/kernel_headers.h"

#define GLIP_SIMD_NAMESPACE simd_wide
#define GLIP_SIMD_BYTES 64
#define GLIP_SIMD_LEVEL 0
#define GLIP_EMULATE_BFLOAT16 1
#include "cpu/simd_kernels.h"

namespace glip {

template <>
const Kernels<float>& kernels<float>() {
  return simd_wide::float_table("wide");
}

template <>
const Kernels<double>& kernels<double>() {
  return simd_wide::double_table("wide");
}

}  // namespace glip
