// The decoding kernel: one to eight tokens of a (sequence, value head) against its fp32 state, read and written once, in place.
//
// A block holds `columns` value columns of one state in registers, its warps sharing the keys: warp w has keys [w K/W, (w+1) K/W),
// a lane four columns and every keys-phase-th group of four keys. Per token, with e = alpha * k (or b, for Dplr) and S the old state:
//
//   y = S^T e      R = write v - erase y      o = scale (S^T (alpha * q) + (q.k) R)      S <- alpha * S + k R^T      Eq. (1)
//   Dplr:          o = scale (S^T (alpha * q) + (q.k) v - (q.a) y)                        S <- alpha * S - a y^T + k v^T
//
// so both products read the state before the token, and one exchange between the warps serves them.
#pragma once

#include <braid/core/gate.hpp>
#include <braid/core/types.hpp>
#include <braid/core/update.hpp>
#include <braid/cuda/convert.cuh>

namespace braid::cuda {

/// Floats that one token of one (sequence, value head) takes in a journal: alpha, k, R (and a, y for Dplr).
template <class Update> BRAID_FN constexpr int journal_floats(int key_dim, int value_dim) {
  return update_is_dplr<Update> ? 3 * key_dim + 2 * value_dim : 2 * key_dim + value_dim;
}

namespace detail {

/// How a state is spread over a block.
struct DecodePolicy {
  int columns = 32;  ///< value columns of a block: 32, 64 or 128
  int warps = 4;     ///< they share the keys
  bool operator==(const DecodePolicy&) const = default;
};

/// Device pointers and sizes, as DecodeInputs and DecodeOutputs of decode.cuh have them.
template <class T, class G> struct DecodeParams {
  const T *q, *k, *v;
  const G *gate, *beta;
  const T *a, *b;
  const float *A_log, *dt_bias;
  T* o;
  float* states;
  const int* slots;
  const float* replay;
  const int* accepted;
  float* journal;
  int sequences, tokens, heads, value_heads, slot_count;
  float scale;
  bool normalize, beta_logit;
};

/// What the lanes of a warp know about one token before the state is touched.
template <class Update> struct TokenScalars {
  float erase, write, qk, qa;
};

template <class Gate, class Update, class T, class G, int K, int V, DecodePolicy P> struct Decode {
  static constexpr int column_groups = P.columns / 4, phases = 32 / column_groups;
  static constexpr int warp_keys = K / P.warps, groups = warp_keys / (4 * phases);
  static constexpr bool dplr = update_is_dplr<Update>, decays = Gate::decay != Decay::none;
  static constexpr bool reads = [] { if constexpr (dplr) return true; else return Update::erases; }();
  static constexpr int vectors = dplr ? 5 : 4;  // alpha, alpha q, k, e, a
  static constexpr int threads = 32 * P.warps;
  static constexpr int lane_keys = K / 32;      // channels of a lane where a warp reads whole rows
  static_assert(groups >= 1 && groups * 4 * phases * P.warps == K && V % P.columns == 0);

  struct Storage {
    float vector[P.warps][vectors][warp_keys];
    float sums[2][P.warps][2][P.columns];
  };

  const DecodeParams<T, G>& p;
  Storage& shared;
  int sequence, head, column, warp, lane, group, phase;
  float4 s[groups][4];

  __device__ Decode(const DecodeParams<T, G>& params, Storage& storage)
      : p(params), shared(storage), sequence(blockIdx.y), head(blockIdx.x / (V / P.columns)),
        column(blockIdx.x % (V / P.columns) * P.columns), warp(threadIdx.x / 32), lane(threadIdx.x % 32),
        group(lane % column_groups), phase(lane / column_groups) {}

  __device__ __forceinline__ int key(int j, int i) const { return warp * warp_keys + 4 * (phases * j + phase) + i; }
  __device__ __forceinline__ float4* state(int slot, int k) const {
    return reinterpret_cast<float4*>(p.states + ((static_cast<Index>(slot) * p.value_heads + head) * K + k) * V + column) + group;
  }

  __device__ __forceinline__ void load(int slot) {
#pragma unroll
    for (int j = 0; j < groups; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) s[j][i] = __ldcs(state(slot, key(j, i)));
  }
  __device__ __forceinline__ void store(int slot) const {
#pragma unroll
    for (int j = 0; j < groups; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) __stcs(state(slot, key(j, i)), s[j][i]);
  }

  /// S <- alpha * S - a y^T + k R^T for one group of four keys, in the same operations wherever it is called from.
  __device__ __forceinline__ void advance(int j, float4 alpha, float4 k, float4 r, float4 a, float4 y) {
    const float al[4] = {alpha.x, alpha.y, alpha.z, alpha.w}, kk[4] = {k.x, k.y, k.z, k.w}, aa[4] = {a.x, a.y, a.z, a.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      float4& x = s[j][i];
      if constexpr (decays) x = {al[i] * x.x, al[i] * x.y, al[i] * x.z, al[i] * x.w};
      if constexpr (dplr) x = {fmaf(-aa[i], y.x, x.x), fmaf(-aa[i], y.y, x.y), fmaf(-aa[i], y.z, x.z), fmaf(-aa[i], y.w, x.w)};
      x = {fmaf(kk[i], r.x, x.x), fmaf(kk[i], r.y, x.y), fmaf(kk[i], r.z, x.z), fmaf(kk[i], r.w, x.w)};
    }
  }

  /// Gate, norms and strengths of token t; the warp's share of the vectors goes to shared memory.
  __device__ __forceinline__ TokenScalars<Update> prepare(int t) {
    const Index token = static_cast<Index>(sequence) * p.tokens + t;
    const Index row = token * p.value_heads + head;
    const T* q_row = p.q + (token * p.heads + head / (p.value_heads / p.heads)) * K;
    const T* k_row = p.k + (q_row - p.q);
    float qq = 0, kk = 0, qk = 0, qa = 0;
    for (int c = 0; c < lane_keys; ++c) {
      const int channel = lane * lane_keys + c;
      const float x = to_float(q_row[channel]), y = to_float(k_row[channel]);
      qq = fmaf(x, x, qq), kk = fmaf(y, y, kk), qk = fmaf(x, y, qk);
      if constexpr (dplr) qa = fmaf(x, to_float(p.a[row * K + channel]), qa);
    }
#pragma unroll
    for (int m = 16; m > 0; m /= 2) {
      qq += __shfl_xor_sync(~0u, qq, m), kk += __shfl_xor_sync(~0u, kk, m), qk += __shfl_xor_sync(~0u, qk, m);
      if constexpr (dplr) qa += __shfl_xor_sync(~0u, qa, m);
    }
    const float rq = p.normalize ? rsqrtf(qq + 1e-6f) : 1.f, rk = p.normalize ? rsqrtf(kk + 1e-6f) : 1.f;
    TokenScalars<Update> out{0, 1, qk * rq * rk, qa * rq};
    if constexpr (!dplr) {
      float beta = Update::uses_beta ? to_float(p.beta[row]) : 0.f;
      if (p.beta_logit) beta = math::sigmoid(beta);
      const float norm2 = kk * rk * rk;
      out.erase = Update::template erase<float>(beta, norm2), out.write = Update::template write<float>(beta, norm2);
    }
    if (warp_keys % 32 == 0 || lane < warp_keys) {
#pragma unroll
      for (int c = lane; c < warp_keys; c += 32) {
        const int channel = warp * warp_keys + c;
        const float alpha = decay(row, channel), k = to_float(k_row[channel]) * rk;
        auto& vector = shared.vector[warp];
        vector[0][c] = alpha, vector[1][c] = to_float(q_row[channel]) * rq * alpha, vector[2][c] = k;
        if constexpr (dplr) vector[3][c] = to_float(p.b[row * K + channel]), vector[4][c] = to_float(p.a[row * K + channel]);
        else vector[3][c] = k * alpha;
      }
    }
    __syncwarp();
    return out;
  }

  __device__ __forceinline__ float decay(Index row, int channel) const {
    if constexpr (!decays) return 1.f;
    else {
      constexpr bool each = Gate::decay == Decay::per_channel;
      const float x = to_float(p.gate[each ? row * K + channel : row]);
      float rate = 0, bias = 0;
      if constexpr (!gate_is_given<Gate>) rate = expf(p.A_log[head]), bias = p.dt_bias[each ? head * K + channel : head];
      return expf(Gate::template log_decay<float>(x, rate, bias));
    }
  }

  __device__ __forceinline__ float4 vector(int which, int j) const {
    return *reinterpret_cast<const float4*>(&shared.vector[warp][which][4 * (phases * j + phase)]);
  }

  /// Sums over all keys of the two products with the state, for the lane's four columns.
  __device__ __forceinline__ void products(int buffer, float4& y, float4& o) {
    y = o = {0, 0, 0, 0};
#pragma unroll
    for (int j = 0; j < groups; ++j) {
      const float4 q4 = vector(1, j), e4 = vector(3, j);
      const float q[4] = {q4.x, q4.y, q4.z, q4.w}, e[4] = {e4.x, e4.y, e4.z, e4.w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float4& x = s[j][i];
        o = {fmaf(q[i], x.x, o.x), fmaf(q[i], x.y, o.y), fmaf(q[i], x.z, o.z), fmaf(q[i], x.w, o.w)};
        if constexpr (reads) y = {fmaf(e[i], x.x, y.x), fmaf(e[i], x.y, y.y), fmaf(e[i], x.z, y.z), fmaf(e[i], x.w, y.w)};
      }
    }
#pragma unroll
    for (int m = column_groups; m < 32; m *= 2) {
      add_lane(o, m);
      if constexpr (reads) add_lane(y, m);
    }
    auto& sums = shared.sums[buffer];
    if (phase == 0) {
      *reinterpret_cast<float4*>(&sums[warp][0][4 * group]) = o;
      if constexpr (reads) *reinterpret_cast<float4*>(&sums[warp][1][4 * group]) = y;
    }
    __syncthreads();
    if (warp == 0) o = total(buffer, 0);
    if constexpr (reads) y = total(buffer, 1);
  }
  __device__ __forceinline__ static void add_lane(float4& x, int mask) {
    x.x += __shfl_xor_sync(~0u, x.x, mask), x.y += __shfl_xor_sync(~0u, x.y, mask);
    x.z += __shfl_xor_sync(~0u, x.z, mask), x.w += __shfl_xor_sync(~0u, x.w, mask);
  }
  __device__ __forceinline__ float4 total(int buffer, int which) const {
    float4 x = {0, 0, 0, 0};
#pragma unroll
    for (int w = 0; w < P.warps; ++w) {
      const float4 part = *reinterpret_cast<const float4*>(&shared.sums[buffer][w][which][4 * group]);
      x = {x.x + part.x, x.y + part.y, x.z + part.z, x.w + part.w};
    }
    return x;
  }

  __device__ __forceinline__ float* journal_entry(float* base, int t) const {
    return base + ((static_cast<Index>(sequence) * p.value_heads + head) * p.tokens + t) * journal_floats<Update>(K, V);
  }

  /// Brings the state up to the tokens of an earlier call that were kept.
  __device__ __forceinline__ void replay(int count) {
    for (int t = 0; t < count; ++t) {
      const float* entry = journal_entry(const_cast<float*>(p.replay), t);
      const float4 r = *reinterpret_cast<const float4*>(entry + 2 * K + column + 4 * group);
      float4 a{}, y{};
      if constexpr (dplr) y = *reinterpret_cast<const float4*>(entry + 3 * K + V + column + 4 * group);
#pragma unroll
      for (int j = 0; j < groups; ++j) {
        const float* at = entry + key(j, 0);
        if constexpr (dplr) a = *reinterpret_cast<const float4*>(at + 2 * K + V);
        advance(j, *reinterpret_cast<const float4*>(at), *reinterpret_cast<const float4*>(at + K), r, a, y);
      }
    }
  }
  __device__ __forceinline__ void record(int t, float4 r, float4 y) const {
    float* entry = journal_entry(p.journal, t);
    if (column == 0)
      for (int c = lane; c < warp_keys; c += 32) {
        float* at = entry + warp * warp_keys + c;
        at[0] = shared.vector[warp][0][c], at[K] = shared.vector[warp][2][c];
        if constexpr (dplr) at[2 * K + V] = shared.vector[warp][4][c];
      }
    if (warp == 0 && phase == 0) {
      *reinterpret_cast<float4*>(entry + 2 * K + column + 4 * group) = r;
      if constexpr (dplr) *reinterpret_cast<float4*>(entry + 3 * K + V + column + 4 * group) = y;
    }
  }

  __device__ __forceinline__ void step(int t) {
    const TokenScalars<Update> scalars = prepare(t);
    const Index at = ((static_cast<Index>(sequence) * p.tokens + t) * p.value_heads + head) * V + column + 4 * group;
    const float4 v = to_float4(load4(p.v + at));
    float4 y, o, r;
    products(t & 1, y, o);
    if constexpr (dplr) r = v;
    else {
      const float w = scalars.write, e = reads ? scalars.erase : 0.f;
      r = {w * v.x - e * y.x, w * v.y - e * y.y, w * v.z - e * y.z, w * v.w - e * y.w};
    }
    if (warp == 0 && phase == 0) {
      auto out = [&](float o, float r, float y) {
        float x = fmaf(scalars.qk, r, o);
        if constexpr (dplr) x = fmaf(-scalars.qa, y, x);
        return p.scale * x;
      };
      store4(p.o + at, {out(o.x, r.x, y.x), out(o.y, r.y, y.y), out(o.z, r.z, y.z), out(o.w, r.w, y.w)});
    }
    if (p.journal) record(t, r, y);
    if (p.journal == nullptr || t + 1 < p.tokens) {
#pragma unroll
      for (int j = 0; j < groups; ++j) advance(j, vector(0, j), vector(2, j), r, dplr ? vector(vectors - 1, j) : float4{}, y);
    }
    __syncwarp();
  }

  __device__ __forceinline__ void run() {
    const int slot = p.slots ? p.slots[sequence] : sequence;
    if (slot < 0 || slot >= p.slot_count) return;
    load(slot);
    if (p.replay) {
      const int count = min(p.accepted[sequence], p.tokens);
      replay(count);
      if (p.journal && count > 0) store(slot);
    }
    for (int t = 0; t < p.tokens; ++t) step(t);
    if (!p.journal) store(slot);
  }
};

// (Two ints instead of a DecodePolicy: nvcc 13.0 cannot name a class-type argument of a kernel in a nested namespace.)
template <class Gate, class Update, class T, class G, int K, int V, int Columns, int Warps>
__global__ void __launch_bounds__(32 * Warps) decode_kernel(const __grid_constant__ DecodeParams<T, G> params) {
  using Body = Decode<Gate, Update, T, G, K, V, DecodePolicy{Columns, Warps}>;
  __shared__ typename Body::Storage storage;
  Body(params, storage).run();
}

}  // namespace detail
}  // namespace braid::cuda
