// Matrix products of blocks that fit the caches. Part of simd_kernels.h.

namespace glip::GLIP_SIMD_NAMESPACE {
namespace {

// Rows of a tile: with two vectors per row the sums just fit the registers.
constexpr int kTileRows = GLIP_SIMD_BYTES == 64 ? 12 : 6;

// A tile at the right border is computed in a buffer of whole panels.
template <typename T, int kRows>
GLIP_INLINE void copy_tile(const T* from, int64_t from_row, T* to, int64_t to_row, int64_t width) {
  for (int i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < width; ++j) to[i * to_row + j] = from[i * from_row + j];
  }
}

template <typename T, int kRows>
GLIP_INLINE void gemm_tile(const Gemm<T>& task, const T* a, const T* b, T* c, int64_t width) {
  constexpr int64_t kPanel = 2 * kLanes<T>;
  const bool whole = width == kPanel;
  T border[kRows * kPanel] = {};
  if (!whole && task.accumulate) copy_tile<T, kRows>(c, task.c_row, border, kPanel, width);
  T* const out = whole ? c : border;
  const int64_t out_row = whole ? task.c_row : kPanel;

  Vector<T> total[kRows][2];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    total[i][0] = task.accumulate ? load(out + i * out_row) : Vector<T>{};
    total[i][1] = task.accumulate ? load(out + i * out_row + kLanes<T>) : Vector<T>{};
  }
  const int64_t depth = task.depth, a_row = task.a_row, a_depth = task.a_depth, b_row = task.b_row;
  for (int64_t k = 0; k < depth; ++k, a += a_depth, b += b_row) {
    const Vector<T> b0 = load(b), b1 = load(b + kLanes<T>);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Vector<T> factor = splat(a[i * a_row]);
      total[i][0] = fma(factor, b0, total[i][0]);
      total[i][1] = fma(factor, b1, total[i][1]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    store(out + i * out_row, total[i][0]);
    store(out + i * out_row + kLanes<T>, total[i][1]);
  }
  if (!whole) copy_tile<T, kRows>(border, kPanel, c, task.c_row, width);
}

template <typename T>
void gemm(const Gemm<T>& task) {
  constexpr int64_t kPanel = 2 * kLanes<T>;
  const T* b = task.b;
  for (int64_t column = 0; column < task.columns; column += kPanel, b += task.b_panel) {
    const int64_t width = std::min(kPanel, task.columns - column);
    const T* a = task.a;
    T* c = task.c + column;
    int64_t left = task.rows;
    for (; left >= kTileRows; left -= kTileRows) {
      gemm_tile<T, kTileRows>(task, a, b, c, width);
      a += kTileRows * task.a_row;
      c += kTileRows * task.c_row;
    }
    for (; left >= 2; left -= 2) {
      gemm_tile<T, 2>(task, a, b, c, width);
      a += 2 * task.a_row;
      c += 2 * task.c_row;
    }
    if (left == 1) gemm_tile<T, 1>(task, a, b, c, width);
  }
}

#if GLIP_SIMD_LEVEL == 4 || defined(GLIP_EMULATE_BFLOAT16)
#define GLIP_HAS_BFLOAT16_PRODUCT 1

typedef uint32_t PairVector __attribute__((vector_size(GLIP_SIMD_BYTES)));

GLIP_INLINE PairVector load_pairs(const BFloat16* from) {
  PairVector pairs;
  __builtin_memcpy(&pairs, from, sizeof(pairs));
  return pairs;
}

// total + low(a) low(b) + high(a) high(b), per lane.
GLIP_INLINE Vector<float> dot_pairs(Vector<float> total, PairVector a, PairVector b) {
#if GLIP_SIMD_LEVEL == 4
  return _mm512_dpbf16_ps(total, (__m512bh)a, (__m512bh)b);
#else
  const Vector<float> low = (Vector<float>)(a << 16) * (Vector<float>)(b << 16);
  const Vector<float> high = (Vector<float>)(a & 0xffff0000u) * (Vector<float>)(b & 0xffff0000u);
  return total + low + high;
#endif
}

template <int kRows>
GLIP_INLINE void gemm_bfloat16_tile(const GemmBFloat16& task, const BFloat16* a, const BFloat16* b,
                                    float* c, int64_t width) {
  constexpr int64_t kPanel = 2 * kLanes<float>;
  const bool whole = width == kPanel;
  float border[kRows * kPanel] = {};
  if (!whole && task.accumulate) copy_tile<float, kRows>(c, task.c_row, border, kPanel, width);
  float* const out = whole ? c : border;
  const int64_t out_row = whole ? task.c_row : kPanel;

  Vector<float> total[kRows][2];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    total[i][0] = task.accumulate ? load(out + i * out_row) : Vector<float>{};
    total[i][1] = task.accumulate ? load(out + i * out_row + kLanes<float>) : Vector<float>{};
  }
  const int64_t depth = task.depth, a_row = task.a_row;
  for (int64_t k = 0; k < depth; k += 2, a += 2, b += 2 * kPanel) {
    const PairVector b0 = load_pairs(b), b1 = load_pairs(b + kPanel);
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      uint32_t pair;
      __builtin_memcpy(&pair, a + i * a_row, sizeof(pair));
      const PairVector factor = PairVector{} + pair;
      total[i][0] = dot_pairs(total[i][0], factor, b0);
      total[i][1] = dot_pairs(total[i][1], factor, b1);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
    store(out + i * out_row, total[i][0]);
    store(out + i * out_row + kLanes<float>, total[i][1]);
  }
  if (!whole) copy_tile<float, kRows>(border, kPanel, c, task.c_row, width);
}

void gemm_bfloat16(const GemmBFloat16& task) {
  constexpr int64_t kPanel = 2 * kLanes<float>;
  const BFloat16* b = task.b;
  for (int64_t column = 0; column < task.columns; column += kPanel, b += task.b_panel) {
    const int64_t width = std::min(kPanel, task.columns - column);
    const BFloat16* a = task.a;
    float* c = task.c + column;
    int64_t left = task.rows;
    for (; left >= kTileRows; left -= kTileRows) {
      gemm_bfloat16_tile<kTileRows>(task, a, b, c, width);
      a += kTileRows * task.a_row;
      c += kTileRows * task.c_row;
    }
    for (; left > 0; --left) {
      gemm_bfloat16_tile<1>(task, a, b, c, width);
      a += task.a_row;
      c += task.c_row;
    }
  }
}
#endif

}  // namespace
}  // namespace glip::GLIP_SIMD_NAMESPACE
