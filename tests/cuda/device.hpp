// Device arrays for tests: filled with NaN until written, with guard bands on both sides, read back as float.
#pragma once

#include <braid/core/error.hpp>
#include <braid/core/types.hpp>

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

namespace braid::test {

inline void cuda_ok(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw braid::Error(what, "success", cudaGetErrorString(status));
}

/// False, with the text by which ctest knows a skipped test, when there is no GPU.
inline bool gpu() {
  static const bool found = [] {
    int count = 0;
    const bool some = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
    if (!some) std::puts("SKIPPED: no GPU");
    return some;
  }();
  return found;
}

template <class T> float to_float(T x) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return __bfloat162float(x);
  else if constexpr (std::is_same_v<T, __half>) return __half2float(x);
  else return static_cast<float>(x);
}
template <class T> T from_float(float x) {
  if constexpr (std::is_same_v<T, __nv_bfloat16>) return __float2bfloat16(x);
  else if constexpr (std::is_same_v<T, __half>) return __float2half(x);
  else return static_cast<T>(x);
}

template <class T> class DeviceArray {
 public:
  static constexpr std::size_t guard = 4096;  // bytes on either side
  DeviceArray() = default;
  explicit DeviceArray(Index count) : count_(static_cast<std::size_t>(count)) {
    cuda_ok(cudaMalloc(&base_, bytes() + 2 * guard), "cudaMalloc");
    cuda_ok(cudaMemset(base_, 0xa5, bytes() + 2 * guard), "cudaMemset");
    poison();
  }
  /// Uploads `values`, converted. An empty vector gives a null array ("absent").
  explicit DeviceArray(const std::vector<float>& values) {
    if (values.empty()) return;
    *this = DeviceArray(static_cast<Index>(values.size()));
    upload(values);
  }
  DeviceArray(DeviceArray&& other) noexcept { *this = std::move(other); }
  DeviceArray& operator=(DeviceArray&& other) noexcept {
    std::swap(base_, other.base_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~DeviceArray() { cudaFree(base_); }

  T* data() const { return base_ ? reinterpret_cast<T*>(base_ + guard) : nullptr; }
  operator T*() const { return data(); }
  std::size_t bytes() const { return count_ * sizeof(T); }
  std::size_t size() const { return count_; }

  /// All bits one: NaN in every floating type.
  void poison() { cuda_ok(cudaMemset(data(), 0xff, bytes()), "cudaMemset"); }
  void upload(const std::vector<float>& values) {
    std::vector<T> host(count_);
    for (std::size_t i = 0; i < count_; ++i) host[i] = from_float<T>(values[i]);
    cuda_ok(cudaMemcpy(data(), host.data(), bytes(), cudaMemcpyHostToDevice), "cudaMemcpy");
  }
  std::vector<T> raw() const {
    std::vector<T> host(count_);
    cuda_ok(cudaMemcpy(host.data(), data(), bytes(), cudaMemcpyDeviceToHost), "cudaMemcpy");
    return host;
  }
  std::vector<float> host() const {
    const auto values = raw();
    std::vector<float> out(count_);
    for (std::size_t i = 0; i < count_; ++i) out[i] = to_float(values[i]);
    return out;
  }
  /// True while nothing has been written outside the array.
  bool guards_intact() const {
    if (!base_) return true;
    std::vector<unsigned char> bands(2 * guard);
    cuda_ok(cudaMemcpy(bands.data(), base_, guard, cudaMemcpyDeviceToHost), "cudaMemcpy");
    cuda_ok(cudaMemcpy(bands.data() + guard, base_ + guard + bytes(), guard, cudaMemcpyDeviceToHost), "cudaMemcpy");
    for (unsigned char b : bands)
      if (b != 0xa5) return false;
    return true;
  }

 private:
  unsigned char* base_ = nullptr;
  std::size_t count_ = 0;
};

/// True when two host arrays hold the same bits.
template <class T> bool same_bits(const std::vector<T>& x, const std::vector<T>& y) {
  return x.size() == y.size() && std::memcmp(x.data(), y.data(), x.size() * sizeof(T)) == 0;
}

}  // namespace braid::test
