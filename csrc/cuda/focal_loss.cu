// Focal losses on the GPU.
#include "../checks.h"
#include "kernels_focal_loss.cuh"
#include "launch.h"
#include "ops.h"

namespace glip {
namespace {

template <typename T>
Tensor class_loss(const Tensor& logits, const Tensor& targets, double gamma, double alpha) {
  const Tensor loss = empty<2>({logits.size(0), logits.size(1)}, logits.dtype(), logits);
  const int64_t count = logits.numel();
  cuda::launch("focal_loss_kernel", cuda::focal_loss_kernel<T>, logits, count, logits.data<T>(),
               targets.data<int32_t>(), count, logits.size(1), gamma, alpha, loss.data<T>());
  return loss;
}

template <typename T>
Tensor class_loss_backward(const Tensor& grad_loss, const Tensor& logits, const Tensor& targets,
                           double gamma, double alpha) {
  const Tensor grad = empty<2>({logits.size(0), logits.size(1)}, logits.dtype(), logits);
  const int64_t count = logits.numel();
  cuda::launch("focal_loss_backward_kernel", cuda::focal_loss_backward_kernel<T>, logits, count,
               grad_loss.data<T>(), logits.data<T>(), targets.data<int32_t>(), count,
               logits.size(1), gamma, alpha, grad.data<T>());
  return grad;
}

// Every thread leaves one partial sum, so that the total does not depend on the order of atomics.
template <typename T>
Tensor token_loss(const Tensor& logits, const Tensor& targets, const Tensor& counted, double alpha,
                  double gamma) {
  const int64_t count = logits.numel();
  const int64_t threads = std::min<int64_t>(count, int64_t{1} << 18);
  const int64_t partials = cuda::blocks_for(threads) * int64_t{cuda::kThreads};
  const Tensor partial = zeros_(empty<1>({partials}, logits.dtype(), logits));
  if (count > 0) {
    GLIP_LAUNCH(cuda::token_focal_loss_kernel<T>, cuda::blocks_for(threads), cuda::kThreads,
                cuda::stream_of(logits), logits.data<T>(), targets.data<T>(), counted.data<bool>(),
                count, logits.size(1), logits.size(2), static_cast<T>(alpha),
                static_cast<T>(gamma), partial.data<T>());
    cuda::check_launch("token_focal_loss_kernel");
  }
  return call("aten::sum", "", partial, std::optional<int32_t>());
}

template <typename T>
Tensor token_loss_backward(const Tensor& grad_loss, const Tensor& logits, const Tensor& targets,
                           const Tensor& counted, double alpha, double gamma) {
  const Tensor grad = empty<3>({logits.size(0), logits.size(1), logits.size(2)}, logits.dtype(),
                               logits);
  const int64_t count = logits.numel();
  cuda::launch("token_focal_loss_backward_kernel", cuda::token_focal_loss_backward_kernel<T>,
               logits, count, grad_loss.data<T>(), logits.data<T>(), targets.data<T>(),
               counted.data<bool>(), count, logits.size(1), logits.size(2), alpha, gamma,
               grad.data<T>());
  return grad;
}

}  // namespace

Tensor sigmoid_focal_loss_cuda(Tensor logits, Tensor targets, double gamma, double alpha) {
  check_class_targets(logits, targets);
  cuda::check_on_cuda(logits, targets, "targets");
  const cuda::DeviceGuard guard(logits);
  logits = contiguous(logits);
  targets = contiguous(targets);
  return logits.dtype() == DType::kFloat64 ? class_loss<double>(logits, targets, gamma, alpha)
                                           : class_loss<float>(logits, targets, gamma, alpha);
}

Tensor sigmoid_focal_loss_backward_cuda(Tensor grad_loss, Tensor logits, Tensor targets,
                                        double gamma, double alpha) {
  check_class_targets(logits, targets);
  check_like(grad_loss, logits, "grad_loss");
  cuda::check_on_cuda(logits, targets, "targets");
  cuda::check_on_cuda(logits, grad_loss, "grad_loss");
  const cuda::DeviceGuard guard(logits);
  grad_loss = contiguous(grad_loss);
  logits = contiguous(logits);
  targets = contiguous(targets);
  return logits.dtype() == DType::kFloat64
             ? class_loss_backward<double>(grad_loss, logits, targets, gamma, alpha)
             : class_loss_backward<float>(grad_loss, logits, targets, gamma, alpha);
}

Tensor token_sigmoid_focal_loss_cuda(Tensor logits, Tensor targets, Tensor counted, double alpha,
                                     double gamma) {
  check_token_targets(logits, targets, counted);
  cuda::check_on_cuda(logits, targets, "targets");
  cuda::check_on_cuda(logits, counted, "counted");
  const cuda::DeviceGuard guard(logits);
  logits = contiguous(logits);
  targets = contiguous(targets);
  counted = contiguous(counted);
  return logits.dtype() == DType::kFloat64
             ? token_loss<double>(logits, targets, counted, alpha, gamma)
             : token_loss<float>(logits, targets, counted, alpha, gamma);
}

Tensor token_sigmoid_focal_loss_backward_cuda(Tensor grad_loss, Tensor logits, Tensor targets,
                                              Tensor counted, double alpha, double gamma) {
  check_token_targets(logits, targets, counted);
  check_total(grad_loss, logits);
  cuda::check_on_cuda(logits, targets, "targets");
  cuda::check_on_cuda(logits, counted, "counted");
  cuda::check_on_cuda(logits, grad_loss, "grad_loss");
  const cuda::DeviceGuard guard(logits);
  logits = contiguous(logits);
  targets = contiguous(targets);
  counted = contiguous(counted);
  return logits.dtype() == DType::kFloat64
             ? token_loss_backward<double>(grad_loss, logits, targets, counted, alpha, gamma)
             : token_loss_backward<float>(grad_loss, logits, targets, counted, alpha, gamma);
}

}  // namespace glip
