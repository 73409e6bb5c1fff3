// CUDA's error codes as braid::Error.
#pragma once

#include <braid/core/error.hpp>

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string_view>

namespace braid::cuda {

/// Throws Error unless a CUDA call succeeded.
inline void check(cudaError_t status, std::string_view where) {
  require(status == cudaSuccess, where, "a CUDA call without error", cudaGetErrorString(status));
}

}  // namespace braid::cuda
