// The inner loops of the operators, as a table of functions for one instruction set.
//
// The loops are written once (simd_kernels.h) and compiled for several instruction sets; kernels<T>()
// chooses by what the processor has, so that one build runs everywhere and fast everywhere.
#pragma once

#include <cstdint>

// AVX-512 with bfloat16 products needs a compiler that knows them.
#if defined(__x86_64__) && (defined(__clang__) || __GNUC__ >= 10)
#define GLIP_COMPILE_AVX512_BF16 1
#endif

namespace glip {

// The most channels that one call of a gathering kernel takes.
constexpr int64_t kMaxGatherChannels = 256;

// bfloat16 as it lies in memory.
struct BFloat16 {
  uint16_t bits;
};

// Boxes as separate arrays, `area` computed by the caller with its pixel convention.
template <typename T>
struct BoxArrays {
  const T* x1;
  const T* y1;
  const T* x2;
  const T* y2;
  const T* area;
};

template <typename T>
struct Box {
  T x1, y1, x2, y2, area;
};

// C (rows x columns) = or += A (rows x depth) B (depth x columns), all in elements.
//
// A is addressed by any two strides. B lies in panels of `gemm_panel` columns: panel p starts at
// b + p * b_panel, its row k at + k * b_row; the last panel must be readable to its full width.
template <typename T>
struct Gemm {
  int64_t rows, columns, depth;
  const T* a;
  int64_t a_row, a_depth;
  const T* b;
  int64_t b_panel, b_row;
  T* c;
  int64_t c_row;
  bool accumulate;
};

// The same with bfloat16 factors. `depth` is even; B holds pairs of rows interleaved, so that its
// row pair k is `2 * gemm_panel` numbers long; A is contiguous along the depth.
struct GemmBFloat16 {
  int64_t rows, columns, depth;
  const BFloat16* a;
  int64_t a_row;
  const BFloat16* b;
  int64_t b_panel;
  float* c;
  int64_t c_row;
  bool accumulate;
};

// Where one sample of a deformable convolution reads: the pixels (row index into the channels-last
// image, -1 outside) at (y, x), (y, x + 1), (y + 1, x), (y + 1, x + 1), the fractions of y and x,
// and the mask. A sample outside the image altogether has four times -1.
template <typename T>
struct SamplePoint {
  int32_t pixel[4];
  T fraction_y, fraction_x, mask;
};

// What the backward pass of a deformable convolution does at one kernel point: for every sample,
// from the gradient of the sampled values (`grad`, one row per sample) to the gradient of the image
// and, summed over the channels, of the four corners. Also the sampled values themselves (`columns`).
template <typename T>
struct DeformBackward {
  const SamplePoint<T>* points;
  int64_t count;
  int64_t channels;       // of this slice
  const T* image;         // at the first channel of the slice
  T* grad_image;          // likewise
  int64_t pixel_stride;   // channels of the whole image
  const T* grad;          // count x row_stride
  T* columns;             // count x row_stride; null: not asked for
  int64_t row_stride;     // at least `channels` rounded up to whole panels
  T* corner_sums;         // 4 per sample
};

// out = the larger of two lines, slope * mean + offset, at every pixel and channel, where mean is the
// weighted sum of up to three maps divided by their number. All maps are `pixels` x `channels`.
template <typename T>
struct DynamicMean {
  int count;              // of maps
  const T* maps[3];
  T weights[3];
  const T* pieces;        // 4 x channels: slope and offset of the first line, of the second
  int64_t pixels, channels;
  T* out;                 // unread in the backward pass
};

// From the gradient of `out` to those of the maps; those of the pieces are added to their sums, and
// the products of map and gradient of the mean summed up.
template <typename T>
struct DynamicMeanBackward {
  DynamicMean<T> forward;
  const T* grad;
  T* grad_maps[3];
  T* piece_sums;          // 4 x channels
  T weight_sums[3];
};

// Indices along one axis and their weights.
template <typename T>
struct AxisWeights {
  const int32_t* index;
  const T* weight;
  int64_t count;
};

template <typename T>
struct Kernels {
  const char* name;
  int64_t lanes;
  int64_t gemm_panel;

  // True if `box` overlaps one of the boxes [0, count) by more than the threshold. The arrays must
  // be readable up to the next multiple of `lanes`, filled with boxes that overlap nothing.
  bool (*overlaps)(const BoxArrays<T>& boxes, int64_t count, const Box<T>& box, T pixel,
                   T threshold);

  void (*gemm)(const Gemm<T>& task);

  // out[i] = mask * bilinear sample, for `channels` channels of each of `count` points.
  void (*gather)(const T* image, int64_t pixel_stride, const SamplePoint<T>* points, int64_t count,
                 int64_t channels, T* out, int64_t out_stride);

  void (*deform_backward)(const DeformBackward<T>& task);

  // out[c] = sum over rows and columns of weight * image[row][column][c].
  void (*weighted_sum)(const T* image, int64_t row_stride, int64_t pixel_stride,
                       const AxisWeights<T>& rows, const AxisWeights<T>& columns, int64_t channels,
                       T* out);

  // image[row][column][c] += weight * values[c], over rows and columns.
  void (*weighted_scatter)(T* image, int64_t row_stride, int64_t pixel_stride,
                           const AxisWeights<T>& rows, const AxisWeights<T>& columns,
                           int64_t channels, const T* values);

  void (*dynamic_mean)(const DynamicMean<T>& task);
  void (*dynamic_mean_backward)(DynamicMeanBackward<T>& task);

  // Focal loss of one row of logits whose positive column is `label - 1`.
  void (*focal_row)(const T* logits, int64_t count, int64_t label, T gamma, T alpha, T* loss);
  void (*focal_row_backward)(const T* logits, const T* grad_loss, int64_t count, int64_t label,
                             T gamma, T alpha, T* grad);

  // Summed focal loss of one row; `counted` is 1 or 0 per column.
  double (*token_focal_row)(const T* logits, const T* targets, const T* counted, int64_t count,
                            T alpha, T gamma);
  void (*token_focal_row_backward)(const T* logits, const T* targets, const T* counted,
                                   int64_t count, T alpha, T gamma, T scale, T* grad);

  // Only in Kernels<float>: bfloat16 images; the product of bfloat16 matrices is null where the
  // processor has no instruction for it.
  void (*gather_widening)(const BFloat16* image, int64_t pixel_stride,
                          const SamplePoint<float>* points, int64_t count, int64_t channels,
                          float* out, int64_t out_stride);
  void (*gather_bfloat16)(const BFloat16* image, int64_t pixel_stride,
                          const SamplePoint<float>* points, int64_t count, int64_t channels,
                          BFloat16* out, int64_t out_stride);
  void (*gemm_bfloat16)(const GemmBFloat16& task);
};

// The table for this processor. The environment variable GLIP_CPU_CAPABILITY = default, avx2 or avx512
// asks for a lesser one (for tests and comparisons).
template <typename T>
const Kernels<T>& kernels();

}  // namespace glip
