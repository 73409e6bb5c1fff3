// Joins segments of a sequence: the state at the end of each from the affine map S -> M S + c of each (recurrence_arguments.hpp), in fp32.
#pragma once

#include <braid/cuda/ptx/memory.cuh>
#include <braid/cuda/recurrence_arguments.hpp>

namespace braid::cuda {

/// Value columns of a block; threads of a block: four columns of one key each.
template <int KeyDim> struct CombinePolicy {
  static constexpr int columns = 8, threads = KeyDim * columns / 4;
  static constexpr int row_floats = KeyDim + 4;  ///< of M in shared memory: reading a column of float4 meets no bank twice
  static constexpr int shared_bytes = (KeyDim * row_floats + KeyDim * columns) * static_cast<int>(sizeof(float));
};

/// Block b: columns b % (V / 8) of head b / (V / 8) % HV of sequence b / (V / 8) / HV. On entry segment_states holds c, of a sequence's
/// first segment already the state at its end; on return the state at the end of every segment but the last. `initial` becomes a copy of
/// the initial states: the walk of a last segment may write the final state over them before that of the first has begun.
template <class T, int KeyDim>
__global__ void __launch_bounds__(CombinePolicy<KeyDim>::threads) combine_segments_kernel(const __grid_constant__ RecurrenceArguments<T> args,
                                                                                              float* initial) {
  using P = CombinePolicy<KeyDim>;
  extern __shared__ __align__(16) unsigned char combine_shared[];
  auto* map = reinterpret_cast<float*>(combine_shared);
  float* state = map + KeyDim * P::row_floats;  // [K][8]
  const int tiles = args.value_dim / P::columns, pair = static_cast<int>(blockIdx.x) / tiles, head = pair % args.value_heads;
  const int sequence = pair / args.value_heads, thread = static_cast<int>(threadIdx.x), key = thread % KeyDim, four = thread / KeyDim * 4;
  const Index begin = args.offsets == nullptr ? 0 : args.offsets[sequence], end = args.offsets == nullptr ? args.tokens : args.offsets[sequence + 1];
  const Index first = begin / args.segment_tokens + sequence, count = (end - begin + args.segment_tokens - 1) / args.segment_tokens;
  auto element = [&](Index entry) {
    return ((entry * args.value_heads + head) * KeyDim + key) * args.value_dim + static_cast<int>(blockIdx.x) % tiles * P::columns + four;
  };
  auto ends = [&](Index segment) { return reinterpret_cast<float4*>(args.segment_states + element(segment)); };
  if (args.initial_state != nullptr)  // aligned to 4 bytes only
    for (int i = 0; i < 4; ++i) initial[element(sequence) + i] = args.initial_state[element(sequence) + i];
  float4* own = reinterpret_cast<float4*>(state + key * P::columns + four);
  if (count > 2) *own = *ends(first);
  for (Index segment = first + 1; segment + 1 < first + count; ++segment) {
    const float* from = args.segment_maps + (segment * args.value_heads + head) * KeyDim * KeyDim;
    for (int i = thread; i < KeyDim * KeyDim / 4; i += P::threads)
      ptx::copy16_async(ptx::shared_address(map + i / (KeyDim / 4) * P::row_floats + i % (KeyDim / 4) * 4), from + 4 * i);
    ptx::copy_commit();
    float4 sum = *ends(segment);
    ptx::copy_wait<0>();
    __syncthreads();
#pragma unroll 4
    for (int k = 0; k < KeyDim; k += 4) {
      const float4 m = *reinterpret_cast<const float4*>(map + key * P::row_floats + k);
      const float row[4] = {m.x, m.y, m.z, m.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float4 x = *reinterpret_cast<const float4*>(state + (k + i) * P::columns + four);
        sum.x = fmaf(row[i], x.x, sum.x), sum.y = fmaf(row[i], x.y, sum.y), sum.z = fmaf(row[i], x.z, sum.z), sum.w = fmaf(row[i], x.w, sum.w);
      }
    }
    __syncthreads();
    *ends(segment) = *own = sum;
    __syncthreads();
  }
}

}  // namespace braid::cuda
