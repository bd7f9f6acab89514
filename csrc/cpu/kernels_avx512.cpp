// Kernels for x86-64 processors with avx2,fma,avx512f,avx512bw,avx512dq,avx512vl.
#include "kernel_headers.h"

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#endif

#define GLIP_SIMD_NAMESPACE simd_avx512
#define GLIP_SIMD_BYTES 64
#define GLIP_SIMD_LEVEL 3
#include "simd_kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
