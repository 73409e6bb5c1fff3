// Conversions between the 16-bit types of inputs and outputs and float, four elements to a load where they lie together.
#pragma once

#include <braid/cuda/ptx/math.cuh>

namespace braid::cuda {

using ptx::to_float;

template <class T> __device__ __forceinline__ T from_float(float x);
template <> __device__ __forceinline__ float from_float<float>(float x) { return x; }
template <> __device__ __forceinline__ __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ __half from_float<__half>(float x) { return __float2half_rn(x); }

/// N elements as they lie in memory, moved in one access (aligned to their size together).
template <class T, int N> struct alignas(N * sizeof(T)) Pack {
  T x[N];
};
template <int N, class T> __device__ __forceinline__ Pack<T, N> load_pack(const T* p) { return *reinterpret_cast<const Pack<T, N>*>(p); }
template <class T> __device__ __forceinline__ float4 to_float4(const Pack<T, 4>& f) {
  return {to_float(f.x[0]), to_float(f.x[1]), to_float(f.x[2]), to_float(f.x[3])};
}
__device__ __forceinline__ void store4(float* p, float4 v) { *reinterpret_cast<float4*>(p) = v; }
template <class T> __device__ __forceinline__ void store4(T* p, float4 v) {
  static_assert(sizeof(T) == 2);
  const Pack<T, 4> pack{from_float<T>(v.x), from_float<T>(v.y), from_float<T>(v.z), from_float<T>(v.w)};
  *reinterpret_cast<uint2*>(p) = *reinterpret_cast<const uint2*>(&pack);  // a copy of the struct would be four stores
}

}  // namespace braid::cuda
