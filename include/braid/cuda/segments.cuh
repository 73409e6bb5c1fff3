// Joins segments of a sequence: the state at the end of each from the affine map S -> M S + c of each (recurrence_arguments.hpp), in fp32.
#pragma once

#include <braid/cuda/intra_chunk.cuh>
#include <braid/cuda/ptx/barrier.cuh>
#include <braid/cuda/recurrence_arguments.hpp>

namespace braid::cuda {

/// A warp has 16 keys of `columns` value columns.
template <int KeyDim> struct CombinePolicy {
  static constexpr int columns = 8, threads = KeyDim / 16 * 32;
};

/// M x of one segment, M [K][K] and x [K][8] in fp32, by tf32 products of two parts of each factor: errors of a product are 2^-22 of it. Lane (r, c) of
/// warp w has rows 16 w + r and 16 w + 8 + r; the sum's order is free, so of each it loads channels 16 j + 4 c .. + 3, 16 bytes at once.
template <int KeyDim> class SegmentMap {
 public:
  __device__ __forceinline__ void load(const float* map, const Lane& lane, int warp) {
#pragma unroll
    for (int h = 0; h < 2; ++h)
#pragma unroll
      for (int j = 0; j < steps; ++j)
        row_[h][j] = __ldcg(reinterpret_cast<const float4*>(map + (16 * warp + 8 * h + lane.r) * KeyDim + 16 * j + 4 * lane.c));
  }
  /// sum += M x, x in shared memory with `pitch` floats a channel.
  __device__ __forceinline__ void multiply(float (&sum)[4], const float* x, int pitch, const Lane& lane) const {
    float small[2][4] = {};  // apart from the rest, and from each other: chains of products
#pragma unroll
    for (int j = 0; j < steps; ++j) {
      const float a[2][4] = {{row_[0][j].x, row_[0][j].y, row_[0][j].z, row_[0][j].w}, {row_[1][j].x, row_[1][j].y, row_[1][j].z, row_[1][j].w}};
#pragma unroll
      for (int i = 0; i < 4; i += 2) {
        const float* const at = x + (16 * j + 4 * lane.c + i) * pitch + lane.r;
        const Parts a0(a[0][i]), a1(a[1][i]), a2(a[0][i + 1]), a3(a[1][i + 1]), b0(at[0]), b1(at[pitch]);
        ptx::mma_tf32(small[0], a0.rest, a1.rest, a2.rest, a3.rest, b0.most, b1.most);
        ptx::mma_tf32(small[1], a0.most, a1.most, a2.most, a3.most, b0.rest, b1.rest);
        ptx::mma_tf32(sum, a0.most, a1.most, a2.most, a3.most, b0.most, b1.most);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] += small[0][i] + small[1][i];
  }

 private:
  static constexpr int steps = KeyDim / 16;
  struct Parts {
    float most, rest;
    __device__ __forceinline__ explicit Parts(float x) : most(ptx::round_tf32(x)), rest(x - most) {}
  };
  float4 row_[2][steps];
};

/// Block b: columns b % (V / 8) of head b / (V / 8) % HV of sequence b / (V / 8) / HV. On entry segment_states holds c, of a sequence's
/// first segment already the state at its end; on return the state at the end of every segment but the last. `initial` becomes a copy of
/// the initial states: the walk of a last segment may write the final state over them before that of the first has begun.
template <class T, int KeyDim>
__global__ void __launch_bounds__(CombinePolicy<KeyDim>::threads) combine_segments_kernel(const __grid_constant__ RecurrenceArguments<T> args,
                                                                                              float* initial) {
  using P = CombinePolicy<KeyDim>;
  constexpr int pitch = P::columns + 2;  // lanes of a product then meet no bank twice
  __shared__ __align__(8) float state[2][KeyDim * pitch];
  const Lane lane;
  const int tiles = args.value_dim / P::columns, pair = static_cast<int>(blockIdx.x) / tiles, head = pair % args.value_heads;
  const int sequence = pair / args.value_heads, warp = static_cast<int>(threadIdx.x) / 32, key = 16 * warp + lane.r;
  const Index begin = args.offsets == nullptr ? 0 : args.offsets[sequence], end = args.offsets == nullptr ? args.tokens : args.offsets[sequence + 1];
  const Index first = begin / args.segment_tokens + sequence, last = first + (end - begin + args.segment_tokens - 1) / args.segment_tokens - 1;
  const auto element = [&](Index entry, int h) {
    return ((entry * args.value_heads + head) * KeyDim + key + 8 * h) * args.value_dim + static_cast<int>(blockIdx.x) % tiles * P::columns + 2 * lane.c;
  };
  const auto map = [&](Index segment) { return args.segment_maps + (segment * args.value_heads + head) * KeyDim * KeyDim; };
  const auto load = [&](float (&x)[4], Index segment) {
    for (int h = 0; h < 2; ++h) {
      const float2 two = __ldcg(reinterpret_cast<const float2*>(args.segment_states + element(segment, h)));
      x[2 * h] = two.x, x[2 * h + 1] = two.y;
    }
  };
  if (args.initial_state != nullptr)  // aligned to 4 bytes only
    for (int i = 0; i < 4; ++i) initial[element(sequence, i / 2) + i % 2] = args.initial_state[element(sequence, i / 2) + i % 2];
  ptx::launch_dependents();
  ptx::wait_for_previous_grid();
  if (last - first < 2) return;
  float own[4];
  SegmentMap<KeyDim> m;
  load(own, first);
  m.load(map(first + 1), lane, warp);
  for (Index segment = first + 1; segment < last; ++segment) {
    float* const x = state[segment & 1];
    for (int h = 0; h < 2; ++h) *reinterpret_cast<float2*>(x + (key + 8 * h) * pitch + 2 * lane.c) = make_float2(own[2 * h], own[2 * h + 1]);
    load(own, segment);
    SegmentMap<KeyDim> following;
    if (segment + 1 < last) following.load(map(segment + 1), lane, warp);
    __syncthreads();
    m.multiply(own, x, pitch, lane);
    for (int h = 0; h < 2; ++h)
      *reinterpret_cast<float2*>(args.segment_states + element(segment, h)) = make_float2(own[2 * h], own[2 * h + 1]);
    m = following;
  }
}

}  // namespace braid::cuda
