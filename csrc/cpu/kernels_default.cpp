// Kernels for every processor of the architecture.
#include "kernel_headers.h"

#define GLIP_SIMD_NAMESPACE simd_default
#define GLIP_SIMD_BYTES 16
#define GLIP_SIMD_LEVEL 0
#include "simd_kernels.h"
