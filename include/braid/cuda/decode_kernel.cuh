// The decoding kernel: one to eight tokens of a (sequence, value head) against its fp32 state, read and written once, in place.
//
// A block holds `columns` value columns of one state in registers, its warps sharing the keys: warp w has keys [w K/W, (w+1) K/W),
// a lane four columns and a run of its keys. Per token, with e = alpha * k (or b, for Dplr) and S the old state:
//
//   y = S^T e      R = write v - erase y      o = scale (S^T (alpha * q) + (q.k) R)      S <- alpha * S + k R^T      Eq. (1)
//   Dplr:          o = scale (S^T (alpha * q) + (q.k) v - (q.a) y)                        S <- alpha * S - a y^T + k v^T
//
// so both products read the state before the token, and one exchange between the warps serves them. `Many` compiles in what more
// than one token needs: the loop, the journal and its replay.
#pragma once

#include <braid/core/gate.hpp>
#include <braid/core/types.hpp>
#include <braid/core/update.hpp>
#include <braid/cuda/convert.cuh>
#include <braid/cuda/ptx/barrier.cuh>
#include <braid/cuda/ptx/memory.cuh>

namespace braid::cuda {

/// Floats that one token of one (sequence, value head) takes in a journal: alpha, k, R (and a, y for Dplr).
template <class Update> BRAID_FN constexpr int journal_floats(int key_dim, int value_dim) {
  return update_is_dplr<Update> ? 3 * key_dim + 2 * value_dim : 2 * key_dim + value_dim;
}

namespace detail {

/// How a state is spread over a block.
struct DecodePolicy {
  int columns = 32;  ///< value columns of a block: 16, 32, 64 or 128
  int warps = 4;     ///< they share the keys
  /// Whether blocks start while the previous kernel of the stream drains, and have their part of the state fetched meanwhile: in whole lines, and not for
  /// few states, where waiting for that kernel takes longer than a launch.
  BRAID_FN constexpr bool overlaps() const { return columns % 32 == 0; }
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
struct TokenScalars {
  float erase, write, qk, qa;
};

template <class Gate, class Update, class T, class G, int K, int V, DecodePolicy P, bool Many> struct Decode {
  static constexpr int column_groups = P.columns / 4, phases = 32 / column_groups;
  static constexpr int warp_keys = K / P.warps, groups = warp_keys / (4 * phases);
  static constexpr bool dplr = update_is_dplr<Update>, decays = Gate::decay != Decay::none;
  static constexpr bool reads = [] { if constexpr (dplr) return true; else return Update::erases; }();
  static constexpr int vectors = dplr ? 5 : 4;  // alpha, alpha q, k, e, a
  static constexpr int threads = 32 * P.warps;
  static constexpr int lane_keys = K / 32;                   // channels of a lane where a warp reads whole rows
  static constexpr int own = (warp_keys + 31) / 32;          // and where it reads its own keys
  static_assert(groups >= 1 && groups * 4 * phases * P.warps == K && V % P.columns == 0);

  struct Storage {
    float vector[P.warps][vectors][warp_keys];
    float sums[2][P.warps][2][P.columns];
  };

  const DecodeParams<T, G>& p;
  Storage& shared;
  int sequence, head, column, warp, lane, group, phase;
  float4 s[groups][4];

  __device__ Decode(const DecodeParams<T, G>& params, Storage& storage, int sequence_index, int head_index, int first_column)
      : p(params), shared(storage), sequence(sequence_index), head(head_index), column(first_column), warp(threadIdx.x / 32),
        lane(threadIdx.x % 32), group(lane % column_groups), phase(lane / column_groups) {}

  /// The state of this sequence and head, [K, V], or null when its slot says to skip it.
  __device__ __forceinline__ float* state() const {
    const int slot = p.slots ? p.slots[sequence] : sequence;
    if (slot < 0 || slot >= p.slot_count) return nullptr;
    return p.states + (static_cast<Index>(slot) * p.value_heads + head) * (K * V);
  }
  __device__ __forceinline__ int key(int j, int i) const { return warp * warp_keys + 4 * (groups * phase + j) + i; }
  /// The lane's part of a state. Plain accesses: every cache hint that was tried is slower (docs/kernels/decode.md).
  __device__ __forceinline__ float4* part(float* base, int j, int i) const {
    return reinterpret_cast<float4*>(base + key(j, i) * V + column) + group;
  }
  __device__ __forceinline__ void load(float* base) {
#pragma unroll
    for (int j = 0; j < groups; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) s[j][i] = *part(base, j, i);
  }
  __device__ __forceinline__ void store(float* base) const {
#pragma unroll
    for (int j = 0; j < groups; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i) *part(base, j, i) = s[j][i];
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

  /// What a lane reads of one token, all of it in flight before the first use.
  struct Inputs {
    Pack<T, lane_keys> q, k, a;                        // the lane's share of whole rows, for the norms
    T own_q[own], own_k[own], own_a[own], own_b[own];  // the lane's channels among the warp's keys
    G gate[own], beta;
    float bias[own], rate;
    Pack<T, 4> v;
  };
  __device__ __forceinline__ Index row(int t) const {
    return (static_cast<Index>(sequence) * p.tokens + t) * p.value_heads + head;
  }
  __device__ __forceinline__ Inputs fetch(int t) const {
    Inputs in;
    const Index at = row(t), key_row = (static_cast<Index>(sequence) * p.tokens + t) * p.heads + head / (p.value_heads / p.heads);
    const T *q = p.q + key_row * K, *k = p.k + key_row * K;
    in.q = load_pack<lane_keys>(q + lane * lane_keys), in.k = load_pack<lane_keys>(k + lane * lane_keys);
    if constexpr (dplr) in.a = load_pack<lane_keys>(p.a + at * K + lane * lane_keys);
    else if constexpr (Update::uses_beta) in.beta = p.beta[at];
    if constexpr (decays && !gate_is_given<Gate>) in.rate = p.A_log[head];
#pragma unroll
    for (int i = 0; i < own; ++i) {
      const int channel = own_channel(i);
      in.own_q[i] = q[channel], in.own_k[i] = k[channel];
      if constexpr (dplr) in.own_a[i] = p.a[at * K + channel], in.own_b[i] = p.b[at * K + channel];
      constexpr bool each = Gate::decay == Decay::per_channel;
      if constexpr (decays) in.gate[i] = p.gate[each ? at * K + channel : at];
      if constexpr (decays && !gate_is_given<Gate>) in.bias[i] = p.dt_bias[each ? head * K + channel : head];
    }
    in.v = load_pack<4>(p.v + at * V + column + 4 * group);
    return in;
  }
  __device__ __forceinline__ int own_channel(int i) const { return warp * warp_keys + (lane + 32 * i) % warp_keys; }

  /// Gate, norms and strengths of a token; the warp's share of the vectors goes to shared memory.
  __device__ __forceinline__ TokenScalars prepare(const Inputs& in) {
    float qq = 0, kk = 0, qk = 0, qa = 0;
#pragma unroll
    for (int c = 0; c < lane_keys; ++c) {
      const float x = to_float(in.q.x[c]), y = to_float(in.k.x[c]);
      qq = fmaf(x, x, qq), kk = fmaf(y, y, kk), qk = fmaf(x, y, qk);
      if constexpr (dplr) qa = fmaf(x, to_float(in.a.x[c]), qa);
    }
#pragma unroll
    for (int m = 16; m > 0; m /= 2) {
      qq += __shfl_xor_sync(~0u, qq, m), kk += __shfl_xor_sync(~0u, kk, m), qk += __shfl_xor_sync(~0u, qk, m);
      if constexpr (dplr) qa += __shfl_xor_sync(~0u, qa, m);
    }
    const float rq = p.normalize ? rsqrtf(qq + 1e-6f) : 1.f, rk = p.normalize ? rsqrtf(kk + 1e-6f) : 1.f;
    TokenScalars out{0, 1, qk * rq * rk, qa * rq};
    if constexpr (!dplr) {
      float beta = 0;
      if constexpr (Update::uses_beta) beta = to_float(in.beta);
      if (p.beta_logit) beta = math::sigmoid(beta);
      const float norm2 = kk * rk * rk;
      out.erase = Update::template erase<float>(beta, norm2), out.write = Update::template write<float>(beta, norm2);
    }
#pragma unroll
    for (int i = 0; i < own; ++i) {
      float alpha = 1;
      if constexpr (decays) {
        float rate = 0, bias = 0;
        if constexpr (!gate_is_given<Gate>) rate = expf(in.rate), bias = in.bias[i];
        alpha = expf(Gate::template log_decay<float>(to_float(in.gate[i]), rate, bias));
      }
      const float k = to_float(in.own_k[i]) * rk;
      auto& vector = shared.vector[warp];
      const int c = (lane + 32 * i) % warp_keys;  // lanes past a short row repeat its values
      vector[0][c] = alpha, vector[1][c] = to_float(in.own_q[i]) * rq * alpha, vector[2][c] = k;
      if constexpr (dplr) vector[3][c] = to_float(in.own_b[i]), vector[4][c] = to_float(in.own_a[i]);
      else vector[3][c] = k * alpha;
    }
    __syncwarp();
    return out;
  }

  __device__ __forceinline__ float4 vector(int which, int j) const {
    return *reinterpret_cast<const float4*>(&shared.vector[warp][which][4 * (groups * phase + j)]);
  }

  /// Sums over all keys of the two products with the state, for the lane's four columns: four keys in order, then a binary tree over
  /// the groups of four by their number, whoever holds them. So every policy gives the same bits.
  __device__ __forceinline__ void products(int buffer, float4& y, float4& o) {
    float4 y_part[groups], o_part[groups];
#pragma unroll
    for (int j = 0; j < groups; ++j) {
      o_part[j] = dot(vector(1, j), s[j]);
      if constexpr (reads) y_part[j] = dot(vector(3, j), s[j]);
    }
    o = tree(o_part), y = {0, 0, 0, 0};
    if constexpr (reads) y = tree(y_part);
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
  __device__ __forceinline__ static float4 dot(float4 x4, const float4 (&rows)[4]) {
    const float x[4] = {x4.x, x4.y, x4.z, x4.w};
    float4 sum = {x[0] * rows[0].x, x[0] * rows[0].y, x[0] * rows[0].z, x[0] * rows[0].w};
#pragma unroll
    for (int i = 1; i < 4; ++i) {
      const float4 r = rows[i];
      sum = {fmaf(x[i], r.x, sum.x), fmaf(x[i], r.y, sum.y), fmaf(x[i], r.z, sum.z), fmaf(x[i], r.w, sum.w)};
    }
    return sum;
  }
  __device__ __forceinline__ static float4 add(float4 x, float4 y) { return {x.x + y.x, x.y + y.y, x.z + y.z, x.w + y.w}; }
  template <int N> __device__ __forceinline__ static float4 tree(float4 (&part)[N]) {
#pragma unroll
    for (int width = 1; width < N; width *= 2)
#pragma unroll
      for (int i = 0; i < N; i += 2 * width) part[i] = add(part[i], part[i + width]);
    return part[0];
  }
  __device__ __forceinline__ static void add_lane(float4& x, int mask) {
    x = add(x, {__shfl_xor_sync(~0u, x.x, mask), __shfl_xor_sync(~0u, x.y, mask), __shfl_xor_sync(~0u, x.z, mask), __shfl_xor_sync(~0u, x.w, mask)});
  }
  __device__ __forceinline__ float4 total(int buffer, int which) const {
    float4 part[P.warps];
#pragma unroll
    for (int w = 0; w < P.warps; ++w) part[w] = *reinterpret_cast<const float4*>(&shared.sums[buffer][w][which][4 * group]);
    return tree(part);
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

  /// One token. `enters`: its update goes into the registers, because the state is stored or more tokens follow. `buffer` alternates.
  __device__ __forceinline__ void step(int buffer, const Inputs& in, bool enters, int t) {
    const TokenScalars scalars = prepare(in);
    const float4 v = to_float4(in.v);
    float4 y, o, r;
    products(buffer, y, o);
    if constexpr (dplr) r = v;
    else {
      const float w = scalars.write, e = reads ? scalars.erase : 0.f;
      r = {fmaf(-e, y.x, w * v.x), fmaf(-e, y.y, w * v.y), fmaf(-e, y.z, w * v.z), fmaf(-e, y.w, w * v.w)};
    }
    if (warp == 0 && phase == 0) {
      auto out = [&](float o, float r, float y) {
        float x = fmaf(scalars.qk, r, o);
        if constexpr (dplr) x = fmaf(-scalars.qa, y, x);
        return p.scale * x;
      };
      store4(p.o + row(t) * V + column + 4 * group, float4{out(o.x, r.x, y.x), out(o.y, r.y, y.y), out(o.z, r.z, y.z), out(o.w, r.w, y.w)});
    }
    if constexpr (Many)
      if (p.journal) record(t, r, y);
    if (enters) {
#pragma unroll
      for (int j = 0; j < groups; ++j) advance(j, vector(0, j), vector(2, j), r, dplr ? vector(vectors - 1, j) : float4{}, y);
    }
    __syncwarp();
  }

  /// Has the block's part of the state fetched into L2: slots may still be changing, but nothing depends on them here.
  __device__ __forceinline__ void prefetch() const {
    constexpr int lines = P.columns * 4 / 128;  // of a key
    if (const float* from = state())
      for (int i = threadIdx.x; i < K * lines; i += threads) ptx::prefetch(from + i / lines * V + column + i % lines * 32);
  }

  __device__ __forceinline__ void run() {
    if constexpr (P.overlaps()) {
      ptx::launch_dependents();
      prefetch();
      ptx::wait_for_previous_grid();
    }
    Inputs in = fetch(0);
    float* const at = state();
    if (at == nullptr) return;
    load(at);
    if constexpr (!Many) {
      step(0, in, true, 0);
      return store(at);
    }
    if (p.replay) {
      const int count = min(p.accepted[sequence], p.tokens);
      replay(count);
      if (p.journal && count > 0) store(at);
    }
    for (int t = 0; t < p.tokens; ++t) {
      const Inputs next = fetch(t + 1 < p.tokens ? t + 1 : t);
      step(t & 1, in, p.journal == nullptr || t + 1 < p.tokens, t);
      in = next;
    }
    if (!p.journal) store(at);
  }
};

// (Two ints instead of a DecodePolicy: nvcc 13.0 cannot name a class-type argument of a kernel in a nested namespace.)
template <class Gate, class Update, class T, class G, int K, int V, int Columns, int Warps, bool Many>
__global__ void __launch_bounds__(32 * Warps) decode_kernel(const __grid_constant__ DecodeParams<T, G> params) {
  using Body = Decode<Gate, Update, T, G, K, V, DecodePolicy{Columns, Warps}, Many>;
  constexpr int blocks = V / Columns;  // of one head, neighbours in the grid
  __shared__ typename Body::Storage storage;
  Body(params, storage, blockIdx.y, blockIdx.x / blocks, blockIdx.x % blocks * Columns).run();
}

}  // namespace detail
}  // namespace braid::cuda
