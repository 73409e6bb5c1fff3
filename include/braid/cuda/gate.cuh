// Gates on the device: log2 alpha straight from the raw input, with two special functions at most, and alpha itself with one more.
#pragma once

#include <braid/core/gate.hpp>
#include <braid/cuda/ptx/math.cuh>

namespace braid::cuda {

/// Scale log2 alpha of one decay of one head. Any gate: through its `log_decay<float>`. Built from rate = exp(A_log) and bias = dt_bias.
template <class Gate, int Scale = 1> struct LogDecayFactor {
  float rate, bias;
  __device__ LogDecayFactor(float rate, float bias) : rate(rate), bias(bias) {}
  __device__ float operator()(float x) const { return Scale * ptx::log2_e * Gate::template log_decay<float>(x, rate, bias); }
};

/// -rate * softplus(x + bias) / log 2 = -rate * log2(1 + 2^z) with z = (x + bias) log2 e. Splitting off max(z, 0) keeps 2^z <= 1.
template <int Scale> struct LogDecayFactor<SoftplusGate, Scale> {
  float rate, offset;
  __device__ LogDecayFactor(float rate, float bias) : rate(-Scale * rate), offset(bias * ptx::log2_e) {}
  __device__ float operator()(float x) const {
    const float z = fmaf(x, ptx::log2_e, offset);
    return rate * (fmaxf(z, 0.f) + ptx::log2(1.f + ptx::exp2(-fabsf(z))));
  }
};

/// Floor * sigmoid(rate * (x + bias)) / log 2, the constants inside the division.
template <int Floor, int Scale> struct LogDecayFactor<BoundedGate<Floor>, Scale> {
  float slope, offset;
  __device__ LogDecayFactor(float rate, float bias) : slope(-rate * ptx::log2_e), offset(-rate * ptx::log2_e * bias) {}
  __device__ float operator()(float x) const {
    constexpr float unit = 1.f / (Scale * Floor * ptx::log2_e);
    return ptx::reciprocal(fmaf(ptx::exp2(fmaf(x, slope, offset)), unit, unit));
  }
};

template <class Gate, int Scale> struct LogDecayFactor<PerHead<Gate>, Scale> : LogDecayFactor<Gate, Scale> {
  using LogDecayFactor<Gate, Scale>::LogDecayFactor;
};

template <Decay D, int Scale> struct LogDecayFactor<LogDecay<D>, Scale> {
  __device__ LogDecayFactor(float, float) {}
  __device__ float operator()(float x) const { return x * (Scale * ptx::log2_e); }
};

/// alpha of one decay of one head.
template <class Gate> struct DecayFactor : LogDecayFactor<Gate> {
  using LogDecayFactor<Gate>::LogDecayFactor;
  __device__ float operator()(float x) const { return ptx::exp2(LogDecayFactor<Gate>::operator()(x)); }
};

}  // namespace braid::cuda
