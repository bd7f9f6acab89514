// Does a box overlap any of many boxes? Part of simd_kernels.h.

namespace glip::GLIP_SIMD_NAMESPACE {
namespace {

// Lanes [i, i + lanes) against `box`. The order of operations is that of the published operators, so
// that decisions agree to the last bit. With `exact` false, a product that errs on the side of
// "perhaps" (`limit` is a little below the threshold) takes the place of the slow division.
template <bool exact, typename T>
GLIP_INLINE auto overlap_lanes(const BoxArrays<T>& boxes, int64_t i, const Box<T>& box, T pixel,
                               T limit) {
  const Vector<T> zero{};
  const Vector<T> left = load(boxes.x1 + i), right = load(boxes.x2 + i);
  const Vector<T> top = load(boxes.y1 + i), bottom = load(boxes.y2 + i);
  const Vector<T> x1 = maximum<T>(left, splat(box.x1)), x2 = minimum<T>(right, splat(box.x2));
  const Vector<T> y1 = maximum<T>(top, splat(box.y1)), y2 = minimum<T>(bottom, splat(box.y2));
  const Vector<T> width = maximum<T>(x2 - x1 + pixel, zero);
  const Vector<T> height = maximum<T>(y2 - y1 + pixel, zero);
  const Vector<T> intersection = width * height;
  const Vector<T> whole = load(boxes.area + i) + box.area - intersection;
  if constexpr (exact) {
    return intersection / whole > splat(limit);
  } else {
    return intersection > whole * limit;
  }
}

template <bool exact, typename T>
GLIP_INLINE bool overlaps_four(const BoxArrays<T>& boxes, int64_t i, const Box<T>& box, T pixel,
                               T limit) {
  return any(overlap_lanes<exact>(boxes, i, box, pixel, limit) |
             overlap_lanes<exact>(boxes, i + kLanes<T>, box, pixel, limit) |
             overlap_lanes<exact>(boxes, i + 2 * kLanes<T>, box, pixel, limit) |
             overlap_lanes<exact>(boxes, i + 3 * kLanes<T>, box, pixel, limit));
}

template <typename T>
bool overlaps(const BoxArrays<T>& boxes, int64_t count, const Box<T>& box, T pixel, T threshold) {
  const T perhaps = threshold > T(0) ? threshold * T(0.99999) : threshold * T(1.00001);
  int64_t i = 0;
  for (; i + 4 * kLanes<T> <= count; i += 4 * kLanes<T>) {
    if (overlaps_four<false>(boxes, i, box, pixel, perhaps) &&
        overlaps_four<true>(boxes, i, box, pixel, threshold)) {
      return true;
    }
  }
  for (; i < count; i += kLanes<T>) {
    if (any(overlap_lanes<false>(boxes, i, box, pixel, perhaps)) &&
        any(overlap_lanes<true>(boxes, i, box, pixel, threshold))) {
      return true;
    }
  }
  return false;
}

}  // namespace
}  // namespace glip::GLIP_SIMD_NAMESPACE
