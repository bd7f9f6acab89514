// Kernels for x86-64 processors with avx2,fma.
#include "kernel_headers.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define GLIP_SIMD_NAMESPACE simd_avx2
#define GLIP_SIMD_BYTES 32
#define GLIP_SIMD_LEVEL 2
#include "simd_kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
