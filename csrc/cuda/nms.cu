// Greedy suppression on the GPU: sort, compare all pairs, walk over the bits.
#include "../checks.h"
#include "kernels_nms.cuh"
#include "launch.h"
#include "ops.h"

namespace glip {
namespace {

// Indices by descending score, of equal scores the earlier first.
Tensor by_score(const Tensor& scores) {
  std::array<StableIValue, 4> stack{
      Boxed<Tensor>::box(scores), Boxed<std::optional<bool>>::box(true),
      Boxed<int64_t>::box(0), Boxed<bool>::box(true)};
  succeed(torch_call_dispatcher("aten::sort", "stable", stack.data(), kAbiVersion), "aten::sort");
  const Tensor values = Boxed<Tensor>::unbox(stack[0]);
  return Boxed<Tensor>::unbox(stack[1]);
}

Tensor take(const Tensor& tensor, const Tensor& order) {
  return call("aten::index_select", "", tensor, int64_t{0}, order);
}

// Those of `order`, the boxes by descending score, that survive; in the same order.
template <typename T>
Tensor survivors(const Tensor& boxes, const Tensor& order, const Tensor* labels, T pixel,
                 T threshold) {
  const int64_t count = boxes.size(0), words = (count + cuda::kNmsTile - 1) / cuda::kNmsTile;
  const Tensor sorted = contiguous(take(boxes, order));
  // One spare word: an array of no words would have no address.
  const Tensor mask = empty<1>({count * words + 1}, DType::kInt64, boxes);
  const Tensor removed = zeros_(empty<1>({words + 1}, DType::kInt64, boxes));
  const Tensor keep = empty<1>({count}, DType::kBool, boxes);
  if (count > 0) {
    const cudaStream_t stream = cuda::stream_of(boxes);
    const int64_t pairs = std::min<int64_t>(words * words, 1 << 16);
    auto* const bits = reinterpret_cast<unsigned long long*>(mask.data<int64_t>());
    const int64_t* const sorted_labels = labels == nullptr ? nullptr : labels->data<int64_t>();
    GLIP_LAUNCH(cuda::nms_mask_kernel<T>, static_cast<int>(pairs), cuda::kNmsTile, stream,
                sorted.data<T>(), sorted_labels, count, pixel, threshold, bits);
    cuda::check_launch("nms_mask_kernel");
    GLIP_LAUNCH(cuda::nms_walk_kernel, 1, 1024, stream, bits, count,
                reinterpret_cast<unsigned long long*>(removed.data<int64_t>()), keep.data<bool>());
    cuda::check_launch("nms_walk_kernel");
  }
  return call("aten::masked_select", "", order, keep);
}

Tensor suppress(const Tensor& boxes, const Tensor& scores, const Tensor* labels, bool inclusive,
                double threshold) {
  const Tensor order = by_score(scores);
  std::optional<Tensor> sorted_labels;
  if (labels != nullptr) sorted_labels = contiguous(take(*labels, order));
  const Tensor* const given = labels == nullptr ? nullptr : &*sorted_labels;
  if (boxes.dtype() == DType::kFloat64) {
    return survivors<double>(boxes, order, given, inclusive ? 1.0 : 0.0, threshold);
  }
  const float limit = inclusive ? static_cast<float>(threshold) : round_down<float>(threshold);
  return survivors<float>(boxes, order, given, inclusive ? 1.0f : 0.0f, limit);
}

}  // namespace

Tensor nms_cuda(Tensor boxes, Tensor scores, double iou_threshold) {
  check_boxes(boxes, scores);
  cuda::check_on_cuda(boxes, scores, "scores");
  const cuda::DeviceGuard guard(boxes);
  return suppress(boxes, scores, nullptr, false, iou_threshold);
}

Tensor ml_nms_cuda(Tensor boxes, Tensor scores, Tensor labels, double iou_threshold) {
  check_boxes(boxes, scores);
  check_labels(boxes, labels);
  cuda::check_on_cuda(boxes, scores, "scores");
  cuda::check_on_cuda(boxes, labels, "labels");
  const cuda::DeviceGuard guard(boxes);
  const Tensor kept = suppress(boxes, scores, &labels, true, iou_threshold);
  // Ascending: in the order of the boxes.
  std::array<StableIValue, 3> stack{Boxed<Tensor>::box(kept), Boxed<int64_t>::box(0),
                                    Boxed<bool>::box(false)};
  succeed(torch_call_dispatcher("aten::sort", "", stack.data(), kAbiVersion), "aten::sort");
  const Tensor indices = Boxed<Tensor>::unbox(stack[1]);
  return Boxed<Tensor>::unbox(stack[0]);
}

}  // namespace glip
