// mbarrier, bulk copies and proxy fences (sm_90).
#pragma once

#include <braid/cuda/ptx/mma.cuh>

namespace braid::cuda::ptx {

/// Whether the code that is being compiled may use what is in this file.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
inline constexpr bool copies_in_bulk = true;
#else
inline constexpr bool copies_in_bulk = false;
#endif

/// A barrier in shared memory whose phase completes when `count` arrivals and all announced bytes have come.
struct alignas(8) Barrier {
  std::uint64_t state;

  __device__ __forceinline__ void init(int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(this)), "r"(count) : "memory");
  }
  __device__ __forceinline__ void arrive() {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(this)) : "memory");
  }
  /// Arrives and announces `bytes` of bulk copies.
  __device__ __forceinline__ void arrive_expect(int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(this)), "r"(bytes) : "memory");
  }
  /// Arrives when this thread's earlier cp.async copies have completed; `count` must provide for it.
  __device__ __forceinline__ void arrive_after_copies() {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(this)) : "memory");
  }
  /// Waits until the phase of this parity has completed.
  __device__ __forceinline__ void wait(int parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}\n" ::"r"(shared_address(this)), "r"(parity) : "memory");
  }
};

/// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void fence_barrier_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
/// Orders this thread's ordinary accesses to shared memory before later ones of the copy engine and of wgmma.
__device__ __forceinline__ void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

/// Copies `bytes` (a multiple of 16, as are both addresses) from global to shared memory; `barrier` counts them.
__device__ __forceinline__ void bulk_load(Word shared, const void* global, int bytes, Barrier& barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared),
               "l"(global), "r"(bytes), "r"(shared_address(&barrier)) : "memory");
}

/// Barrier number `id` (1..15) among `threads` threads of the block.
__device__ __forceinline__ void named_barrier(int id, int threads) {
  asm volatile("barrier.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

/// Orders this thread's ordinary accesses to global memory and those of the copy engine, in both directions.
__device__ __forceinline__ void fence_async_global() { asm volatile("fence.proxy.async.global;" ::: "memory"); }

/// Programmatic dependent launch: lets the next kernel of the stream start its blocks; waits for the previous kernel's memory. Before sm_90 kernels follow
/// one another anyway.
__device__ __forceinline__ void launch_dependents() {
  if constexpr (copies_in_bulk) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}
__device__ __forceinline__ void wait_for_previous_grid() {
  if constexpr (copies_in_bulk) asm volatile("griddepcontrol.wait;" ::: "memory");
}

}  // namespace braid::cuda::ptx
