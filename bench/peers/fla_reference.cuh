// What fla_replay.cu needs of its own on the device: random inputs, and the recurrences of KDA and DPLR in float, token by token.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>

using bf16 = __nv_bfloat16;
constexpr int D = 128;

/// Normal with deviation a, or uniform between a and b.
template <class T> __global__ void fill(T* out, std::size_t count, unsigned seed, bool normal, float a, float b) {
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = blockIdx.x * static_cast<std::size_t>(blockDim.x) + threadIdx.x; i < count; i += stride) {
    float u[2];
    for (unsigned j = 0; j < 2; ++j) {
      unsigned x = static_cast<unsigned>(i) * 2654435761u + (seed * 2 + j) * 0x9e3779b9u;
      x ^= x >> 16, x *= 0x85ebca6bu, x ^= x >> 13, x *= 0xc2b2ae35u, x ^= x >> 16;
      u[j] = ((x >> 8) + 0.5f) * 0x1p-24f;
    }
    out[i] = T(normal ? a * sqrtf(-2 * logf(u[0])) * cosf(6.2831853f * u[1]) : a + (b - a) * u[0]);
  }
}

struct Problem {
  const bf16 *q, *k, *v, *g, *beta, *a, *b;
  const float *A_log, *dt_bias, *initial_state;
  float *o, *final_state;
  const int* starts;
  int heads, l2norm, sigmoid, gate;  ///< gate: 0 given, 1 softplus, 2 bounded
  float bound;
};

__device__ inline float block_sum(float x, float* scratch) {
  for (int i = 16; i > 0; i /= 2) x += __shfl_xor_sync(~0u, x, i);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  return scratch[0] + scratch[1] + scratch[2] + scratch[3];
}

/// One block for a head of a sequence; a thread keeps a column of the state. KDA: S = diag(exp g) S, S += k beta (v - S' k)'.
/// DPLR: S = diag(exp g) S + b (S' a)' + k v', with S before the decay in S' a. Output: d^-1/2 S' q.
template <bool Dplr> __global__ void __launch_bounds__(D) recurrence(Problem p) {
  __shared__ float q[D], k[D], decay[D], a[D], b[D], scratch[4];
  const int c = static_cast<int>(threadIdx.x), h = static_cast<int>(blockIdx.x), n = static_cast<int>(blockIdx.y);
  const std::size_t state = (static_cast<std::size_t>(n) * p.heads + h) * D * D;
  float S[D];
#pragma unroll
  for (int i = 0; i < D; ++i) S[i] = p.initial_state[state + static_cast<std::size_t>(i) * D + c];
  for (int t = p.starts[n]; t < p.starts[n + 1]; ++t) {
    const std::size_t token = static_cast<std::size_t>(t) * p.heads + h, row = token * D + c;
    float qc = p.q[row], kc = p.k[row], g = p.g[row], v = p.v[row], out = 0, dot = 0;
    if (p.l2norm) qc /= sqrtf(block_sum(qc * qc, scratch) + 1e-6f), kc /= sqrtf(block_sum(kc * kc, scratch) + 1e-6f);
    if (p.gate) g += p.dt_bias[h * D + c];
    if (p.gate == 1) g = -expf(p.A_log[h]) * (g > 20 ? g : log1pf(expf(g)));
    if (p.gate == 2) g = p.bound / (1 + expf(-expf(p.A_log[h]) * g));
    float beta = Dplr ? 0 : static_cast<float>(p.beta[token]);
    if (p.sigmoid) beta = 1 / (1 + expf(-beta));
    __syncthreads();
    q[c] = qc * 0.08838834764831845f, k[c] = kc, decay[c] = expf(g);
    if constexpr (Dplr) a[c] = p.a[row], b[c] = p.b[row];
    __syncthreads();
    if constexpr (Dplr) {
#pragma unroll
      for (int i = 0; i < D; ++i) dot += S[i] * a[i];
#pragma unroll
      for (int i = 0; i < D; ++i) S[i] = S[i] * decay[i] + b[i] * dot + k[i] * v, out += S[i] * q[i];
    } else {
#pragma unroll
      for (int i = 0; i < D; ++i) S[i] *= decay[i], dot += S[i] * k[i];
      const float u = beta * (v - dot);
      __syncwarp();  // keeps k from being held in registers, which the state needs
#pragma unroll
      for (int i = 0; i < D; ++i) S[i] += k[i] * u, out += S[i] * q[i];
    }
    p.o[row] = out;
  }
#pragma unroll
  for (int i = 0; i < D; ++i) p.final_state[state + static_cast<std::size_t>(i) * D + c] = S[i];
}

/// Adds ||x - reference||^2 and ||reference||^2 to sums.
template <class T> __global__ void difference(const T* x, const float* reference, std::size_t count, double* sums) {
  double d = 0, r = 0;
  const std::size_t stride = static_cast<std::size_t>(gridDim.x) * blockDim.x;
  for (std::size_t i = blockIdx.x * static_cast<std::size_t>(blockDim.x) + threadIdx.x; i < count; i += stride) {
    const double e = static_cast<double>(static_cast<float>(x[i])) - reference[i];
    d += e * e, r += static_cast<double>(reference[i]) * reference[i];
  }
  atomicAdd(sums, d), atomicAdd(sums + 1, r);
}
