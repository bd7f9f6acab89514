// Vectors of float or double on whatever instruction set this file is compiled for.
//
// Included by simd_kernels.h only, which is compiled once per instruction set. The kernels_*.cpp
// define GLIP_SIMD_NAMESPACE, GLIP_SIMD_BYTES (width of a register) and GLIP_SIMD_LEVEL (0: what the
// architecture always has, 2: AVX2 with FMA, 3: AVX-512, 4: AVX-512 with bfloat16). No includes here:
// headers must be read before the compiler is told to use newer instructions (see simd_kernels.h).

namespace glip::GLIP_SIMD_NAMESPACE {

#define GLIP_INLINE inline __attribute__((always_inline))

template <typename T>
struct VectorTypes {
  typedef T Register __attribute__((vector_size(GLIP_SIMD_BYTES)));
  typedef T Memory __attribute__((vector_size(GLIP_SIMD_BYTES), aligned(alignof(T)), may_alias));
};

template <typename T>
using Vector = typename VectorTypes<T>::Register;

template <typename T>
constexpr int64_t kLanes = GLIP_SIMD_BYTES / sizeof(T);

template <typename T>
GLIP_INLINE Vector<T> load(const T* from) {
  return *reinterpret_cast<const typename VectorTypes<T>::Memory*>(from);
}

template <typename T>
GLIP_INLINE void store(T* to, Vector<T> value) {
  *reinterpret_cast<typename VectorTypes<T>::Memory*>(to) = value;
}

template <typename T>
GLIP_INLINE Vector<T> splat(T value) {
  return value - Vector<T>{};
}

// The first `count` elements, the rest filled with `fill`.
template <typename T>
GLIP_INLINE Vector<T> load_some(const T* from, int64_t count, T fill) {
  T all[kLanes<T>];
  for (int64_t i = 0; i < kLanes<T>; ++i) all[i] = i < count ? from[i] : fill;
  return load(all);
}

template <typename T>
GLIP_INLINE void store_some(T* to, Vector<T> value, int64_t count) {
  T all[kLanes<T>];
  store(all, value);
  for (int64_t i = 0; i < count; ++i) to[i] = all[i];
}

template <typename T>
GLIP_INLINE Vector<T> maximum(Vector<T> a, Vector<T> b) {
  return a > b ? a : b;
}

template <typename T>
GLIP_INLINE Vector<T> minimum(Vector<T> a, Vector<T> b) {
  return a < b ? a : b;
}

// a * b + c, with one rounding where the instruction set has it. The sources are compiled with
// contraction off, so that nothing else is fused and overlaps round as they do elsewhere.
#if GLIP_SIMD_LEVEL == 2
GLIP_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return _mm256_fmadd_ps(a, b, c);
}
GLIP_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return _mm256_fmadd_pd(a, b, c);
}
#elif GLIP_SIMD_LEVEL >= 3
GLIP_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return _mm512_fmadd_ps(a, b, c);
}
GLIP_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return _mm512_fmadd_pd(a, b, c);
}
#elif defined(__aarch64__)
GLIP_INLINE Vector<float> fma(Vector<float> a, Vector<float> b, Vector<float> c) {
  return vfmaq_f32(c, a, b);
}
GLIP_INLINE Vector<double> fma(Vector<double> a, Vector<double> b, Vector<double> c) {
  return vfmaq_f64(c, a, b);
}
#else
template <typename V>
GLIP_INLINE V fma(V a, V b, V c) {
  return a * b + c;
}
#endif

// True if any lane of a comparison result is set.
template <typename Mask>
GLIP_INLINE bool any(Mask mask) {
#if GLIP_SIMD_LEVEL == 2
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#elif GLIP_SIMD_LEVEL >= 3
  return _mm512_test_epi64_mask((__m512i)mask, (__m512i)mask) != 0;
#else
  for (size_t i = 0; i < sizeof(mask) / sizeof(mask[0]); ++i) {
    if (mask[i]) return true;
  }
  return false;
#endif
}

template <typename T, size_t kBytes>
GLIP_INLINE T sum_lanes(const void* lanes) {
  if constexpr (kBytes == sizeof(T)) {
    return *static_cast<const T*>(lanes);
  } else {
    typedef T Half __attribute__((vector_size(kBytes / 2)));
    Half low, high;
    __builtin_memcpy(&low, lanes, sizeof(low));
    __builtin_memcpy(&high, static_cast<const char*>(lanes) + sizeof(low), sizeof(high));
    low += high;
    return sum_lanes<T, kBytes / 2>(&low);
  }
}

// Halves are added to each other: one lane after the other would wait for every addition.
template <typename T>
GLIP_INLINE T sum(Vector<T> value) {
  return sum_lanes<T, sizeof(value)>(&value);
}

// exp(-x) for x >= 0 (Cody-Waite reduction, degree 6 polynomial; error below 2 units in the last
// place). Below the smallest normal number the result stays there instead of going to zero.
GLIP_INLINE Vector<float> exp_minus(Vector<float> x) {
  typedef int32_t Integer __attribute__((vector_size(GLIP_SIMD_BYTES)));
  const Vector<float> argument = maximum<float>(-x, splat(-87.0f));
  // Adding and taking away 1.5 * 2^23 rounds to the nearest integer.
  const Vector<float> magic = splat(12582912.0f);
  const Vector<float> shifted = fma(argument, splat(1.44269504088896341f), magic);
  const Vector<float> power = shifted - magic;
  Vector<float> rest = fma(power, splat(-0.693359375f), argument);
  rest = fma(power, splat(2.12194440e-4f), rest);
  Vector<float> series = splat(1.9875691500e-4f);
  series = fma(series, rest, splat(1.3981999507e-3f));
  series = fma(series, rest, splat(8.3334519073e-3f));
  series = fma(series, rest, splat(4.1665795894e-2f));
  series = fma(series, rest, splat(1.6666665459e-1f));
  series = fma(series, rest, splat(5.0000001201e-1f));
  const Vector<float> mantissa = fma(series, rest * rest, rest) + splat(1.0f);
  const Integer exponent = __builtin_convertvector(power, Integer) + 127;
  const Vector<float> result = mantissa * (Vector<float>)(exponent << 23);
  return x == x ? result : x;
}

GLIP_INLINE Vector<double> exp_minus(Vector<double> x) {
  Vector<double> result;
  for (int64_t i = 0; i < kLanes<double>; ++i) result[i] = std::exp(-x[i]);
  return result;
}

// log(1 + e) for e in [0, 1]: 2 artanh(e / (2 + e)), whose series needs nine terms for a third.
GLIP_INLINE Vector<float> log1p_unit(Vector<float> e) {
  const Vector<float> s = e / (e + 2.0f);
  const Vector<float> square = s * s;
  Vector<float> series = splat(2.0f / 17);
  series = fma(series, square, splat(2.0f / 15));
  series = fma(series, square, splat(2.0f / 13));
  series = fma(series, square, splat(2.0f / 11));
  series = fma(series, square, splat(2.0f / 9));
  series = fma(series, square, splat(2.0f / 7));
  series = fma(series, square, splat(2.0f / 5));
  series = fma(series, square, splat(2.0f / 3));
  return fma(series * square, s, s + s);
}

GLIP_INLINE Vector<double> log1p_unit(Vector<double> e) {
  Vector<double> result;
  for (int64_t i = 0; i < kLanes<double>; ++i) result[i] = std::log1p(e[i]);
  return result;
}

// base ** exponent for base in [0, 1].
template <typename T>
GLIP_INLINE Vector<T> raise(Vector<T> base, T exponent) {
  if (exponent == T(2)) return base * base;
  if (exponent == T(1)) return base;
  if (exponent == T(0)) return splat(T(1));
  Vector<T> result;
  for (int64_t i = 0; i < kLanes<T>; ++i) result[i] = std::pow(base[i], exponent);
  return result;
}

}  // namespace glip::GLIP_SIMD_NAMESPACE
