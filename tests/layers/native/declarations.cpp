// Compiles only if csrc/torch_abi.h declares PyTorch's functions as PyTorch's own headers do.
#define USE_CUDA
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/c/shim.h>

#include "torch_abi.h"
