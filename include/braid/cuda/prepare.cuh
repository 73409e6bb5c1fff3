// Preparation: one warp turns 32 tokens of one value head into the record the recurrence consumes (record.hpp). Fused in it: L2 norm
// of q and k, gate, sigmoid of beta, decay products, M, Z, the triangular inverse. No block barrier; serves sm_80 and up.
#pragma once

#include <braid/core/linear_attention.hpp>
#include <braid/cuda/gate.cuh>
#include <braid/cuda/intra_chunk.cuh>
#include <braid/cuda/ptx/barrier.cuh>
#include <braid/cuda/ptx/memory.cuh>
#include <braid/cuda/triangular_inverse.cuh>

#include <cstddef>

namespace braid::cuda {

/// Device pointers of the preparation. T is the type of q and k, G that of gate and beta.
template <class T, class G> struct PrepareArguments {
  const T* q = nullptr;     ///< [T, H, K]
  const T* k = nullptr;     ///< [T, H, K]
  const G* gate = nullptr;  ///< per channel [T, HV, K]; per head [T, HV]; none: null
  const G* beta = nullptr;  ///< [T, HV]; null for updates that use none
  const float* A_log = nullptr;    ///< [HV]; null for LogDecay
  const float* dt_bias = nullptr;  ///< per channel [HV, K]; per head [HV]; null for LogDecay
  const Index* offsets = nullptr;  ///< [N + 1], device memory; null: one sequence of `tokens`
  Index tokens = 0;
  int sequences = 1, heads = 0, value_heads = 0;
  bool normalize = false, beta_logit = false;
  std::byte* records = nullptr;  ///< [slots, HV]
};

/// One row of the algebra's table with everything a kernel must know when it is compiled.
template <class T_, class G_, class Gate_, class Update_, int KeyDim, class Operand_ = __half> struct Cell {
  using T = T_;
  using G = G_;
  using Gate = Gate_;
  using Update = Update_;
  using Operand = Operand_;
  static constexpr int key_dim = KeyDim;
  static constexpr Strength strength = strength_of<Update_>();
  static constexpr Record record{KeyDim, strength_of<Update_>()};
  static constexpr bool unit_write = std::is_same_v<Update_, Additive>;
};

/// The tokens of a slot: `tokens` = 0 if the slot is unused.
struct ChunkRange {
  Index first;
  int tokens;
};
BRAID_FN ChunkRange find_chunk(const Index* offsets, Index tokens, int sequences, Index slot) {
  Index begin = 0, end = tokens, first = 0;
  if (offsets != nullptr) {
    int low = 0, high = sequences;  // the last sequence whose first slot is not above `slot`
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (first_slot(offsets[middle], middle) <= slot) low = middle;
      else high = middle;
    }
    begin = offsets[low];
    end = offsets[low + 1];
    first = first_slot(begin, low);
  }
  begin += (slot - first) * chunk_tokens;
  const Index left = end - begin;
  return {begin, left <= 0 ? 0 : left < chunk_tokens ? static_cast<int>(left) : chunk_tokens};
}

/// Body of the preparation for one warp.
template <class C> class Preparation {
  using T = typename C::T;
  using G = typename C::G;
  using Operand = typename C::Operand;
  using Word = ptx::Word;
  static constexpr int K = C::key_dim, steps = K / 16;
  static constexpr bool per_channel = C::Gate::decay == Decay::per_channel;

 public:
  using Scratch = InverseScratch;

  __device__ __forceinline__ Preparation(const PrepareArguments<T, G>& args, ChunkRange chunk, int head, std::byte* record,
                                         Scratch& scratch)
      : args_(args), scratch_(scratch), record_(record), left_(chunk.tokens), head_(head),
        key_stride_(args.heads * K), gate_stride_(args.value_heads * K) {
    const Index key_row = chunk.first * args.heads + head / (args.value_heads / args.heads);
    const Index value_row = chunk.first * args.value_heads + head;
    q_ = args.q + key_row * K;
    k_ = args.k + key_row * K;
    gate_ = args.gate + (per_channel ? value_row * K : value_row);
    beta_ = args.beta + value_row;
  }

  __device__ __forceinline__ void run() {
    token_factors();
    const Tiles tiles = [&] {
      if constexpr (per_channel) return split_channels();
      else return scale_products();
    }();
    write_z(tiles);
    if constexpr (C::record.erases()) write_inverse<Operand>(lane_, tiles, scratch_, record_ + C::record.t());
  }

 private:
  __device__ __forceinline__ bool valid(int s) const { return 8 * s + lane_.r < left_; }
  __device__ __forceinline__ float token_beta(int s) const {
    if constexpr (C::Update::uses_beta) {
      const float x = ptx::to_float(beta_[(8 * s + lane_.r) * args_.value_heads]);
      return args_.beta_logit ? ptx::reciprocal(1.f + ptx::exp2(-ptx::log2_e * x)) : x;
    } else {
      return 0.f;
    }
  }

  /// Norms and q.k of each token from the diagonals of q q^T, q k^T and k k^T (exact products of 16-bit inputs), and its strengths.
  __device__ __forceinline__ void token_factors() {
    float qq[4][4] = {}, kx[4][4] = {};
#pragma unroll 1
    for (int step = 0; step < K / 32; ++step) {
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        uint4 q = {0, 0, 0, 0}, k = {0, 0, 0, 0};
        const int at = (8 * s + lane_.r) * key_stride_ + 32 * step + 8 * lane_.c;
        if (valid(s)) {
          q = ptx::load_row16(q_ + at);
          k = ptx::load_row16(k_ + at);
        }
        ptx::mma<T>(qq[s], q.x, 0, q.y, 0, q.x, q.y);
        ptx::mma<T>(qq[s], q.z, 0, q.w, 0, q.z, q.w);
        ptx::mma<T>(kx[s], q.x, k.x, q.y, k.y, k.x, k.y);
        ptx::mma<T>(kx[s], q.z, k.z, q.w, k.w, k.z, k.w);
      }
    }
    const int diagonal = 4 * lane_.r + lane_.r / 2;  // the lane that holds column r of row r
    const bool odd = lane_.r & 1;
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      auto pick = [&](float even_value, float odd_value) {
        const float x = __shfl_sync(0xFFFFFFFFu, even_value, diagonal), y = __shfl_sync(0xFFFFFFFFu, odd_value, diagonal);
        return odd ? y : x;
      };
      const float q2 = pick(qq[s][0], qq[s][1]), qk = pick(kx[s][0], kx[s][1]), k2 = pick(kx[s][2], kx[s][3]);
      constexpr float epsilon = static_cast<float>(l2_norm_epsilon);
      q_factor_[s] = args_.normalize ? rsqrtf(q2 + epsilon) : 1.f;
      k_factor_[s] = args_.normalize ? rsqrtf(k2 + epsilon) : 1.f;
      const float beta = valid(s) ? token_beta(s) : 0.f, norm2 = k2 * k_factor_[s] * k_factor_[s];
      if (lane_.c == 0) {
        const int token = 8 * s + lane_.r;
        const float write = valid(s) ? C::Update::template write<float>(beta, norm2) : 0.f;
        scratch_.qk[token] = qk * q_factor_[s] * k_factor_[s];
        scratch_.erase[token] = valid(s) ? C::Update::template erase<float>(beta, norm2) : 0.f;
        scratch_.column[token] = C::strength == Strength::two ? 1.f : write;
        if constexpr (C::strength == Strength::two) reinterpret_cast<float*>(record_ + C::record.w())[token] = write;
      }
    }
    __syncwarp();
  }

  /// Four channels of one array for each slot, as loaded.
  template <class E> struct Raw {
    std::conditional_t<sizeof(E) == 4, uint4, uint2> slot[4];
  };
  template <class E> __device__ __forceinline__ void load(Raw<E>& raw, const E* base, int stride, int step) const {
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      const E* row = base + (8 * s + lane_.r) * stride + 16 * step + 4 * lane_.c;
      raw.slot[s] = {};
      if (valid(s)) {
        if constexpr (sizeof(E) == 4) raw.slot[s] = ptx::load_row16(row);
        else raw.slot[s] = ptx::load_row8(row);
      }
    }
  }
  template <class E> __device__ __forceinline__ static void unpack(float (&x)[4], const Raw<E>& raw, int s) {
    if constexpr (sizeof(E) == 4) {
      x[0] = __uint_as_float(raw.slot[s].x), x[1] = __uint_as_float(raw.slot[s].y);
      x[2] = __uint_as_float(raw.slot[s].z), x[3] = __uint_as_float(raw.slot[s].w);
    } else {
      x[0] = ptx::low<E>(raw.slot[s].x), x[1] = ptx::high<E>(raw.slot[s].x);
      x[2] = ptx::low<E>(raw.slot[s].y), x[3] = ptx::high<E>(raw.slot[s].y);
    }
  }
  __device__ __forceinline__ void scaled_operand(Quad& out, const Raw<T>& raw, int s, float factor) const {
    float x[4];
    unpack<T>(x, raw, s);
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] *= factor;
    out = pack_quad<Operand>(x);
  }

  __device__ __forceinline__ Tiles split_channels() {
    BinarySplitting<Operand> splitting;
    const float rate = gate_is_given<typename C::Gate> ? 0.f : __expf(args_.A_log[head_]);
    Raw<T> q_raw, k_raw;
    Raw<G> gate_raw;
    load(q_raw, q_, key_stride_, 0);
    load(k_raw, k_, key_stride_, 0);
    load(gate_raw, gate_, gate_stride_, 0);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      float bias[4] = {};
      if constexpr (!gate_is_given<typename C::Gate>) {
        const float4 b = __ldg(reinterpret_cast<const float4*>(args_.dt_bias + head_ * K + 16 * step + 4 * lane_.c));
        bias[0] = b.x, bias[1] = b.y, bias[2] = b.z, bias[3] = b.w;
      }
      Quad q[4], k[4];
      float prefix[4][4], suffix[4][4], total[4];
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        scaled_operand(q[s], q_raw, s, q_factor_[s]);
        scaled_operand(k[s], k_raw, s, k_factor_[s]);
        unpack<G>(prefix[s], gate_raw, s);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const DecayFactor<typename C::Gate> alpha(rate, bias[i]);
          prefix[s][i] = alpha(prefix[s][i]);
        }
      }
      if (left_ < chunk_tokens) {
#pragma unroll
        for (int s = 0; s < 4; ++s)
#pragma unroll
          for (int i = 0; i < 4; ++i) prefix[s][i] = valid(s) ? prefix[s][i] : 1.f;
      }
      if (step + 1 < steps) {
        load(q_raw, q_, key_stride_, step + 1);
        load(k_raw, k_, key_stride_, step + 1);
        load(gate_raw, gate_, gate_stride_, step + 1);
      }
      splitting.step(lane_, k, q, prefix, suffix, total);
      write_rows(step, q, k, prefix, suffix, total);
    }
    return splitting.tiles(lane_, scratch_.qk);
  }

  /// One decay per head or none: M and Z are plain products times a scalar for each pair of tokens.
  __device__ __forceinline__ Tiles scale_products() {
    float prefix[4], suffix[4], total = 1.f;  // of tokens 8s + r
    if constexpr (C::Gate::decay == Decay::per_head) {
      const float rate = gate_is_given<typename C::Gate> ? 0.f : __expf(args_.A_log[head_]);
      const DecayFactor<typename C::Gate> factor(rate, gate_is_given<typename C::Gate> ? 0.f : args_.dt_bias[head_]);
      const int token = lane_.index;
      const float mine = token < left_ ? factor(ptx::to_float(gate_[token * args_.value_heads])) : 1.f;
      float before = mine, after = 1.f;  // scans over the warp: inclusive prefix, exclusive suffix
      const float next = __shfl_down_sync(0xFFFFFFFFu, mine, 1);
      after = token < 31 ? next : 1.f;
#pragma unroll
      for (int d = 1; d < 32; d *= 2) {
        const float b = __shfl_up_sync(0xFFFFFFFFu, before, d), a = __shfl_down_sync(0xFFFFFFFFu, after, d);
        if (token >= d) before *= b;
        if (token + d < 32) after *= a;
      }
      float product = 1.f;  // column `token` of the table prod_{j<t<=i} alpha_t
#pragma unroll
      for (int i = 0; i < chunk_tokens; ++i) {
        const float a = __shfl_sync(0xFFFFFFFFu, mine, i);
        product = i > token ? product * a : 1.f;
        scratch_.matrix[i][token] = product;
      }
      __syncwarp();
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        prefix[s] = __shfl_sync(0xFFFFFFFFu, before, 8 * s + lane_.r);
        suffix[s] = __shfl_sync(0xFFFFFFFFu, after, 8 * s + lane_.r);
      }
      total = __shfl_sync(0xFFFFFFFFu, before, 31);
    } else {
#pragma unroll
      for (int s = 0; s < 4; ++s) prefix[s] = suffix[s] = 1.f;
    }

    Tiles out = {};
    Raw<T> q_raw, k_raw;
    load(q_raw, q_, key_stride_, 0);
    load(k_raw, k_, key_stride_, 0);
#pragma unroll 1
    for (int step = 0; step < steps; ++step) {
      Quad q[4], k[4];
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        scaled_operand(q[s], q_raw, s, q_factor_[s]);
        scaled_operand(k[s], k_raw, s, k_factor_[s]);
      }
      if (step + 1 < steps) {
        load(q_raw, q_, key_stride_, step + 1);
        load(k_raw, k_, key_stride_, step + 1);
      }
#pragma unroll
      for (int s = 0; s < 4; ++s)
#pragma unroll
        for (int t = 0; t <= s; ++t) multiply_tile<Operand>(out.tile[Tiles::at(s, t)], k[s], q[s], k[t]);
      float before[4][4], after[4][4], all[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        all[i] = total;
#pragma unroll
        for (int s = 0; s < 4; ++s) before[s][i] = prefix[s], after[s][i] = suffix[s];
      }
      write_rows(step, q, k, before, after, all);
    }
#pragma unroll
    for (int s = 0; s < 4; ++s)
#pragma unroll
      for (int t = 0; t <= s; ++t) {
        float2 decay = {1.f, 1.f};
        if constexpr (C::Gate::decay == Decay::per_head)
          decay = *reinterpret_cast<const float2*>(&scratch_.matrix[8 * s + lane_.r][8 * t + 2 * lane_.c]);
#pragma unroll
        for (int d = 0; d < 4; ++d) {
          float& x = out.tile[Tiles::at(s, t)][d];
          const int column = 2 * lane_.c + (d & 1);
          const bool keep = s > t || lane_.r > column, diagonal = d >= 2 && s == t && lane_.r == column;
          x = keep ? x * (d & 1 ? decay.y : decay.x) : diagonal ? scratch_.qk[8 * s + lane_.r] : 0.f;
        }
      }
    __syncwarp();
    return out;
  }

  /// kd, qd, kg and a of 16 channels.
  __device__ __forceinline__ void write_rows(int step, const Quad (&q)[4], const Quad (&k)[4], const float (&prefix)[4][4],
                                             const float (&suffix)[4][4], const float (&total)[4]) const {
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      std::byte* at = record_ + Record::row_element(8 * s + lane_.r, 16 * step + 4 * lane_.c);
      const Quad before = pack_quad<Operand>(prefix[s]);
      store(at + C::record.qd(), multiply_quad<Operand>(q[s], before));
      if constexpr (C::strength == Strength::none && !C::unit_write) {
        const float write = scratch_.column[8 * s + lane_.r];
        const float after[4] = {suffix[s][0] * write, suffix[s][1] * write, suffix[s][2] * write, suffix[s][3] * write};
        store(at + C::record.kg(), multiply_quad<Operand>(k[s], pack_quad<Operand>(after)));
      } else {
        store(at + C::record.kg(), multiply_quad<Operand>(k[s], pack_quad<Operand>(suffix[s])));
      }
      if constexpr (C::strength == Strength::one) {
        store(at + C::record.kd(), multiply_quad<Operand>(k[s], before));
      } else if constexpr (C::strength == Strength::two) {
        const float erase = scratch_.erase[8 * s + lane_.r];
        const float erased[4] = {prefix[s][0] * erase, prefix[s][1] * erase, prefix[s][2] * erase, prefix[s][3] * erase};
        store(at + C::record.kd(), multiply_quad<Operand>(k[s], pack_quad<Operand>(erased)));
      }
    }
    if (lane_.r == 0)
      *reinterpret_cast<float4*>(record_ + C::record.a() + (16 * step + 4 * lane_.c) * 4) = make_float4(total[0], total[1], total[2], total[3]);
  }
  __device__ __forceinline__ static void store(std::byte* at, const Quad& x) {
    *reinterpret_cast<uint2*>(at) = make_uint2(x.word[0], x.word[1]);
  }

  __device__ __forceinline__ void write_z(const Tiles& tiles) const {
    auto* out = reinterpret_cast<Word*>(record_ + C::record.z()) + lane_.index;
#pragma unroll
    for (int s = 0; s < 4; ++s)
#pragma unroll
      for (int t = 0; t < 4; ++t) {
        if (t > s) {
          out[(s * 4 + t) * 32] = 0;
          continue;
        }
        float2 column = {1.f, 1.f};
        if constexpr (C::strength == Strength::none && !C::unit_write)
          column = *reinterpret_cast<const float2*>(&scratch_.column[8 * t + 2 * lane_.c]);
        const float* z = tiles.tile[Tiles::at(s, t)];
        out[(s * 4 + t) * 32] = ptx::pack<Operand>(z[2] * column.x, z[3] * column.y);
      }
  }

  const PrepareArguments<T, G>& args_;
  Scratch& scratch_;
  std::byte* record_;
  int left_, head_, key_stride_, gate_stride_;
  const T *q_, *k_;
  const G *gate_, *beta_;
  Lane lane_;
  float q_factor_[4], k_factor_[4];  ///< 1 / norm of tokens 8s + r
};

/// Warps per block of the preparation kernel and blocks per multiprocessor that fit (168 registers).
struct PreparePolicy {
  static constexpr int warps = 4, blocks = 3;
};

/// Warp w of the grid prepares (slot w / HV, head w % HV).
template <class C, class P>
__global__ void __launch_bounds__(P::warps * 32, P::blocks) prepare_kernel(const __grid_constant__ PrepareArguments<typename C::T, typename C::G> args) {
  __shared__ typename Preparation<C>::Scratch scratch[P::warps];
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
  ptx::launch_dependents();
#endif
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const Index work = static_cast<Index>(blockIdx.x) * P::warps + warp, slot = work / args.value_heads;
  if (slot >= slots(args.tokens, args.sequences)) return;
  const ChunkRange chunk = find_chunk(args.offsets, args.tokens, args.sequences, slot);
  if (chunk.tokens == 0) return;
  Preparation<C>(args, chunk, static_cast<int>(work % args.value_heads), args.records + work * C::record.bytes(), scratch[warp]).run();
}

}  // namespace braid::cuda
