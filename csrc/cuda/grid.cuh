// How the kernels walk over their work. Everything here and in the kernels_*.cuh also compiles as plain
// C++ with one "thread", which is how the tests run the kernels on machines without a GPU.
#pragma once

#include <cstdint>

namespace glip::cuda {

// Every thread takes elements `index, index + number of threads, ...` below `count`.
#define GLIP_GRID_LOOP(index, count)                                                     \
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;      \
       index < (count); index += static_cast<int64_t>(blockDim.x) * gridDim.x)

// Products that must be rounded before they are added to something.
__device__ inline float rounded_product(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

__device__ inline double rounded_product(double a, double b) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

}  // namespace glip::cuda
