// Global and shared memory accesses of a chosen width and cache behaviour, and cp.async (sm_80).
#pragma once

#include <braid/cuda/ptx/mma.cuh>

namespace braid::cuda::ptx {

/// Read-only loads that fetch whole 256-byte spans into L2: one row of 128 16-bit channels comes from memory once.
__device__ __forceinline__ uint2 load_row8(const void* pointer) {
  uint2 x;
  asm volatile("ld.global.nc.L2::256B.v2.u32 {%0,%1}, [%2];" : "=r"(x.x), "=r"(x.y) : "l"(pointer));
  return x;
}
__device__ __forceinline__ uint4 load_row16(const void* pointer) {
  uint4 x;
  asm volatile("ld.global.nc.L2::256B.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w) : "l"(pointer));
  return x;
}

/// One value's bits in the low half of a word, not touched before they are used: the load need not be waited for.
__device__ __forceinline__ Word load_bits(const __half* pointer) {
  Word bits;
  asm volatile("ld.global.nc.u16 %0, [%1];" : "=r"(bits) : "l"(pointer));
  return bits;
}
__device__ __forceinline__ Word load_bits(const __nv_bfloat16* pointer) { return load_bits(reinterpret_cast<const __half*>(pointer)); }
__device__ __forceinline__ Word load_bits(const float* pointer) { return __float_as_uint(__ldg(pointer)); }

/// Flags between blocks: what happened before `fence_release` and `store_relaxed` (in the whole block, given a block barrier between) has
/// happened for whoever reads the value with `load_acquire`.
__device__ __forceinline__ void fence_release() { asm volatile("fence.acq_rel.gpu;" ::: "memory"); }
__device__ __forceinline__ void store_relaxed(Word* flag, Word value) {
  asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
__device__ __forceinline__ Word load_acquire(const Word* flag) {
  Word value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
  return value;
}

/// The same object in shared memory, its address the same for all lanes as far as the compiler knows, and too dear to compute twice: it would
/// otherwise read a special register before every access in a loop.
template <class T> __device__ __forceinline__ T& uniform(T& shared) {
  return *static_cast<T*>(__cvta_shared_to_generic(__reduce_max_sync(~0u, shared_address(&shared))));
}

/// Has a line fetched into L2.
__device__ __forceinline__ void prefetch(const void* pointer) { asm volatile("prefetch.global.L2 [%0];" ::"l"(pointer)); }

/// What L2 does with what is read, here: it gives it up before all else.
using CachePolicy = std::uint64_t;
__device__ __forceinline__ CachePolicy evict_first() {
  CachePolicy policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}

/// Copies 16 bytes from global to shared memory without registers; `valid` = false writes zeros.
__device__ __forceinline__ void copy16_async(Word shared, const void* global, bool valid = true) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}
/// The same with a policy, if `Hint`.
template <bool Hint> __device__ __forceinline__ void copy16_async(Word shared, const void* global, bool valid, CachePolicy policy) {
  if constexpr (!Hint) return copy16_async(shared, global, valid);
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::cache_hint.L2::256B [%0], [%1], 16, %2, %3;" ::"r"(shared), "l"(global), "r"(bytes), "l"(policy) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `Pending` of this thread's groups are under way.
template <int Pending> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory"); }

}  // namespace braid::cuda::ptx
