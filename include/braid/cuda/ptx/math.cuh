// Fast scalar functions and conversions between fp32 and pairs of 16-bit floats.
#pragma once

#include <braid/cuda/ptx/mma.cuh>

namespace braid::cuda::ptx {

inline constexpr float log2_e = 1.44269504088896340736f;

/// 2^x, relative error 2^-22; 2^-inf = 0.
__device__ __forceinline__ float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// log2 x, absolute error 2^-22 near 1.
__device__ __forceinline__ float log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// 1 / x, relative error 2^-23; 1 / inf = 0.
__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// The larger; NaN if one is.
__device__ __forceinline__ float max_nan(float x, float y) {
  float z;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(z) : "f"(x), "f"(y));
  return z;
}

/// Rounds to nearest even; fp16 saturates at +-65504 instead of overflowing.
template <class Operand> __device__ __forceinline__ Word pack(float low, float high) {
  Word word;
  if constexpr (std::is_same_v<Operand, __half>) {
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  } else {
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  }
  return word;
}

template <class T> __device__ __forceinline__ float low(Word word) {
  if constexpr (std::is_same_v<T, __half>) return __low2float(*reinterpret_cast<const __half2*>(&word));
  else return __uint_as_float(word << 16);
}
template <class T> __device__ __forceinline__ float high(Word word) {
  if constexpr (std::is_same_v<T, __half>) return __high2float(*reinterpret_cast<const __half2*>(&word));
  else return __uint_as_float(word & 0xFFFF0000u);
}

/// Four values of T as they lie in memory.
template <class T> using Four = std::conditional_t<sizeof(T) == 4, uint4, uint2>;
template <class T> __device__ __forceinline__ void unpack(float (&out)[4], const Four<T>& x) {
  if constexpr (sizeof(T) == 4) {
    out[0] = __uint_as_float(x.x), out[1] = __uint_as_float(x.y), out[2] = __uint_as_float(x.z), out[3] = __uint_as_float(x.w);
  } else {
    out[0] = low<T>(x.x), out[1] = high<T>(x.x), out[2] = low<T>(x.y), out[3] = high<T>(x.y);
  }
}

/// Elementwise product of two pairs, subnormals kept.
template <class Operand> __device__ __forceinline__ Word multiply(Word x, Word y) {
  Word z;
  if constexpr (std::is_same_v<Operand, __half>) asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(z) : "r"(x), "r"(y));
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  else asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(z) : "r"(x), "r"(y), "r"(0x80008000u));  // plus -0; mul is of sm_90
#else
  else asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(z) : "r"(x), "r"(y));
#endif
  return z;
}

template <class Operand> __device__ __forceinline__ Word negate(Word x) {
  Word y;
  if constexpr (std::is_same_v<Operand, __half>) asm("neg.f16x2 %0, %1;" : "=r"(y) : "r"(x));
  else asm("neg.bf16x2 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}

/// The value of type T whose bits are in a word (load_bits).
template <class T> __device__ __forceinline__ float from_bits(Word bits) {
  if constexpr (sizeof(T) == 4) return __uint_as_float(bits);
  else return low<T>(bits);
}

/// One value of an input array as fp32.
__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

}  // namespace braid::cuda::ptx
