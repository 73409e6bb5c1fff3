// Programmatic dependent launch on the devices that have it, and bulk stores (sm_90).
#pragma once

#include <braid/cuda/ptx/mma.cuh>

namespace braid::cuda::ptx {

/// First statement of a kernel that may be launched while its predecessor still runs: lets the successor be launched in turn, then
/// waits until the predecessor's memory is visible. Does nothing below sm_90 or in an ordinary launch.
__device__ __forceinline__ void after_previous_kernel() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/// Copies `bytes` (a multiple of 16, as are both addresses) from shared to global memory, as part of this thread's bulk group.
__device__ __forceinline__ void bulk_store(void* global, Word shared, int bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(global), "r"(shared), "r"(bytes) : "memory");
}
__device__ __forceinline__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
/// Waits until at most `Pending` of this thread's bulk groups still read shared memory.
template <int Pending> __device__ __forceinline__ void bulk_wait_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(Pending) : "memory");
}
/// Waits until all of this thread's bulk groups are complete.
__device__ __forceinline__ void bulk_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

}  // namespace braid::cuda::ptx
