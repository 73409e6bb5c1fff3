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

/// Copies 16 bytes from global to shared memory without registers; `valid` = false writes zeros.
__device__ __forceinline__ void copy16_async(Word shared, const void* global, bool valid = true) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(shared), "l"(global), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `Pending` of this thread's groups are under way.
template <int Pending> __device__ __forceinline__ void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory"); }

}  // namespace braid::cuda::ptx
