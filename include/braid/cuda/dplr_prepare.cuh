// Preparation for general DPLR: two warps turn 32 tokens of one value head into a DplrRecord, one for the columns a, one for k.
//
// Binary splitting: level l = 1, 2, 4, 8, 16 pairs the right half of every block of 2l tokens with its left half; with the border between them
// as reference every factor is a product of decays, <= 1 whatever the gate does. Levels 1, 2, 4 lie across lanes inside a slot, level 8 pairs
// slots (0, 1) and (2, 3), level 16 {0, 1} with {2, 3}. Rows are b (their reference excludes the token itself) and q, against the warp's
// column; the two columns share no accumulator, so two warps cost little more than one.
#pragma once

#include <braid/core/linear_attention.hpp>
#include <braid/cuda/dplr_record.hpp>
#include <braid/cuda/gate.cuh>
#include <braid/cuda/intra_chunk.cuh>
#include <braid/cuda/ptx/memory.cuh>
#include <braid/cuda/time_order.hpp>

namespace braid::cuda {

/// Device pointers of the preparation. T is the type of q, k, a and b, G that of gate.
template <class T, class G> struct DplrPrepareArguments {
  const T* q = nullptr;     ///< [T, H, K]
  const T* k = nullptr;     ///< [T, H, K]
  const T* a = nullptr;     ///< [T, HV, K]
  const T* b = nullptr;     ///< [T, HV, K]
  const G* gate = nullptr;  ///< per channel [T, HV, K]; per head [T, HV]; none: null
  const float* A_log = nullptr;    ///< [HV]; null for LogDecay
  const float* dt_bias = nullptr;  ///< per channel [HV, K]; per head [HV]; null for LogDecay
  int heads = 0, value_heads = 0;
  bool normalize = false;
  std::byte* records = nullptr;  ///< at the positions of `order`
  TimeOrder order = {};          ///< of the chunks
};

/// What a DPLR kernel must know when it is compiled.
template <class T_, class G_, class Gate_, int KeyDim, class Operand_ = __half> struct DplrCell {
  using T = T_;
  using G = G_;
  using Gate = Gate_;
  using Operand = Operand_;
  static constexpr int key_dim = KeyDim;
  static constexpr DplrRecord record{KeyDim};
};

/// Binary splitting of two rows, b and q, against one column x. Tiles hold b rows in d[0], d[1] and q rows in d[2], d[3].
template <class Operand> struct DplrSplitting : TileSums {
  /// Adds 16 channels. On entry `prefix` holds alpha; on return prefix = P, before = Px, suffix = X of the chunk, `total` = P_31.
  __device__ __forceinline__ void step(const Lane& lane, const Quad (&b)[4], const Quad (&q)[4], const Quad (&x)[4], float (&prefix)[4][4],
                                       float (&before)[4][4], float (&suffix)[4][4], float (&total)[4]) {
#pragma unroll
    for (int s = 0; s < 4; ++s) {
#pragma unroll
      for (int i = 0; i < 4; ++i) before[s][i] = suffix[s][i] = 1.f;
      float level[3][4] = {};
      inner_level<0>(lane, b[s], q[s], x[s], prefix[s], before[s], suffix[s], level[0]);
      inner_level<1>(lane, b[s], q[s], x[s], prefix[s], before[s], suffix[s], level[1]);
      inner_level<2>(lane, b[s], q[s], x[s], prefix[s], before[s], suffix[s], level[2]);
      add_levels(lane, s, level);
    }
    float all[4][4];
#pragma unroll
    for (int s = 0; s < 4; ++s)
#pragma unroll
      for (int i = 0; i < 4; ++i) all[s][i] = prefix[s][i] * suffix[s][i];
#pragma unroll
    for (int s = 0; s < 4; s += 2) {  // level 8: slot s + 1 against slot s
      multiply_tile<Operand>(outer[below(s + 1, s)], scaled(b[s + 1], before[s + 1]), scaled(q[s + 1], prefix[s + 1]),
                             scaled(x[s], suffix[s]));
#pragma unroll
      for (int i = 0; i < 4; ++i) prefix[s + 1][i] *= all[s][i], before[s + 1][i] *= all[s][i], suffix[s][i] *= all[s + 1][i];
    }
    const Quad column[2] = {scaled(x[0], suffix[0]), scaled(x[1], suffix[1])};
#pragma unroll
    for (int s = 2; s < 4; ++s) {  // level 16: slots 2, 3 against slots 0, 1
      const Quad row_b = scaled(b[s], before[s]), row_q = scaled(q[s], prefix[s]);
#pragma unroll
      for (int t = 0; t < 2; ++t) multiply_tile<Operand>(outer[below(s, t)], row_b, row_q, column[t]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float first = all[0][i] * all[1][i], second = all[2][i] * all[3][i];
#pragma unroll
      for (int s = 0; s < 2; ++s) prefix[s + 2][i] *= first, before[s + 2][i] *= first, suffix[s][i] *= second;
      total[i] = first * second;
    }
  }

  /// All tiles, with `qk` = q_i . k_i of each token on the diagonal of Z.
  __device__ __forceinline__ Tiles tiles(const Lane& lane, const float (&qk)[32]) const {
    Tiles out = TileSums::tiles(lane);
#pragma unroll
    for (int s = 0; s < 4; ++s)
#pragma unroll
      for (int d = 2; d < 4; ++d)
        if (lane.r == 2 * lane.c + (d & 1)) out.tile[Tiles::at(s, s)][d] = qk[8 * s + lane.r];
    return out;
  }

  __device__ __forceinline__ static Quad scaled(const Quad& x, const float (&factor)[4]) {
    return multiply_quad<Operand>(x, pack_quad<Operand>(factor));
  }

 private:
  /// Adds to a tile on the diagonal the products of levels 1, 2 and 4, each valid where the highest bit of row ^ column is its level.
  __device__ __forceinline__ void add_levels(const Lane& lane, int s, const float (&level)[3][4]) {
#pragma unroll
    for (int d = 0; d < 4; ++d) {
      const int differ = lane.r ^ (2 * lane.c + (d & 1));
      diagonal[s][d] += differ >= 4 ? level[2][d] : differ >= 2 ? level[1][d] : level[0][d];
    }
  }

  template <int Level>
  __device__ __forceinline__ static void inner_level(const Lane& lane, const Quad& b, const Quad& q, const Quad& x, float (&prefix)[4],
                                                     float (&before)[4], float (&suffix)[4], float (&tile)[4]) {
    const bool right = lane.r & (1 << Level);
    multiply_tile<Operand>(tile, scaled(b, before), scaled(q, prefix), scaled(x, suffix));
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float other = __shfl_xor_sync(~0u, prefix[i] * suffix[i], 4 << Level);
      if (right) prefix[i] *= other, before[i] *= other;
      else suffix[i] *= other;
    }
  }
};

/// Shared memory of one warp.
struct alignas(16) DplrScratch {
  static constexpr int stride = 36;
  union {
    float matrix[chunk_tokens][stride];          ///< Aba, read by the substitution
    unsigned char image[Record::square_bytes];  ///< T, laid out as in the record
  };
  float diagonal[chunk_tokens];  ///< q_i . x_i
};

/// Body of the preparation for one warp. `Keys`: its column is k and it writes qd, kg, Aqk, Abk and the decay; else a: bd, ag, Aqa, T.
template <class C, bool Keys> class DplrPreparation {
  using T = typename C::T;
  using G = typename C::G;
  using Gate = typename C::Gate;
  using Operand = typename C::Operand;
  using Word = ptx::Word;
  static constexpr int K = C::key_dim;
  static constexpr bool per_channel = Gate::decay == Decay::per_channel;

 public:
  __device__ __forceinline__ DplrPreparation(const DplrPrepareArguments<T, G>& args, const TimeOrder::Piece& piece, int position, DplrScratch& scratch)
      : args_(args), scratch_(scratch), record_(args.records + static_cast<Index>(position) * C::record.bytes()), left_(piece.tokens(position)),
        head_(piece.head), key_stride_(args.heads * K), value_stride_(args.value_heads * K) {
    const Index first = piece.token(position), key_row = first * args.heads + head_ / (args.value_heads / args.heads);
    const Index value_row = first * args.value_heads + head_;
    q_ = args.q + key_row * K;
    x_ = Keys ? args.k + key_row * K : args.a + value_row * K;
    b_ = args.b + value_row * K;
    gate_ = args.gate + (per_channel ? value_row * K : value_row);
  }

  __device__ __forceinline__ void run() {
    token_factors();
    DplrSplitting<Operand> splitting;
    float head_alpha[4] = {1, 1, 1, 1};
    const float rate = gate_is_given<Gate> ? 0.f : __expf(args_.A_log[head_]);
    if constexpr (Gate::decay == Decay::per_head) {
      const DecayFactor<Gate> alpha(rate, gate_is_given<Gate> ? 0.f : args_.dt_bias[head_]);
#pragma unroll
      for (int s = 0; s < 4; ++s)
        if (valid(s)) head_alpha[s] = alpha(ptx::to_float(gate_[(8 * s + lane_.r) * args_.value_heads]));
    }
    Rows rows;
    rows.fetch(*this, 0);
#pragma unroll 1
    for (int step = 0; step < K / 16; ++step) {
      Quad q[4], b[4], x[4];
      float prefix[4][4], before[4][4], suffix[4][4], total[4], bias[4] = {};
      if constexpr (per_channel && !gate_is_given<Gate>) {
        const float4 v = __ldg(reinterpret_cast<const float4*>(args_.dt_bias + head_ * K + 16 * step + 4 * lane_.c));
        bias[0] = v.x, bias[1] = v.y, bias[2] = v.z, bias[3] = v.w;
      }
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        operand(q[s], rows.q[s], q_factor_[s]);
        operand(b[s], rows.b[s], 1.f);
        operand(x[s], rows.x[s], x_factor_[s]);
#pragma unroll
        for (int i = 0; i < 4; ++i) prefix[s][i] = head_alpha[s];
        if constexpr (per_channel) {
          float raw[4];
          ptx::unpack<G>(raw, rows.gate[s]);
#pragma unroll
          for (int i = 0; i < 4; ++i) {
            const DecayFactor<Gate> alpha(rate, bias[i]);
            prefix[s][i] = valid(s) ? alpha(raw[i]) : 1.f;
          }
        }
      }
      if (step + 1 < K / 16) rows.fetch(*this, step + 1);
      splitting.step(lane_, b, q, x, prefix, before, suffix, total);
      write_rows(step, Keys ? q : b, Keys ? prefix : before, x, suffix);
      if (Keys && lane_.r == 0) store_decay(record_ + C::record.a(), 16 * step + 4 * lane_.c, total);
    }
    const Tiles tiles = splitting.tiles(lane_, scratch_.diagonal);
    write_square<1>(tiles, record_ + (Keys ? C::record.aqk() : C::record.aqa()));
    if constexpr (Keys) write_square<0>(tiles, record_ + C::record.abk());
    else write_inverse(tiles);
  }

 private:
  __device__ __forceinline__ bool valid(int s) const { return 8 * s + lane_.r < left_; }

  __device__ __forceinline__ int x_stride() const { return Keys ? key_stride_ : value_stride_; }

  /// Four channels of the lane's token of slot s, which must be there, as they lie in memory.
  template <class E> __device__ __forceinline__ ptx::Four<E> four(const E* base, int stride, int step, int s) const {
    const E* row = base + (8 * s + lane_.r) * stride + 16 * step + 4 * lane_.c;
    if constexpr (sizeof(E) == 4) return ptx::load_row16(row);
    else return ptx::load_row8(row);
  }
  /// What a step reads, on its way while the step before is worked on; zeros past the end.
  struct Rows {
    uint2 q[4], b[4], x[4];
    ptx::Four<G> gate[per_channel ? 4 : 1];
    __device__ __forceinline__ void fetch(const DplrPreparation& from, int step) {
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        q[s] = b[s] = x[s] = {};
        if constexpr (per_channel) gate[s] = {};
        if (!from.valid(s)) continue;
        q[s] = from.four(from.q_, from.key_stride_, step, s), b[s] = from.four(from.b_, from.value_stride_, step, s);
        x[s] = from.four(from.x_, from.x_stride(), step, s);
        if constexpr (per_channel) gate[s] = from.four(from.gate_, from.value_stride_, step, s);
      }
    }
  };
  __device__ __forceinline__ static void operand(Quad& out, const uint2& raw, float factor) {
    float x[4];
    ptx::unpack<T>(x, raw);
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] *= factor;
    out = pack_quad<Operand>(x);
  }

  /// 1 / norms of q and k, and q.x of each token (the diagonal of Aqk or Aqa), in fp32.
  __device__ __forceinline__ void token_factors() {
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      float qq = 0, xx = 0, qx = 0;
#pragma unroll
      for (int step = 0; step < K / 16; ++step) {
        float q[4], x[4];
        ptx::unpack<T>(q, valid(s) ? four(q_, key_stride_, step, s) : uint2{});
        ptx::unpack<T>(x, valid(s) ? four(x_, x_stride(), step, s) : uint2{});
#pragma unroll
        for (int i = 0; i < 4; ++i) qq = fmaf(q[i], q[i], qq), xx = fmaf(x[i], x[i], xx), qx = fmaf(q[i], x[i], qx);
      }
#pragma unroll
      for (int m = 1; m < 4; m *= 2) {
        qq += __shfl_xor_sync(~0u, qq, m), xx += __shfl_xor_sync(~0u, xx, m), qx += __shfl_xor_sync(~0u, qx, m);
      }
      constexpr float epsilon = static_cast<float>(l2_norm_epsilon);
      q_factor_[s] = args_.normalize ? rsqrtf(qq + epsilon) : 1.f;
      x_factor_[s] = Keys && args_.normalize ? rsqrtf(xx + epsilon) : 1.f;
      if (lane_.c == 0) scratch_.diagonal[8 * s + lane_.r] = qx * q_factor_[s] * x_factor_[s];
    }
    __syncwarp();
  }

  /// 16 channels of the rows' section (qd or bd) and the column's (kg or ag).
  __device__ __forceinline__ void write_rows(int step, const Quad (&row)[4], const float (&row_factor)[4][4], const Quad (&x)[4],
                                             const float (&suffix)[4][4]) const {
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      std::byte* at = record_ + Record::row_element(8 * s + lane_.r, 16 * step + 4 * lane_.c);
      const Quad r = DplrSplitting<Operand>::scaled(row[s], row_factor[s]), c = DplrSplitting<Operand>::scaled(x[s], suffix[s]);
      *reinterpret_cast<uint2*>(at + (Keys ? C::record.qd() : C::record.bd())) = make_uint2(r.word[0], r.word[1]);
      *reinterpret_cast<uint2*>(at + (Keys ? C::record.kg() : C::record.ag())) = make_uint2(c.word[0], c.word[1]);
    }
  }

  /// Rows b (Which = 0) or q (1) of the tiles.
  template <int Which> __device__ __forceinline__ void write_square(const Tiles& tiles, std::byte* section) const {
    auto* out = reinterpret_cast<Word*>(section) + lane_.index;
#pragma unroll
    for (int s = 0; s < 4; ++s)
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        const float* x = tiles.tile[Tiles::at(s, t <= s ? t : 0)] + 2 * Which;
        out[(s * 4 + t) * 32] = t > s ? 0u : ptx::pack<Operand>(x[0], x[1]);
      }
  }

  /// T = -(I + Aba)^-1 by forward substitution in fp32, a lane per column. Its entries have no bound, so no block is rounded on the way.
  __device__ __forceinline__ void write_inverse(const Tiles& tiles) {
#pragma unroll
    for (int s = 0; s < 4; ++s)
#pragma unroll
      for (int t = 0; t <= s; ++t) {
        const float* m = tiles.tile[Tiles::at(s, t)];
        *reinterpret_cast<float2*>(&scratch_.matrix[8 * s + lane_.r][8 * t + 2 * lane_.c]) = make_float2(m[0], m[1]);
      }
    __syncwarp();
    const int j = lane_.index;
    float x[chunk_tokens];
#pragma unroll
    for (int i = 0; i < chunk_tokens; ++i) {
      float sum[4] = {i == j ? 1.f : 0.f, 0.f, 0.f, 0.f};
#pragma unroll
      for (int m = 0; m < i; m += 4) {
        const float4 row = *reinterpret_cast<const float4*>(&scratch_.matrix[i][m]);
        sum[0] -= row.x * x[m];
        if (m + 1 < i) sum[1] -= row.y * x[m + 1];
        if (m + 2 < i) sum[2] -= row.z * x[m + 2];
        if (m + 3 < i) sum[3] -= row.w * x[m + 3];
      }
      x[i] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < chunk_tokens; i += 2) {
      const Word pair = ptx::pack<Operand>(-x[i], -x[i + 1]);
      *reinterpret_cast<unsigned short*>(scratch_.image + Record::square_element(i, j)) = static_cast<unsigned short>(pair);
      *reinterpret_cast<unsigned short*>(scratch_.image + Record::square_element(i + 1, j)) = static_cast<unsigned short>(pair >> 16);
    }
    __syncwarp();
    auto* out = reinterpret_cast<uint4*>(record_ + C::record.t());
#pragma unroll
    for (int i = 0; i < Record::square_bytes / 16; i += 32) out[i + j] = reinterpret_cast<const uint4*>(scratch_.image)[i + j];
  }

  const DplrPrepareArguments<T, G>& args_;
  DplrScratch& scratch_;
  std::byte* record_;
  int left_, head_, key_stride_, value_stride_;
  const T *q_, *x_, *b_;
  const G* gate_;
  Lane lane_;
  float q_factor_[4], x_factor_[4];
};

struct DplrPreparePolicy {
  static constexpr int warps = 4, blocks = 2;
};

/// Warps 2w and 2w + 1 of the grid prepare (slot w / HV, head w % HV).
template <class C, class P>
__global__ void __launch_bounds__(P::warps * 32, P::blocks)
    dplr_prepare_kernel(const __grid_constant__ DplrPrepareArguments<typename C::T, typename C::G> args) {
  __shared__ DplrScratch scratch[P::warps];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const Index work = (static_cast<Index>(blockIdx.x) * P::warps + warp) / 2;
  if (work >= args.order.positions()) return;
  const int position = args.order.position(work / args.value_heads, static_cast<int>(work % args.value_heads));
  const TimeOrder::Piece piece = args.order.piece(position);
  if (piece.tokens(position) == 0) return;
  if (warp % 2 == 0) DplrPreparation<C, false>(args, piece, position, scratch[warp]).run();
  else DplrPreparation<C, true>(args, piece, position, scratch[warp]).run();
}

}  // namespace braid::cuda
