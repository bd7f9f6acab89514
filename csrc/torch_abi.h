// The part of PyTorch's stable C interface that the operators use, and a thin C++ dress for it.
//
// PyTorch promises binary compatibility of these functions from one release to the next (they are
// declared in torch/csrc/inductor/aoti_torch/c/shim.h and torch/csrc/stable/c/shim.h; the newest one
// used here came with 2.10). Declaring them here instead of including those headers means that the
// operators build in seconds with a C++ compiler alone, in a build environment without PyTorch, and
// that one build serves every PyTorch from 2.10 on. A test compiles this file together with the
// installed PyTorch's own headers, so that a declaration that disagrees is a compile error.
#pragma once

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

struct AtenTensorOpaque;
struct TorchLibraryOpaque;
struct CUDAGuardOpaque;
using AtenTensorHandle = AtenTensorOpaque*;
using TorchLibraryHandle = TorchLibraryOpaque*;
using CUDAGuardHandle = CUDAGuardOpaque*;
using StableIValue = uint64_t;
using AOTITorchError = int32_t;

extern "C" {
int32_t aoti_torch_device_type_cpu();
int32_t aoti_torch_device_type_cuda();
int32_t aoti_torch_dtype_bool();
int32_t aoti_torch_dtype_int32();
int32_t aoti_torch_dtype_int64();
int32_t aoti_torch_dtype_bfloat16();
int32_t aoti_torch_dtype_float32();
int32_t aoti_torch_dtype_float64();
int32_t aoti_torch_memory_format_contiguous_format();
int32_t aoti_torch_memory_format_channels_last();

AOTITorchError aoti_torch_delete_tensor_object(AtenTensorHandle tensor);
AOTITorchError aoti_torch_new_tensor_handle(AtenTensorHandle orig_handle, AtenTensorHandle* new_handle);
AOTITorchError aoti_torch_get_data_ptr(AtenTensorHandle tensor, void** ret_data_ptr);
AOTITorchError aoti_torch_get_dim(AtenTensorHandle tensor, int64_t* ret_dim);
AOTITorchError aoti_torch_get_numel(AtenTensorHandle tensor, int64_t* ret_numel);
AOTITorchError aoti_torch_get_sizes(AtenTensorHandle tensor, int64_t** ret_sizes);
AOTITorchError aoti_torch_get_strides(AtenTensorHandle tensor, int64_t** ret_strides);
AOTITorchError aoti_torch_get_dtype(AtenTensorHandle tensor, int32_t* ret_dtype);
AOTITorchError aoti_torch_get_device_type(AtenTensorHandle tensor, int32_t* ret_device_type);
AOTITorchError aoti_torch_get_device_index(AtenTensorHandle tensor, int32_t* ret_device_index);
AOTITorchError aoti_torch_empty_strided(int64_t ndim, const int64_t* sizes_ptr,
                                        const int64_t* strides_ptr, int32_t dtype,
                                        int32_t device_type, int32_t device_index,
                                        AtenTensorHandle* ret_new_tensor);
AOTITorchError aoti_torch__reinterpret_tensor(AtenTensorHandle self, int64_t ndim,
                                              const int64_t* sizes_ptr, const int64_t* strides_ptr,
                                              int64_t storage_offset, AtenTensorHandle* ret_new_tensor);
AOTITorchError aoti_torch_zero_(AtenTensorHandle self);

AOTITorchError aoti_torch_library_init_def(const char* ns, const char* file, uint32_t line,
                                           TorchLibraryHandle* ret_new_torch_lib);
AOTITorchError aoti_torch_library_init_impl(const char* ns, const char* k, const char* file,
                                            uint32_t line, TorchLibraryHandle* ret_new_torch_lib);
AOTITorchError aoti_torch_library_def(TorchLibraryHandle self, const char* schema);
AOTITorchError torch_library_impl(TorchLibraryHandle self, const char* name,
                                  void (*fn)(StableIValue*, uint64_t, uint64_t),
                                  uint64_t extension_build_version);
AOTITorchError torch_call_dispatcher(const char* opName, const char* overloadName,
                                     StableIValue* stack, uint64_t extension_build_version);

using ParallelFunc = void (*)(int64_t begin, int64_t end, void* ctx);
AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t grain_size, ParallelFunc func,
                                  void* ctx);
AOTITorchError torch_get_num_threads(uint32_t* out_num_threads);

// Only in a PyTorch that is built with CUDA; only the CUDA library refers to them.
AOTITorchError aoti_torch_create_cuda_guard(int32_t device_index, CUDAGuardHandle* ret_guard);
AOTITorchError aoti_torch_delete_cuda_guard(CUDAGuardHandle guard);
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** ret_stream);
}

namespace glip {

// The version whose conventions for values on the stack are followed: 2.10.
constexpr uint64_t kAbiVersion = (uint64_t{2} << 56) | (uint64_t{10} << 48);

template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

// Raise an error that the caller of the operator sees as RuntimeError.
template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) {
    fail(parts...);
  }
}

inline void succeed(AOTITorchError error, const char* what) {
  check(error == 0, "PyTorch reported an error in ", what);
}

enum class DType { kBool, kInt32, kInt64, kBFloat16, kFloat32, kFloat64, kOther };

inline DType dtype_from_code(int32_t code) {
  if (code == aoti_torch_dtype_float32()) return DType::kFloat32;
  if (code == aoti_torch_dtype_float64()) return DType::kFloat64;
  if (code == aoti_torch_dtype_bfloat16()) return DType::kBFloat16;
  if (code == aoti_torch_dtype_bool()) return DType::kBool;
  if (code == aoti_torch_dtype_int32()) return DType::kInt32;
  if (code == aoti_torch_dtype_int64()) return DType::kInt64;
  return DType::kOther;
}

inline int32_t dtype_code(DType dtype) {
  switch (dtype) {
    case DType::kFloat32: return aoti_torch_dtype_float32();
    case DType::kFloat64: return aoti_torch_dtype_float64();
    case DType::kBFloat16: return aoti_torch_dtype_bfloat16();
    case DType::kBool: return aoti_torch_dtype_bool();
    case DType::kInt32: return aoti_torch_dtype_int32();
    case DType::kInt64: return aoti_torch_dtype_int64();
    case DType::kOther: break;
  }
  fail("no such dtype");
}

// An owned reference to a tensor.
class Tensor {
 public:
  explicit Tensor(AtenTensorHandle owned) : handle_(owned, &destroy) {}

  AtenTensorHandle handle() const { return handle_.get(); }

  // A new owned reference, to be given away.
  AtenTensorHandle give() const {
    AtenTensorHandle copy = nullptr;
    succeed(aoti_torch_new_tensor_handle(handle(), &copy), "new_tensor_handle");
    return copy;
  }

  int64_t dim() const {
    int64_t value = 0;
    succeed(aoti_torch_get_dim(handle(), &value), "get_dim");
    return value;
  }

  int64_t numel() const {
    int64_t value = 0;
    succeed(aoti_torch_get_numel(handle(), &value), "get_numel");
    return value;
  }

  const int64_t* sizes() const {
    int64_t* values = nullptr;
    succeed(aoti_torch_get_sizes(handle(), &values), "get_sizes");
    return values;
  }

  const int64_t* strides() const {
    int64_t* values = nullptr;
    succeed(aoti_torch_get_strides(handle(), &values), "get_strides");
    return values;
  }

  int64_t size(int64_t axis) const { return sizes()[axis]; }

  DType dtype() const {
    int32_t code = 0;
    succeed(aoti_torch_get_dtype(handle(), &code), "get_dtype");
    return dtype_from_code(code);
  }

  int32_t device_type() const {
    int32_t value = 0;
    succeed(aoti_torch_get_device_type(handle(), &value), "get_device_type");
    return value;
  }

  int32_t device_index() const {
    int32_t value = 0;
    succeed(aoti_torch_get_device_index(handle(), &value), "get_device_index");
    return value;
  }

  template <typename T>
  T* data() const {
    void* pointer = nullptr;
    succeed(aoti_torch_get_data_ptr(handle(), &pointer), "get_data_ptr");
    return static_cast<T*>(pointer);
  }

 private:
  static void destroy(AtenTensorHandle handle) { aoti_torch_delete_tensor_object(handle); }

  std::shared_ptr<AtenTensorOpaque> handle_;
};

// Values as they lie on the stack of a boxed call. Tensors on the stack are owned references; an
// optional is a null pointer or a pointer to a value on the heap, which the receiver frees.
template <typename T>
struct Boxed {
  static_assert(std::is_arithmetic_v<T>);
  static T unbox(StableIValue value) {
    T result;
    std::memcpy(&result, &value, sizeof(T));
    return result;
  }
  static StableIValue box(T value) {
    StableIValue result = 0;
    std::memcpy(&result, &value, sizeof(T));
    return result;
  }
};

template <>
struct Boxed<Tensor> {
  static Tensor unbox(StableIValue value) {
    return Tensor(reinterpret_cast<AtenTensorHandle>(static_cast<uintptr_t>(value)));
  }
  static StableIValue box(const Tensor& value) {
    return static_cast<StableIValue>(reinterpret_cast<uintptr_t>(value.give()));
  }
};

template <typename T>
struct Boxed<std::optional<T>> {
  static std::optional<T> unbox(StableIValue value) {
    std::unique_ptr<StableIValue> inner(
        reinterpret_cast<StableIValue*>(static_cast<uintptr_t>(value)));
    if (inner == nullptr) return std::nullopt;
    return Boxed<T>::unbox(*inner);
  }
  static StableIValue box(const std::optional<T>& value) {
    if (!value) return 0;
    auto* inner = new StableIValue(Boxed<T>::box(*value));
    return static_cast<StableIValue>(reinterpret_cast<uintptr_t>(inner));
  }
};

// Call an ATen operator that returns one tensor.
template <typename... Args>
Tensor call(const char* name, const char* overload, const Args&... args) {
  std::array<StableIValue, sizeof...(Args)> stack{Boxed<Args>::box(args)...};
  succeed(torch_call_dispatcher(name, overload, stack.data(), kAbiVersion), name);
  return Boxed<Tensor>::unbox(stack[0]);
}

inline Tensor contiguous(const Tensor& tensor) {
  return call("aten::contiguous", "", tensor, aoti_torch_memory_format_contiguous_format());
}

inline Tensor channels_last(const Tensor& tensor) {
  return call("aten::contiguous", "", tensor, aoti_torch_memory_format_channels_last());
}

// Row-major tensor without values, on the device of `like`.
template <size_t N>
Tensor empty(const std::array<int64_t, N>& sizes, DType dtype, const Tensor& like) {
  std::array<int64_t, N> strides{};
  int64_t step = 1;
  for (size_t axis = N; axis-- > 0;) {
    strides[axis] = step;
    step *= sizes[axis] > 0 ? sizes[axis] : 1;
  }
  AtenTensorHandle result = nullptr;
  succeed(aoti_torch_empty_strided(N, sizes.data(), strides.data(), dtype_code(dtype),
                                   like.device_type(), like.device_index(), &result),
          "empty_strided");
  return Tensor(result);
}

// (batch, channels, height, width) in channels-last memory, without values.
inline Tensor empty_channels_last(const std::array<int64_t, 4>& sizes, DType dtype,
                                  const Tensor& like) {
  const auto [batch, channels, height, width] = sizes;
  const std::array<int64_t, 4> strides{height * width * channels, 1, width * channels, channels};
  AtenTensorHandle result = nullptr;
  succeed(aoti_torch_empty_strided(4, sizes.data(), strides.data(), dtype_code(dtype),
                                   like.device_type(), like.device_index(), &result),
          "empty_strided");
  return Tensor(result);
}

inline Tensor zeros_(Tensor tensor) {
  succeed(aoti_torch_zero_(tensor.handle()), "zero_");
  return tensor;
}

// Channels-last memory that is not also row-major (as one channel or one pixel would be).
inline bool is_channels_last(const Tensor& tensor) {
  const int64_t* size = tensor.sizes();
  const int64_t* stride = tensor.strides();
  const int64_t expected[4] = {size[1] * size[2] * size[3], 1, size[1] * size[3], size[1]};
  if (size[1] == 1 || size[2] * size[3] == 1) return false;
  for (int axis = 0; axis < 4; ++axis) {
    if (size[axis] != 1 && stride[axis] != expected[axis]) return false;
  }
  return true;
}

// Turns `Result function(Args...)` into the boxed form that the dispatcher calls.
template <auto function>
struct Boxer;

template <typename Result, typename... Args, Result (*function)(Args...)>
struct Boxer<function> {
  template <typename T>
  using Plain = std::remove_cv_t<std::remove_reference_t<T>>;

  static void run(StableIValue* stack, uint64_t, uint64_t) {
    run_indexed(stack, std::index_sequence_for<Args...>{});
  }

 private:
  template <size_t... I>
  static void run_indexed(StableIValue* stack, std::index_sequence<I...>) {
    // Braces fix the order; every owned value is taken off the stack before anything can throw.
    std::tuple<Plain<Args>...> args{Boxed<Plain<Args>>::unbox(stack[I])...};
    put(stack, std::apply(function, args));
  }

  static void put(StableIValue* stack, const Tensor& result) {
    stack[0] = Boxed<Tensor>::box(result);
  }

  template <typename... Results>
  static void put(StableIValue* stack, const std::tuple<Results...>& results) {
    put_indexed(stack, results, std::index_sequence_for<Results...>{});
  }

  template <typename... Results, size_t... I>
  static void put_indexed(StableIValue* stack, const std::tuple<Results...>& results,
                          std::index_sequence<I...>) {
    ((stack[I] = Boxed<Results>::box(std::get<I>(results))), ...);
  }
};

// Registers kernels for one dispatch key. The handle is never freed: the dispatcher keeps using what
// it stands for until the process ends.
class Registration {
 public:
  Registration(const char* name_space, const char* dispatch_key, const char* file, uint32_t line) {
    succeed(aoti_torch_library_init_impl(name_space, dispatch_key, file, line, &library_),
            "library_init_impl");
  }

  template <auto function>
  Registration& add(const char* name) {
    succeed(torch_library_impl(library_, name, &Boxer<function>::run, kAbiVersion), name);
    return *this;
  }

 private:
  TorchLibraryHandle library_ = nullptr;
};

}  // namespace glip
