// M, Z and the rows kd, qd, kg of a record for decays per channel, 16 channels at a time.
//
// Slots of eight tokens meet in levels: level 16 pairs slots {0, 1} with {2, 3}, level 8 pairs (0, 1) and (2, 3); with the border between the
// two as reference, every factor is a product of decays, <= 1 whatever the gate does. Inside a slot the reference is its middle.
#pragma once

#include <braid/cuda/intra_chunk.cuh>

namespace braid::cuda {

/// The decays of 16 channels of a chunk, from sums of log decays in fp16 that the matrix units form.
///
/// In slot s, tokens 8s to 8s + 7, the border h between its fourth and fifth token is the reference of its tile on the diagonal:
///
///   row_i = prod from h to i (before h: the reciprocal of i to h)      col_j = 1 / row_j      prod_{j<t<=i} alpha_t = row_i col_j
///   from the slot's start to i: row_i first      from j to the slot's end: col_j second
///
/// `first` and `second` are the products of the slot's halves. row and col exceed one inside half a slot, but not 2^(4 * 27), which leaves room
/// for elements of k up to 2^16: a log decay below `deepest` is taken for it, which changes a state by 2^-27 of itself, an eighth of its
/// rounding in fp32. All else is <= 1.
template <class Operand> class ChunkDecays {
  using Word = ptx::Word;

 public:
  static constexpr float deepest = -27.f;  ///< log2 alpha
  /// Of log2 alpha in fp16, which then neither overflows nor, where decays are slow, loses bits. Rounding it changes what has decayed to 2^-g by at most
  /// g ln 2 2^-12 of itself, and so of what it was by less than 9e-5.
  static constexpr int scale = 2048;
  static_assert(4 * -deepest + 16 < 127, "col times an element of k overflows");
  enum Border { first = 0, second = 4 };              ///< of slot 0
  enum Product { slots = 0, halves = 4, chunk = 6 };  ///< of slot 0, of the first half of the chunk, of the chunk
  /// Shared memory of one warp.
  struct Scratch {
    float4 border[8][4];
    Quad product[8][4];
  };

  /// `logs`: scale log2 alpha of the lane's tokens and channels, log2 alpha >= deepest.
  __device__ __forceinline__ ChunkDecays(const Lane& lane, const float (&logs)[4][4], Scratch& scratch) : scratch_(scratch), c_(lane.c) {
#pragma unroll
    for (int s = 0; s < 4; ++s)
#pragma unroll
      for (int t = 0; t < 2; ++t) logs_[s][t] = ptx::movmatrix_transposed(ptx::pack<__half>(logs[s][2 * t], logs[s][2 * t + 1]));
    write_products(lane);
    auto weight = [&](int j) { return lane.r > 3 ? (3 < j && j <= lane.r ? one : 0u) : (lane.r < j && j <= 3 ? one | 0x8000u : 0u); };
    row_ = weight(2 * lane.c) | weight(2 * lane.c + 1) << 16;
    col_ = row_ ^ 0x80008000u;
  }

  /// row and col of slot s.
  __device__ __forceinline__ void references(int s, float (&row)[4], float (&col)[4]) const {
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      float d[4] = {};
      add(d, row_, col_, s, t);
#pragma unroll
      for (int i = 0; i < 2; ++i) row[2 * t + i] = ptx::exp2(d[i]), col[2 * t + i] = ptx::exp2(d[2 + i]);
    }
  }
  /// What holds row or col as a factor, times `first` or `second`.
  __device__ __forceinline__ Quad scaled(const float (&x)[4], int border) const {
    const float4 y = scratch_.border[border][c_];
    const float z[4] = {x[0] * y.x, x[1] * y.y, x[2] * y.z, x[3] * y.w};
    return pack_quad<Operand>(z);
  }
  __device__ __forceinline__ Quad product(int which) const { return scratch_.product[which][c_]; }
  /// Of the whole chunk, in fp32: four channels of those lanes for which `has_total`.
  __device__ __forceinline__ static bool has_total(const Lane& lane) { return lane.r == chunk; }
  float total[4];

 private:
  static constexpr Word one = 0x1000;  // 1 / scale in fp16

  /// d += sums of log decays of slot s, weighted by `upper` in rows 0-7 and `lower` in rows 8-15.
  __device__ __forceinline__ void add(float (&d)[4], Word upper, Word lower, int s, int t) const {
    ptx::mma_fp16_k8(d, upper, lower, logs_[s][t]);
  }
  /// Row r of the upper eight is a border's, of the lower eight a product's, each a sum over half slots.
  __device__ __forceinline__ void write_products(const Lane& lane) {
    const unsigned border = 1u << (2 * lane.r % 8 + lane.r / 4) >> lane.c / 2;
    const unsigned product = (lane.r < 4 ? 3u << 2 * lane.r : lane.r == 4 ? 0x0Fu : lane.r == 5 ? 0xF0u : 0xFFu) >> lane.c / 2;
    float d[2][4] = {};
#pragma unroll
    for (int s = 0; s < 4; ++s)
#pragma unroll
      for (int t = 0; t < 2; ++t)
        add(d[t], border & 1u << 2 * s ? one | one << 16 : 0u, product & 1u << 2 * s ? one | one << 16 : 0u, s, t);
    scratch_.border[lane.r][lane.c] = make_float4(ptx::exp2(d[0][0]), ptx::exp2(d[0][1]), ptx::exp2(d[1][0]), ptx::exp2(d[1][1]));
#pragma unroll
    for (int i = 0; i < 4; ++i) total[i] = ptx::exp2(d[i / 2][2 + i % 2]);
    scratch_.product[lane.r][lane.c] = pack_quad<Operand>(total);
    __syncwarp();
  }

  Scratch& scratch_;
  int c_;
  Word logs_[4][2];  // fp16, as B operands: tokens 2c, 2c + 1 of channel r
  Word row_, col_;
};

/// Rows of a record, of 16 channels.
struct Rows16 {
  Quad minus_kd[4], qd[4], kg[4];
};

/// M and Z of a chunk, 16 channels at a time.
template <class Operand> struct ChunkMatrices : TileSums {
  /// Adds 16 channels and returns their rows; `read(s, k, q)` gives four channels of a token of slot s.
  template <class Read> __device__ __forceinline__ Rows16 add(const ChunkDecays<Operand>& decays, const Read& read) {
    using Decays = ChunkDecays<Operand>;
    Rows16 out;
    Quad kd[4];
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      float k[4], q[4], row[4], col[4];
      read(s, k, q);
      decays.references(s, row, col);
      float k_row[4], q_row[4], k_col[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) k_row[i] = k[i] * row[i], q_row[i] = q[i] * row[i], k_col[i] = k[i] * col[i];
      add_diagonal(s, k_row, q_row, k_col);
      kd[s] = decays.scaled(k_row, Decays::first + s);
      out.qd[s] = decays.scaled(q_row, Decays::first + s);
      out.kg[s] = decays.scaled(k_col, Decays::second + s);
    }
    out.minus_kd[0] = negate_quad<Operand>(kd[0]);
    // Level 8 pairs slots (0, 1) and (2, 3), level 16 {0, 1} with {2, 3}, the border between them as reference.
#pragma unroll
    for (int s = 0; s < 4; s += 2) {
      multiply_tile<Operand>(outer[below(s + 1, s)], kd[s + 1], out.qd[s + 1], out.kg[s]);
      const Quad before = decays.product(Decays::slots + s), after = decays.product(Decays::slots + s + 1);
      if (s == 0) out.minus_kd[1] = minus(kd[1], before);
      else kd[3] = times(kd[3], before);
      out.qd[s + 1] = times(out.qd[s + 1], before);
      out.kg[s] = times(out.kg[s], after);
    }
    const Quad before = decays.product(Decays::halves), after = decays.product(Decays::halves + 1);
#pragma unroll
    for (int s = 2; s < 4; ++s) {
#pragma unroll
      for (int t = 0; t < 2; ++t) multiply_tile<Operand>(outer[below(s, t)], kd[s], out.qd[s], out.kg[t]);
      out.minus_kd[s] = minus(kd[s], before);
      out.qd[s] = times(out.qd[s], before);
    }
#pragma unroll
    for (int t = 0; t < 2; ++t) out.kg[t] = times(out.kg[t], after);
    return out;
  }

  __device__ __forceinline__ Tiles tiles(const Lane& lane) const {
    // tf32 operands are cut, not rounded: on average by 0.7213 * 2^-11 of their value (mantissas spread evenly over their logarithm).
    return TileSums::tiles(lane, 1.f + 2 * 0.7213f / 2048);
  }

 private:
  __device__ __forceinline__ static Quad times(const Quad& x, const Quad& y) { return multiply_quad<Operand>(x, y); }
  __device__ __forceinline__ static Quad minus(const Quad& x, const Quad& y) { return times(negate_quad<Operand>(x), y); }
  /// Slot s against itself, in tf32 because of the range of row and col.
  __device__ __forceinline__ void add_diagonal(int s, const float (&k_row)[4], const float (&q_row)[4], const float (&k_col)[4]) {
#pragma unroll
    for (int i = 0; i < 4; i += 2) ptx::mma_tf32(diagonal[s], k_row[i], q_row[i], k_row[i + 1], q_row[i + 1], k_col[i], k_col[i + 1]);
  }
};

}  // namespace braid::cuda
