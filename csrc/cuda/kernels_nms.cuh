// Which boxes overlap which, as bits, and the greedy walk over the bits.
#pragma once

#include "grid.cuh"

namespace glip::cuda {

constexpr int kNmsTile = 64;  // bits of a word

template <typename T>
__device__ bool overlaps(const T* a, const T* b, T pixel, T threshold) {
  const T x1 = a[0] > b[0] ? a[0] : b[0], y1 = a[1] > b[1] ? a[1] : b[1];
  const T x2 = a[2] < b[2] ? a[2] : b[2], y2 = a[3] < b[3] ? a[3] : b[3];
  const T width = x2 - x1 + pixel, height = y2 - y1 + pixel;
  if (!(width > T(0) && height > T(0))) return T(0) > threshold;
  const T intersection = rounded_product(width, height);
  const T area_a = rounded_product(a[2] - a[0] + pixel, a[3] - a[1] + pixel);
  const T area_b = rounded_product(b[2] - b[0] + pixel, b[3] - b[1] + pixel);
  return intersection / (area_a + area_b - intersection) > threshold;
}

// mask[i][w] has bit j set if box 64 w + j comes after box i, has its label and overlaps it. Boxes are
// sorted by score; labels may be null. One block of threads takes a tile of 64 x 64 pairs at a time.
template <typename T>
__global__ void nms_mask_kernel(const T* boxes, const int64_t* labels, int64_t count, T pixel,
                                T threshold, unsigned long long* mask) {
  __shared__ T tile[kNmsTile * 4];
  __shared__ int64_t tile_labels[kNmsTile];
  const int64_t words = (count + kNmsTile - 1) / kNmsTile;
  for (int64_t pair = blockIdx.x; pair < words * words; pair += gridDim.x) {
    const int64_t first_row = pair / words * kNmsTile, word = pair % words;
    const int64_t first = word * kNmsTile;
    const int64_t rows = count - first_row < kNmsTile ? count - first_row : kNmsTile;
    const int64_t columns = count - first < kNmsTile ? count - first : kNmsTile;
    for (int64_t t = threadIdx.x; t < columns; t += blockDim.x) {
      for (int k = 0; k < 4; ++k) tile[t * 4 + k] = boxes[(first + t) * 4 + k];
      tile_labels[t] = labels == nullptr ? 0 : labels[first + t];
    }
    __syncthreads();
    for (int64_t t = threadIdx.x; t < rows; t += blockDim.x) {
      const int64_t i = first_row + t;
      unsigned long long bits = 0;
      if (first + columns > i + 1) {
        const int64_t label = labels == nullptr ? 0 : labels[i];
        for (int64_t j = i + 1 > first ? i + 1 - first : 0; j < columns; ++j) {
          if (tile_labels[j] == label && overlaps(boxes + i * 4, tile + j * 4, pixel, threshold)) {
            bits |= 1ULL << j;
          }
        }
      }
      mask[i * words + word] = bits;
    }
    __syncthreads();
  }
}

// Walks the boxes in order and keeps those that no kept box suppresses. To be launched with a single
// block; `removed` holds one word per 64 boxes, zero at the start. Threads own words, so that they
// need to meet only once per 64 boxes.
__global__ void nms_walk_kernel(const unsigned long long* mask, int64_t count,
                                unsigned long long* removed, bool* keep) {
  const int64_t words = (count + kNmsTile - 1) / kNmsTile;
  for (int64_t word = 0; word < words; ++word) {
    unsigned long long gone = removed[word];
    const int64_t end = count - word * kNmsTile < kNmsTile ? count - word * kNmsTile : kNmsTile;
    for (int64_t j = 0; j < end; ++j) {
      const int64_t i = word * kNmsTile + j;
      const bool kept = !(gone >> j & 1);
      if (threadIdx.x == 0) keep[i] = kept;
      if (!kept) continue;
      gone |= mask[i * words + word];
      for (int64_t other = word + 1 + threadIdx.x; other < words; other += blockDim.x) {
        // The owner of a word changes with `word`, but never between two meetings.
        removed[other] |= mask[i * words + other];
      }
    }
    __syncthreads();
  }
}

}  // namespace glip::cuda
