// Joins segments of a sequence: the state at the end of each from the affine map S -> M S + c of each (recurrence_arguments.hpp), in fp32.
#pragma once

#include <braid/cuda/context.cuh>
#include <braid/cuda/ptx/barrier.cuh>
#include <braid/cuda/recurrence_arguments.hpp>

namespace braid::cuda {

/// A block has `columns` columns of values of a head, 4 or 8. A warp has 16 keys: lane 8 g + l those from 4 g on, of which it sums over channels
/// 32 t + 4 l .. + 3; when the sums of its eight lanes are joined, it keeps `kept` of them, from entry `kept` l on (entry = 4 column + key).
template <int KeyDim, int Columns> struct CombinePolicy {
  static constexpr int key_dim = KeyDim, columns = Columns, threads = KeyDim / 16 * 32, kept = Columns / 2, spans = KeyDim / 32;
};

/// x [K][columns] in shared memory: four columns of a channel lie together, then those of the channels that eight lanes read at once.
template <class P> struct SegmentState {
  static constexpr int pitch = 4 * P::key_dim + 16;  ///< of four columns; 16 so that lanes that write meet no bank twice
  float value[P::columns / 4][pitch];

  __device__ __forceinline__ static constexpr int at(int channel) { return channel / 32 * 128 + channel % 4 * 32 + channel % 32 / 4 * 4; }
};

/// M of one segment, [K][K], in the registers of a block.
template <class P> class SegmentMap {
 public:
  /// From channel 4 l of the lane's first key on.
  __device__ __forceinline__ void load(const float* from) {
#pragma unroll
    for (int key = 0; key < 4; ++key)
#pragma unroll
      for (int t = 0; t < P::spans; ++t) row_[key][t] = __ldcg(reinterpret_cast<const float4*>(from + key * P::key_dim + 32 * t));
  }
  /// M x in fp32: the entries that the lane keeps.
  __device__ __forceinline__ void apply(float (&out)[P::kept], const SegmentState<P>& x, int lane) const {
    float sum[4 * P::columns] = {};
#pragma unroll
    for (int t = 0; t < P::spans; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int part = 0; part < P::columns / 4; ++part) {
          const float4 y = *reinterpret_cast<const float4*>(&x.value[part][x.at(32 * t + i) + lane % 8 * 4]);
#pragma unroll
          for (int key = 0; key < 4; ++key) {
            const float m = i == 0 ? row_[key][t].x : i == 1 ? row_[key][t].y : i == 2 ? row_[key][t].z : row_[key][t].w;
            float* const d = sum + 16 * part + key;
            d[0] += m * y.x, d[4] += m * y.y, d[8] += m * y.z, d[12] += m * y.w;
          }
        }
    join<2 * P::columns>(sum, lane);
#pragma unroll
    for (int i = 0; i < P::kept; ++i) out[i] = sum[i];
  }

 private:
  /// Sums over eight lanes: of twice `Half` entries a lane gives half to its partner, which keeps those.
  template <int Half> __device__ __forceinline__ static void join(float* sum, int lane) {
    constexpr int partner = Half / (P::columns / 2);
    const bool upper = lane & partner;
#pragma unroll
    for (int i = 0; i < Half; ++i) {
      const float given = upper ? sum[i] : sum[i + Half];
      sum[i] = (upper ? sum[i + Half] : sum[i]) + __shfl_xor_sync(~0u, given, partner);
    }
    if constexpr (partner > 1) join<Half / 2>(sum, lane);
  }
  float4 row_[4][P::spans];
};

/// Block b: columns b % (V / columns) of head b / (V / columns) % HV of sequence b / (V / columns) / HV. On entry segment_states holds c, of a sequence's
/// first segment already the state at its end; on return the state at the end of every segment but the last. `initial` becomes a copy of
/// the initial states: the walk of a last segment may write the final state over them before that of the first has begun.
template <class T, class P>
__global__ void __launch_bounds__(P::threads) combine_segments_kernel(const __grid_constant__ RecurrenceArguments<T> args, float* initial) {
  constexpr int K = P::key_dim;
  __shared__ __align__(16) SegmentState<P> shared[2];
  const int tiles = args.value_dim / P::columns, pair = static_cast<int>(blockIdx.x) / tiles, head = pair % args.value_heads, sequence = pair / args.value_heads;
  const int lane = static_cast<int>(threadIdx.x) % 32, key = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 8 * 4;
  const int entry = lane % 8 * P::kept, own_key = key + entry % 4, own_column = entry / 4;  // the first that the lane keeps: all are of one column
  const Index begin = args.offsets == nullptr ? 0 : args.offsets[sequence], end = args.offsets == nullptr ? args.tokens : args.offsets[sequence + 1];
  const Index first = begin / args.segment_tokens + sequence, last = first + (end - begin + args.segment_tokens - 1) / args.segment_tokens - 1;
  const auto matrix = [&](Index number) { return (number * args.value_heads + head) * K; };  // first row of a sequence's or segment's
  const Index own = static_cast<Index>(own_key) * args.value_dim + static_cast<int>(blockIdx.x) % tiles * P::columns + own_column;
  const auto load = [&](float (&x)[P::kept], const float* states, Index number) {
#pragma unroll
    for (int i = 0; i < P::kept; ++i) x[i] = __ldcg(states + matrix(number) * args.value_dim + own + i * args.value_dim);
  };
  const auto store = [&](const float (&x)[P::kept], float* states, Index number) {
#pragma unroll
    for (int i = 0; i < P::kept; ++i) states[matrix(number) * args.value_dim + own + i * args.value_dim] = x[i];
  };
  float state[P::kept], added[2][P::kept];  // c of the next two segments
  if (args.initial_state != nullptr) {
    load(state, args.initial_state, sequence);
    store(state, initial, sequence);
  }
  ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  if (last - first < 2) return;
  SegmentMap<P> map[2];
  const auto fetch = [&](int turn, Index segment) {
    if (segment >= last) return;
    map[turn].load(args.segment_maps + (matrix(segment) + key) * K + lane % 8 * 4);
    load(added[turn], args.segment_states, segment);
  };
  const auto pass = [&](int turn, Index segment) {
    SegmentState<P>& x = shared[turn];
#pragma unroll
    for (int i = 0; i < P::kept; ++i) x.value[own_column / 4][x.at(own_key + i) + own_column % 4] = state[i];
    __syncthreads();
    map[turn].apply(state, x, lane);
#pragma unroll
    for (int i = 0; i < P::kept; ++i) state[i] += added[turn][i];
    fetch(turn, segment + 2);
    store(state, args.segment_states, segment);
  };
  load(state, args.segment_states, first);
  fetch(0, first + 1), fetch(1, first + 2);
  for (Index segment = first + 1; segment < last; segment += 2) {
    pass(0, segment);
    if (segment + 1 < last) pass(1, segment + 1);
  }
}

/// Each block reads all maps of its head, which is what a step waits for, so fewer columns a block are better while all blocks run at the same time. The
/// columns of a block do not change the order of a sum.
template <int KeyDim, class T>
void launch_combine_segments(const RecurrenceArguments<T>& args, float* initial, int multiprocessors, bool overlap, cudaStream_t stream) {
  const Index columns = static_cast<Index>(args.sequences) * args.value_heads * args.value_dim;
  const auto launch_with = [&]<class P>(P) {
    detail::launch(&combine_segments_kernel<T, P>, static_cast<unsigned>(columns / P::columns), P::threads, 0, overlap, stream, args, initial);
  };
  if (columns / 4 <= multiprocessors) launch_with(CombinePolicy<KeyDim, 4>{});
  else launch_with(CombinePolicy<KeyDim, 8>{});
}

}  // namespace braid::cuda
