// Inside a chunk: the matrices M and Z of record.hpp from q, k and the decays, as tiles in the registers of one warp.
//
// Lane 4r + c holds token 8s + r of slot s = 0..3. Tile (s, t) of M and Z shares one accumulator of mma.m16n8k16: rows 0-7 are
// M (operand rows from k), rows 8-15 are Z (operand rows from q), columns are the tokens of slot t.
//
// Decay per channel: binary splitting. Level l pairs the right half of every block of 2l tokens with its left half; with the
// border between them as reference every factor is a product of decays, so it is <= 1 whatever the gate does. Levels 1, 2, 4
// lie across lanes inside a slot, level 8 pairs slots (0, 1) and (2, 3), level 16 pairs slots {0, 1} with {2, 3}.
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

/// Binary splitting over the channels of one head, 16 channels a step.
template <class Operand> struct BinarySplitting {
  float diagonal[4][4] = {};  ///< levels 1, 2, 4: the tiles on the diagonal
  float outer[6][4] = {};     ///< levels 8 and 16: the tiles below the diagonal, in the order of `below`
  __device__ static constexpr int below(int s, int t) { return s * (s - 1) / 2 + t; }

  /// Adds 16 channels. On entry `prefix` holds alpha; on return prefix = P, suffix = X of the whole chunk, `total` = P_31.
  __device__ __forceinline__ void step(const Lane& lane, const Quad (&k)[4], const Quad (&q)[4], float (&prefix)[4][4],
                                       float (&suffix)[4][4], float (&total)[4]) {
#pragma unroll
    for (int s = 0; s < 4; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) suffix[s][i] = 1.f;
      float level[3][4] = {};
      inner_level<0>(lane, k[s], q[s], prefix[s], suffix[s], level[0]);
      inner_level<1>(lane, k[s], q[s], prefix[s], suffix[s], level[1]);
      inner_level<2>(lane, k[s], q[s], prefix[s], suffix[s], level[2]);
      add_levels(lane, s, level);
    }
    outer_levels(k, q, prefix, suffix, total);
  }

  /// Adds to a tile on the diagonal the products of levels 1, 2 and 4, each valid where the highest bit of row ^ column is its level.
  __device__ __forceinline__ void add_levels(const Lane& lane, int s, const float (&level)[3][4]) {
#pragma unroll
    for (int d = 0; d < 4; ++d) {
      const int differ = lane.r ^ (2 * lane.c + (d & 1));
      diagonal[s][d] += differ >= 4 ? level[2][d] : differ >= 2 ? level[1][d] : level[0][d];
    }
  }

  /// All tiles, the diagonal zero (entries of tokens i = j are q_i . k_i, no matter for splitting).
  __device__ __forceinline__ Tiles tiles(const Lane& lane) const {
    Tiles out;
#pragma unroll
    for (int s = 0; s < 4; ++s) {
#pragma unroll
      for (int d = 0; d < 4; ++d) {
        out.tile[Tiles::at(s, s)][d] = lane.r > 2 * lane.c + (d & 1) ? diagonal[s][d] : 0.f;
      }
#pragma unroll
      for (int t = 0; t < s; ++t)
#pragma unroll
        for (int d = 0; d < 4; ++d) out.tile[Tiles::at(s, t)][d] = outer[below(s, t)][d];
    }
    return out;
  }
  /// The same with `qk` = q_i . k_i of each token on the diagonal of Z.
  __device__ __forceinline__ Tiles tiles(const Lane& lane, const float (&qk)[32]) const {
    Tiles out = tiles(lane);
#pragma unroll
    for (int s = 0; s < 4; ++s)
#pragma unroll
      for (int d = 2; d < 4; ++d)
        if (lane.r == 2 * lane.c + (d & 1)) out.tile[Tiles::at(s, s)][d] = qk[8 * s + lane.r];
    return out;
  }

 private:
  template <int Level>
  __device__ __forceinline__ static void inner_level(const Lane& lane, const Quad& k, const Quad& q, float (&prefix)[4], float (&suffix)[4],
                                                     float (&tile)[4]) {
    const bool right = lane.r & (1 << Level);
    float own[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) own[i] = right ? prefix[i] : suffix[i];
    const Quad factor = pack_quad<Operand>(own);
    const Quad kf = multiply_quad<Operand>(k, factor), qf = multiply_quad<Operand>(q, factor);
    multiply_tile<Operand>(tile, kf, qf, kf);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float other = __shfl_xor_sync(0xFFFFFFFFu, prefix[i] * suffix[i], 4 << Level);
      if (right) prefix[i] *= other;
      else suffix[i] *= other;
    }
  }

  __device__ __forceinline__ void outer_levels(const Quad (&k)[4], const Quad (&q)[4], float (&prefix)[4][4],
                                               float (&suffix)[4][4], float (&total)[4]) {
    float slot_total[4][4];
#pragma unroll
    for (int s = 0; s < 4; ++s)
#pragma unroll
      for (int i = 0; i < 4; ++i) slot_total[s][i] = prefix[s][i] * suffix[s][i];
#pragma unroll
    for (int s = 0; s < 4; s += 2) {  // level 8: slot s + 1 against slot s
      const Quad row = pack_quad<Operand>(prefix[s + 1]), column = pack_quad<Operand>(suffix[s]);
      multiply_tile<Operand>(outer[below(s + 1, s)], multiply_quad<Operand>(k[s + 1], row),
                             multiply_quad<Operand>(q[s + 1], row), multiply_quad<Operand>(k[s], column));
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        prefix[s + 1][i] *= slot_total[s][i];
        suffix[s][i] *= slot_total[s + 1][i];
      }
    }
    Quad column[2];
#pragma unroll
    for (int t = 0; t < 2; ++t) column[t] = multiply_quad<Operand>(k[t], pack_quad<Operand>(suffix[t]));
#pragma unroll
    for (int s = 2; s < 4; ++s) {  // level 16: slots 2, 3 against slots 0, 1
      const Quad row = pack_quad<Operand>(prefix[s]);
      const Quad kf = multiply_quad<Operand>(k[s], row), qf = multiply_quad<Operand>(q[s], row);
#pragma unroll
      for (int t = 0; t < 2; ++t) multiply_tile<Operand>(outer[below(s, t)], kf, qf, column[t]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float first = slot_total[0][i] * slot_total[1][i], second = slot_total[2][i] * slot_total[3][i];
#pragma unroll
      for (int s = 0; s < 2; ++s) {
        prefix[s + 2][i] *= first;
        suffix[s][i] *= second;
      }
      total[i] = first * second;
    }
  }
};

}  // namespace braid::cuda
