// Focal losses, one thread per logit.
#pragma once

#include "grid.cuh"

namespace glip::cuda {

// p, 1 - p and t = ln(1 + exp(-|z|)): -ln p = max(-z, 0) + t and -ln(1 - p) = max(z, 0) + t.
template <typename T>
struct Sigmoid {
  T probability, complement, tail;
};

template <typename T>
__device__ Sigmoid<T> sigmoid_of(T logit) {
  const T e = exp(logit < T(0) ? logit : -logit);
  const T large = T(1) / (T(1) + e), small = e * large;
  const bool negative = logit < T(0);
  return {negative ? small : large, negative ? large : small, log1p(e)};
}

template <typename T>
__device__ T raise(T base, T exponent) {
  return exponent == T(2) ? base * base : pow(base, exponent);
}

// The larger of 0 and x; not a number stays so.
template <typename T>
__device__ T at_least_zero(T x) {
  return x < T(0) ? T(0) : x;
}

template <typename T>
__global__ void focal_loss_kernel(const T* logits, const int32_t* targets, int64_t count,
                                  int64_t columns, T gamma, T alpha, T* loss) {
  GLIP_GRID_LOOP(index, count) {
    const int64_t label = targets[index / columns], column = index % columns;
    const T z = logits[index];
    const Sigmoid<T> s = sigmoid_of(z);
    T value = T(0);
    if (label == column + 1) {
      value = alpha * raise(s.complement, gamma) * (at_least_zero(-z) + s.tail);
    } else if (label >= 0) {
      value = (1 - alpha) * raise(s.probability, gamma) * (at_least_zero(z) + s.tail);
    }
    loss[index] = value;
  }
}

template <typename T>
__global__ void focal_loss_backward_kernel(const T* grad_loss, const T* logits,
                                           const int32_t* targets, int64_t count, int64_t columns,
                                           T gamma, T alpha, T* grad) {
  GLIP_GRID_LOOP(index, count) {
    const int64_t label = targets[index / columns], column = index % columns;
    const T z = logits[index];
    const Sigmoid<T> s = sigmoid_of(z);
    T slope = T(0);
    if (label == column + 1) {
      slope = -alpha * raise(s.complement, gamma) *
              (s.complement + gamma * s.probability * (at_least_zero(-z) + s.tail));
    } else if (label >= 0) {
      slope = (1 - alpha) * raise(s.probability, gamma) *
              (gamma * s.complement * (at_least_zero(z) + s.tail) + s.probability);
    }
    grad[index] = slope * grad_loss[index];
  }
}

// Losses of the tokens that count, summed per thread.
template <typename T>
__global__ void token_focal_loss_kernel(const T* logits, const T* targets, const bool* counted,
                                        int64_t count, int64_t anchors, int64_t tokens, T alpha,
                                        T gamma, T* partial) {
  T total = T(0);
  GLIP_GRID_LOOP(index, count) {
    const int64_t token = index % tokens, image = index / tokens / anchors;
    if (!counted[image * tokens + token]) continue;
    const T z = logits[index], y = targets[index];
    const Sigmoid<T> s = sigmoid_of(z);
    const T entropy = at_least_zero(z) - z * y + s.tail;
    const T wrong = s.probability * (1 - y) + s.complement * y;
    const T weight = alpha >= T(0) ? (1 - alpha) + y * (2 * alpha - 1) : T(1);
    total += weight * raise(wrong, gamma) * entropy;
  }
  partial[static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x] = total;
}

template <typename T>
__global__ void token_focal_loss_backward_kernel(const T* grad_loss, const T* logits,
                                                 const T* targets, const bool* counted,
                                                 int64_t count, int64_t anchors, int64_t tokens,
                                                 T alpha, T gamma, T* grad) {
  const T scale = grad_loss[0];
  GLIP_GRID_LOOP(index, count) {
    const int64_t token = index % tokens, image = index / tokens / anchors;
    if (!counted[image * tokens + token]) {
      grad[index] = T(0);
      continue;
    }
    const T z = logits[index], y = targets[index];
    const Sigmoid<T> s = sigmoid_of(z);
    const T entropy = at_least_zero(z) - z * y + s.tail;
    const T wrong = s.probability * (1 - y) + s.complement * y;
    const T weight = alpha >= T(0) ? (1 - alpha) + y * (2 * alpha - 1) : T(1);
    T slope = raise(wrong, gamma) * (s.probability * (1 - y) - s.complement * y);
    if (gamma != T(0)) {
      const T wrong_slope = s.probability * s.complement * (1 - 2 * y);
      slope += gamma * raise(wrong, gamma - 1) * wrong_slope * entropy;
    }
    grad[index] = weight * slope * scale;
  }
}

}  // namespace glip::cuda
