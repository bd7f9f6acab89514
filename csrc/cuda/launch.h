// What every CUDA operator needs on the host: the device and stream of its tensors, and a launch.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>

#include "../torch_abi.h"

namespace glip::cuda {

// Makes the device of a tensor current for as long as it lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(const Tensor& tensor) {
    succeed(aoti_torch_create_cuda_guard(tensor.device_index(), &guard_), "create_cuda_guard");
  }
  ~DeviceGuard() { aoti_torch_delete_cuda_guard(guard_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  CUDAGuardHandle guard_ = nullptr;
};

// PyTorch's current stream on the device of a tensor.
inline cudaStream_t stream_of(const Tensor& tensor) {
  void* stream = nullptr;
  succeed(aoti_torch_get_current_cuda_stream(tensor.device_index(), &stream),
          "get_current_cuda_stream");
  return static_cast<cudaStream_t>(stream);
}

// Without nvcc (in the tests) a kernel is a function that does all the work itself.
#if defined(__CUDACC__)
#define GLIP_LAUNCH(kernel, blocks, threads, stream, ...) \
  kernel<<<blocks, threads, 0, stream>>>(__VA_ARGS__)
#else
#define GLIP_LAUNCH(kernel, blocks, threads, stream, ...) \
  (static_cast<void>(blocks), static_cast<void>(stream), kernel(__VA_ARGS__))
#endif

constexpr int kThreads = 256;

inline int blocks_for(int64_t count) {
  return static_cast<int>(std::clamp<int64_t>((count + kThreads - 1) / kThreads, 1, 1 << 16));
}

inline void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  check(error == cudaSuccess, kernel, ": ", cudaGetErrorString(error));
}

// Runs `kernel` over `count` elements on the current stream; the kernel loops over its share.
template <typename... Parameters, typename... Arguments>
void launch(const char* name, void (*kernel)(Parameters...), const Tensor& on, int64_t count,
            const Arguments&... arguments) {
  if (count == 0) return;
  GLIP_LAUNCH(kernel, blocks_for(count), kThreads, stream_of(on),
              static_cast<Parameters>(arguments)...);
  check_launch(name);
}

inline void check_on_cuda(const Tensor& first, const Tensor& other, const char* name) {
  check(other.device_type() == first.device_type() && other.device_index() == first.device_index(),
        name, " must be on the same CUDA device as the other tensors");
}

// The same memory with other sizes and strides, starting `offset` elements further on.
template <size_t N>
Tensor view(const Tensor& tensor, const std::array<int64_t, N>& sizes,
            const std::array<int64_t, N>& strides, int64_t offset = 0) {
  AtenTensorHandle result = nullptr;
  succeed(aoti_torch__reinterpret_tensor(tensor.handle(), N, sizes.data(), strides.data(), offset,
                                         &result),
          "reinterpret_tensor");
  return Tensor(result);
}

}  // namespace glip::cuda
