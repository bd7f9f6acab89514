// The inner loops behind kernels.h, included once per instruction set by kernels_*.cpp.
//
// The including file reads the standard headers first (kernel_headers.h), then tells the compiler
// which instructions it may use, then includes this file: functions of the standard library must not
// be compiled for newer instructions, or the linker might hand them to code that runs anywhere.

#include "simd.h"
#include "simd_dynamic_mean.h"
#include "simd_focal.h"
#include "simd_gemm.h"
#include "simd_overlaps.h"
#include "simd_sampling.h"

namespace glip::GLIP_SIMD_NAMESPACE {

template <typename T>
Kernels<T> make_table(const char* name) {
  Kernels<T> table{};
  table.name = name;
  table.lanes = kLanes<T>;
  table.gemm_panel = 2 * kLanes<T>;
  table.overlaps = &overlaps<T>;
  table.gemm = &gemm<T>;
  table.gather = &gather<T>;
  table.deform_backward = &deform_backward<T>;
  table.weighted_sum = &weighted_sum<T>;
  table.weighted_scatter = &weighted_scatter<T>;
  table.dynamic_mean = &dynamic_mean<T>;
  table.dynamic_mean_backward = &dynamic_mean_backward<T>;
  table.focal_row = &focal_row<T>;
  table.focal_row_backward = &focal_row_backward<T>;
  table.token_focal_row = &token_focal_row<T>;
  table.token_focal_row_backward = &token_focal_row_backward<T>;
  if constexpr (sizeof(T) == sizeof(float)) {
    table.gather_widening = &gather_widening;
    table.gather_bfloat16 = &gather_bfloat16;
#if defined(GLIP_HAS_BFLOAT16_PRODUCT)
    table.gemm_bfloat16 = &gemm_bfloat16;
#endif
  }
  return table;
}

const Kernels<float>& float_table(const char* name) {
  static const Kernels<float> table = make_table<float>(name);
  return table;
}

const Kernels<double>& double_table(const char* name) {
  static const Kernels<double> table = make_table<double>(name);
  return table;
}

}  // namespace glip::GLIP_SIMD_NAMESPACE
