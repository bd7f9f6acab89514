// What the operators ask of their arguments, on every device. The Python functions check the same
// and more; these checks keep a direct call from reading where it must not.
#pragma once

#include <cmath>
#include <limits>

#include "torch_abi.h"

namespace glip {

inline void check_boxes(const Tensor& boxes, const Tensor& scores) {
  check(boxes.dim() == 2 && boxes.size(1) == 4, "boxes must have shape (num_boxes, 4)");
  check(scores.dim() == 1 && scores.size(0) == boxes.size(0),
        "scores must hold one number per box: ", boxes.size(0));
  check(boxes.dtype() == DType::kFloat32 || boxes.dtype() == DType::kFloat64,
        "boxes must be float32 or float64");
  check(scores.dtype() == boxes.dtype(), "scores must have the dtype of boxes");
}

inline void check_labels(const Tensor& boxes, const Tensor& labels) {
  check(labels.dim() == 1 && labels.size(0) == boxes.size(0),
        "labels must hold one number per box: ", boxes.size(0));
  check(labels.dtype() == DType::kInt64, "labels must be int64");
}

// The largest T that is not above the threshold: for any T r, r > result exactly if r > threshold.
template <typename T>
T round_down(double threshold) {
  const T nearest = static_cast<T>(threshold);
  return nearest > threshold ? std::nextafter(nearest, -std::numeric_limits<T>::infinity())
                             : nearest;
}

inline void check_rois(const Tensor& rois, const Tensor& features, const char* name) {
  check(features.dtype() == DType::kFloat32 || features.dtype() == DType::kFloat64, name,
        " must be float32 or float64");
  check(rois.dim() == 2 && rois.size(1) == 5, "rois must have shape (num_rois, 5)");
  check(rois.dtype() == features.dtype(), "rois must have the dtype of ", name);
}

inline void check_roi_input(const Tensor& input, const Tensor& rois, int64_t pooled_height,
                            int64_t pooled_width) {
  check(input.dim() == 4, "input must have shape (batch, channels, height, width)");
  check_rois(rois, input, "input");
  check(pooled_height > 0 && pooled_width > 0, "output_size must be positive");
}

inline void check_roi_gradient(const Tensor& grad_output, const Tensor& rois) {
  check(grad_output.dim() == 4, "grad_output must have shape (num_rois, channels, height, width)");
  check_rois(rois, grad_output, "grad_output");
  check(grad_output.size(0) == rois.size(0), "grad_output must have one row per roi");
}

inline void check_floating(const Tensor& tensor, const char* name) {
  check(tensor.dtype() == DType::kFloat32 || tensor.dtype() == DType::kFloat64, name,
        " must be float32 or float64");
}

inline void check_like(const Tensor& tensor, const Tensor& logits, const char* name) {
  check(tensor.dtype() == logits.dtype(), name, " must have the dtype of logits");
  check(tensor.dim() == logits.dim(), name, " must have the shape of logits");
  for (int64_t axis = 0; axis < logits.dim(); ++axis) {
    check(tensor.size(axis) == logits.size(axis), name, " must have the shape of logits");
  }
}

inline void check_class_targets(const Tensor& logits, const Tensor& targets) {
  check(logits.dim() == 2, "logits must have shape (num_anchors, num_classes)");
  check_floating(logits, "logits");
  check(targets.dim() == 1 && targets.size(0) == logits.size(0),
        "targets must hold one label per row of logits: ", logits.size(0));
  check(targets.dtype() == DType::kInt32, "targets must be int32");
}

inline void check_token_targets(const Tensor& logits, const Tensor& targets, const Tensor& counted) {
  check(logits.dim() == 3, "logits must have shape (batch, num_anchors, num_tokens)");
  check_floating(logits, "logits");
  check_like(targets, logits, "targets");
  check(counted.dim() == 2 && counted.size(0) == logits.size(0) &&
            counted.size(1) == logits.size(2) && counted.dtype() == DType::kBool,
        "counted must be bool of shape (batch, num_tokens)");
}

inline void check_total(const Tensor& grad_loss, const Tensor& logits) {
  check(grad_loss.numel() == 1 && grad_loss.dtype() == logits.dtype(),
        "grad_loss must be one number of the dtype of logits");
}

}  // namespace glip
