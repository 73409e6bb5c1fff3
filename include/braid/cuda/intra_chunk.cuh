// Inside a chunk: the matrices M and Z of record.hpp as tiles in the registers of one warp.
//
// Lane 4r + c holds token 8s + r of slot s = 0..3. Tile (s, t) of M and Z shares one accumulator of mma.m16n8k16: rows 0-7 are
// M (operand rows from k), rows 8-15 are Z (operand rows from q), columns are the tokens of slot t.
#pragma once

#include <braid/cuda/ptx/math.cuh>
#include <braid/cuda/record.hpp>

#include <cstddef>

namespace braid::cuda {

/// Position of a lane in a fragment.
struct Lane {
  int index = static_cast<int>(threadIdx.x) & 31;
  int r = index >> 2, c = index & 3;
};

/// Lower triangle of 8x8 tiles of a 32x32 matrix pair. tile[at(s, t)] = {M(r, 2c), M(r, 2c + 1), Z(r, 2c), Z(r, 2c + 1)}.
struct Tiles {
  float tile[10][4];
  __device__ static constexpr int at(int s, int t) { return s * (s + 1) / 2 + t; }
};

/// Two words = the four channels of a lane in a step of 16, already scaled.
struct Quad {
  ptx::Word word[2];
};
template <class Operand> __device__ __forceinline__ Quad pack_quad(const float (&x)[4]) {
  return {{ptx::pack<Operand>(x[0], x[1]), ptx::pack<Operand>(x[2], x[3])}};
}
template <class Operand> __device__ __forceinline__ Quad multiply_quad(const Quad& x, const Quad& y) {
  return {{ptx::multiply<Operand>(x.word[0], y.word[0]), ptx::multiply<Operand>(x.word[1], y.word[1])}};
}
template <class Operand> __device__ __forceinline__ Quad negate_quad(const Quad& x) {
  return {{ptx::negate<Operand>(x.word[0]), ptx::negate<Operand>(x.word[1])}};
}
/// Four channels of a record's section a, from a multiple of four on.
__device__ __forceinline__ void store_decay(std::byte* section, int channel, const float (&total)[4]) {
  std::byte* const at = section + Record::decay_element(channel);
  *reinterpret_cast<float2*>(at) = make_float2(total[0], total[1]);
  *reinterpret_cast<float2*>(at + Record::decay_element(2)) = make_float2(total[2], total[3]);
}
/// tile += (rows k over rows q) columns^T.
template <class Operand>
__device__ __forceinline__ void multiply_tile(float (&tile)[4], const Quad& k_row, const Quad& q_row, const Quad& k_column) {
  ptx::mma<Operand>(tile, k_row.word[0], q_row.word[0], k_row.word[1], q_row.word[1], k_column.word[0], k_column.word[1]);
}

/// Sums over the channels of a head of the tiles of M and Z.
struct TileSums {
  float diagonal[4][4] = {};  ///< the tiles on the diagonal
  float outer[6][4] = {};     ///< those below, in the order of `below`
  __device__ static constexpr int below(int s, int t) { return s * (s - 1) / 2 + t; }

  /// All tiles; on the diagonal what lies strictly below it, times `factor`, and zeros.
  __device__ __forceinline__ Tiles tiles(const Lane& lane, float factor = 1.f) const {
    Tiles out;
#pragma unroll
    for (int s = 0; s < 4; ++s) {
#pragma unroll
      for (int d = 0; d < 4; ++d) out.tile[Tiles::at(s, s)][d] = lane.r > 2 * lane.c + (d & 1) ? factor * diagonal[s][d] : 0.f;
#pragma unroll
      for (int t = 0; t < s; ++t)
#pragma unroll
        for (int d = 0; d < 4; ++d) out.tile[Tiles::at(s, t)][d] = outer[below(s, t)][d];
    }
    return out;
  }
};

}  // namespace braid::cuda
