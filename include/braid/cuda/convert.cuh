// Conversions between the 16-bit types of inputs and outputs and float, four elements to a load where they lie together.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace braid::cuda {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }

template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ __half from_float<__half>(float x) { return __float2half_rn(x); }

/// Four elements as they lie in memory (aligned to their size together).
template <class T> struct alignas(4 * sizeof(T)) Four {
  T x, y, z, w;
};
template <class T> __device__ __forceinline__ Four<T> load4(const T* p) { return *reinterpret_cast<const Four<T>*>(p); }
template <class T> __device__ __forceinline__ float4 to_float4(const Four<T>& f) {
  return {to_float(f.x), to_float(f.y), to_float(f.z), to_float(f.w)};
}
template <class T> __device__ __forceinline__ void store4(T* p, float4 v) {
  *reinterpret_cast<Four<T>*>(p) = {from_float<T>(v.x), from_float<T>(v.y), from_float<T>(v.z), from_float<T>(v.w)};
}

}  // namespace braid::cuda
