// Gates on the device: alpha = exp(log decay) straight from the raw input, in base 2, with three special functions at most.
#pragma once

#include <braid/core/gate.hpp>
#include <braid/cuda/ptx/math.cuh>

namespace braid::cuda {

/// alpha of one decay of one head. Any gate: through its `log_decay<float>`. Built from rate = exp(A_log) and bias = dt_bias.
template <class Gate> struct DecayFactor {
  float rate, bias;
  __device__ DecayFactor(float rate, float bias) : rate(rate), bias(bias) {}
  __device__ float operator()(float x) const { return ptx::exp2(ptx::log2_e * Gate::template log_decay<float>(x, rate, bias)); }
};

/// exp(-rate * softplus(x + bias)) = 2^(-rate * log2(1 + 2^z)) with z = (x + bias) log2 e. Splitting off max(z, 0) keeps 2^z <= 1.
template <> struct DecayFactor<SoftplusGate> {
  float rate, offset;
  __device__ DecayFactor(float rate, float bias) : rate(-rate), offset(bias * ptx::log2_e) {}
  __device__ float operator()(float x) const {
    const float z = fmaf(x, ptx::log2_e, offset);
    return ptx::exp2(rate * (fmaxf(z, 0.f) + ptx::log2(1.f + ptx::exp2(-fabsf(z)))));
  }
};

/// exp(Floor * sigmoid(rate * (x + bias))).
template <int Floor> struct DecayFactor<BoundedGate<Floor>> {
  float slope, offset;
  __device__ DecayFactor(float rate, float bias) : slope(-rate * ptx::log2_e), offset(-rate * ptx::log2_e * bias) {}
  __device__ float operator()(float x) const {
    return ptx::exp2(Floor * ptx::log2_e * ptx::reciprocal(1.f + ptx::exp2(fmaf(x, slope, offset))));
  }
};

template <class Gate> struct DecayFactor<PerHead<Gate>> : DecayFactor<Gate> {
  using DecayFactor<Gate>::DecayFactor;
};

template <Decay D> struct DecayFactor<LogDecay<D>> {
  __device__ DecayFactor(float, float) {}
  __device__ float operator()(float x) const { return ptx::exp2(x * ptx::log2_e); }
};

}  // namespace braid::cuda
