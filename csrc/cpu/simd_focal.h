// Focal losses of one row of logits. Part of simd_kernels.h.

namespace glip::GLIP_SIMD_NAMESPACE {
namespace {

// What every focal loss needs of a logit z: p, 1 - p and t = ln(1 + exp(-|z|)), which makes both
// logarithms without cancellation: -ln p = max(-z, 0) + t and -ln(1 - p) = max(z, 0) + t.
template <typename T>
struct Sigmoid {
  Vector<T> probability, complement, tail;
};

template <typename T>
GLIP_INLINE Sigmoid<T> sigmoid_of(Vector<T> logit) {
  const Vector<T> zero{};
  const Vector<T> size = logit < zero ? -logit : logit;
  const Vector<T> e = exp_minus(size);
  const Vector<T> large = T(1) / (T(1) + e), small = e * large;
  const auto negative = logit < zero;
  return {negative ? small : large, negative ? large : small, log1p_unit(e)};
}

template <typename T>
GLIP_INLINE Vector<T> negative_loss(Vector<T> logit, T gamma, T alpha) {
  const Sigmoid<T> s = sigmoid_of<T>(logit);
  const Vector<T> minus_log = maximum<T>(Vector<T>{}, logit) + s.tail;
  return raise(s.probability, gamma) * minus_log * (1 - alpha);
}

template <typename T>
GLIP_INLINE Vector<T> positive_loss(Vector<T> logit, T gamma, T alpha) {
  const Sigmoid<T> s = sigmoid_of<T>(logit);
  const Vector<T> minus_log = maximum<T>(Vector<T>{}, -logit) + s.tail;
  return raise(s.complement, gamma) * minus_log * alpha;
}

template <typename T>
GLIP_INLINE Vector<T> negative_slope(Vector<T> logit, T gamma, T alpha) {
  const Sigmoid<T> s = sigmoid_of<T>(logit);
  const Vector<T> minus_log = maximum<T>(Vector<T>{}, logit) + s.tail;
  return raise(s.probability, gamma) * (gamma * s.complement * minus_log + s.probability) *
         (1 - alpha);
}

template <typename T>
GLIP_INLINE Vector<T> positive_slope(Vector<T> logit, T gamma, T alpha) {
  const Sigmoid<T> s = sigmoid_of<T>(logit);
  const Vector<T> minus_log = maximum<T>(Vector<T>{}, -logit) + s.tail;
  return raise(s.complement, gamma) * (s.complement + gamma * s.probability * minus_log) * -alpha;
}

template <typename T>
void focal_row(const T* logits, int64_t count, int64_t label, T gamma, T alpha, T* loss) {
  if (label < 0) {
    for (int64_t i = 0; i < count; ++i) loss[i] = 0;
    return;
  }
  for (int64_t i = 0; i < count; i += kLanes<T>) {
    const int64_t here = std::min(kLanes<T>, count - i);
    const bool whole = here == kLanes<T>;
    const Vector<T> logit = whole ? load(logits + i) : load_some(logits + i, here, T(0));
    const Vector<T> value = negative_loss<T>(logit, gamma, alpha);
    if (whole) {
      store(loss + i, value);
    } else {
      store_some(loss + i, value, here);
    }
  }
  if (label >= 1 && label <= count) {
    const Vector<T> logit = splat(logits[label - 1]);
    loss[label - 1] = positive_loss<T>(logit, gamma, alpha)[0];
  }
}

template <typename T>
void focal_row_backward(const T* logits, const T* grad_loss, int64_t count, int64_t label, T gamma,
                        T alpha, T* grad) {
  if (label < 0) {
    for (int64_t i = 0; i < count; ++i) grad[i] = 0;
    return;
  }
  for (int64_t i = 0; i < count; i += kLanes<T>) {
    const int64_t here = std::min(kLanes<T>, count - i);
    const bool whole = here == kLanes<T>;
    const Vector<T> logit = whole ? load(logits + i) : load_some(logits + i, here, T(0));
    const Vector<T> upstream = whole ? load(grad_loss + i) : load_some(grad_loss + i, here, T(0));
    const Vector<T> value = negative_slope<T>(logit, gamma, alpha) * upstream;
    if (whole) {
      store(grad + i, value);
    } else {
      store_some(grad + i, value, here);
    }
  }
  if (label >= 1 && label <= count) {
    const Vector<T> logit = splat(logits[label - 1]);
    const T slope = positive_slope<T>(logit, gamma, alpha)[0];
    grad[label - 1] = slope * grad_loss[label - 1];
  }
}

// alpha_t, or 1 for negative alpha.
template <typename T>
GLIP_INLINE Vector<T> class_weight(Vector<T> target, T alpha) {
  return alpha >= T(0) ? (1 - alpha) + target * (2 * alpha - 1) : splat(T(1));
}

template <typename T>
GLIP_INLINE Vector<T> token_loss(Vector<T> logit, Vector<T> target, T alpha, T gamma) {
  const Sigmoid<T> s = sigmoid_of<T>(logit);
  const Vector<T> entropy = maximum<T>(Vector<T>{}, logit) - logit * target + s.tail;
  const Vector<T> wrong = s.probability * (1 - target) + s.complement * target;
  return class_weight(target, alpha) * raise(wrong, gamma) * entropy;
}

template <typename T>
GLIP_INLINE Vector<T> token_slope(Vector<T> logit, Vector<T> target, T alpha, T gamma) {
  const Sigmoid<T> s = sigmoid_of<T>(logit);
  const Vector<T> entropy = maximum<T>(Vector<T>{}, logit) - logit * target + s.tail;
  const Vector<T> wrong = s.probability * (1 - target) + s.complement * target;
  const Vector<T> wrong_slope = s.probability * s.complement * (1 - 2 * target);
  // p - y without cancellation.
  const Vector<T> difference = s.probability * (1 - target) - s.complement * target;
  Vector<T> slope = raise(wrong, gamma) * difference;
  if (gamma != T(0)) {
    slope += gamma * raise(wrong, gamma - 1) * wrong_slope * entropy;
  }
  return class_weight(target, alpha) * slope;
}

template <typename T>
double token_focal_row(const T* logits, const T* targets, const T* counted, int64_t count, T alpha,
                       T gamma) {
  const Vector<T> zero{};
  Vector<T> total{};
  for (int64_t i = 0; i < count; i += kLanes<T>) {
    const int64_t here = std::min(kLanes<T>, count - i);
    const bool whole = here == kLanes<T>;
    const auto counts =
        (whole ? load(counted + i) : load_some(counted + i, here, T(0))) != zero;
    if (!any(counts)) continue;
    const Vector<T> logit = whole ? load(logits + i) : load_some(logits + i, here, T(0));
    const Vector<T> target = whole ? load(targets + i) : load_some(targets + i, here, T(0));
    total += counts ? token_loss<T>(logit, target, alpha, gamma) : zero;
  }
  return sum<T>(total);
}

template <typename T>
void token_focal_row_backward(const T* logits, const T* targets, const T* counted, int64_t count,
                              T alpha, T gamma, T scale, T* grad) {
  const Vector<T> zero{};
  for (int64_t i = 0; i < count; i += kLanes<T>) {
    const int64_t here = std::min(kLanes<T>, count - i);
    const bool whole = here == kLanes<T>;
    const auto counts =
        (whole ? load(counted + i) : load_some(counted + i, here, T(0))) != zero;
    Vector<T> value = zero;
    if (any(counts)) {
      const Vector<T> logit = whole ? load(logits + i) : load_some(logits + i, here, T(0));
      const Vector<T> target = whole ? load(targets + i) : load_some(targets + i, here, T(0));
      value = counts ? token_slope<T>(logit, target, alpha, gamma) * scale : zero;
    }
    if (whole) {
      store(grad + i, value);
    } else {
      store_some(grad + i, value, here);
    }
  }
}

}  // namespace
}  // namespace glip::GLIP_SIMD_NAMESPACE
