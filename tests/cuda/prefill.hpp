// One prefill call on the device from a Problem: uploads, runs, reads back.
#pragma once

#include "device.hpp"
#include "reference.hpp"

#include <braid/cuda/dplr.cuh>
#include <braid/cuda/linear_attention.cuh>

namespace braid::test {

template <class Gate, class Update, class T = __nv_bfloat16, class G = float, class Operand = __half> struct Prefill {
  Problem p;
  Index interval = 0;  ///< checkpoint interval in tokens, 0: none
  cuda::Split split = cuda::Split::automatic;
  double memory_bytes_per_us = 0;  ///< 0: the device's own; else it is taken for one with this memory (SideBySide)
  DeviceArray<T> q, k, v, a, b, o;
  DeviceArray<G> gate, beta;
  DeviceArray<float> A_log, dt_bias, initial, final_state, checkpoints;
  DeviceArray<Index> offsets;
  DeviceArray<unsigned char> workspace;

  explicit Prefill(const Problem& problem, Index checkpoint_interval = 0, cuda::Split how = cuda::Split::automatic)
      : p(problem), interval(checkpoint_interval), split(how), q(p.q), k(p.k), v(p.v), a(p.a), b(p.b), o(p.tokens() * p.value_heads * p.value_dim),
        gate(p.gate), beta(p.beta), A_log(p.A_log), dt_bias(p.dt_bias), initial(p.initial_state),
        final_state(p.sequences() * p.value_heads * p.state_size()), offsets(static_cast<Index>(p.offsets.size())) {
    cuda_ok(cudaMemcpy(offsets, p.offsets.data(), offsets.bytes(), cudaMemcpyHostToDevice), "offsets");
    if (interval) checkpoints = DeviceArray<float>(std::max<Index>(1, p.tokens() / interval) * p.value_heads * p.state_size());
    std::size_t bytes = 0;
    if constexpr (update_is_dplr<Update>) bytes = cuda::dplr_workspace_bytes(p.tokens(), p.sequences(), p.value_heads, p.key_dim);
    else bytes = cuda::workspace_bytes<Update>(p.tokens(), p.sequences(), p.value_heads, p.key_dim, p.value_dim, split);
    workspace = DeviceArray<unsigned char>(static_cast<Index>(bytes));
  }

  cuda::DplrInputs<T, G> inputs() const {
    cuda::DplrInputs<T, G> in;
    in.tokens = p.tokens(), in.heads = p.heads, in.value_heads = p.value_heads, in.key_dim = p.key_dim, in.value_dim = p.value_dim;
    in.offsets = offsets, in.sequences = p.sequences(), in.host_offsets = p.offsets;
    in.q = q, in.k = k, in.v = v, in.gate = gate, in.beta = beta, in.a = a, in.b = b, in.A_log = A_log, in.dt_bias = dt_bias;
    in.normalize = p.normalize, in.beta_logit = p.beta_logit, in.scale = p.scale, in.initial_state = initial;
    return in;
  }
  cuda::PrefillOutputs<T> outputs() const { return {o, final_state, checkpoints, interval}; }

  void launch(cuda::Path path, cudaStream_t stream = nullptr) {
    const auto in = inputs();
    const cuda::Workspace space{workspace.data(), workspace.bytes()};
    if constexpr (update_is_dplr<Update>) cuda::dplr<Gate, Operand>(stream, in, outputs(), space);
    else if (memory_bytes_per_us == 0)
      cuda::linear_attention<Gate, Update, Operand>(stream, static_cast<const cuda::PrefillInputs<T, G>&>(in), outputs(), space, {path, split});
    else launch_on_other_memory(stream, in, space, path);
  }
  void launch_on_other_memory(cudaStream_t stream, const cuda::PrefillInputs<T, G>& in, const cuda::Workspace& space, cuda::Path path) {
    cuda::Device device = cuda::current_device();
    device.memory_bytes_per_us = memory_bytes_per_us;
    const cuda::Record record{static_cast<int>(p.key_dim), cuda::strength_of<Update>()};
    const auto plan = cuda::PrefillPlan::make(record, in.tokens, in.sequences, in.value_heads, in.value_dim, split);
    if (p.key_dim == 128) cuda::detail::run_prefill<Gate, Update, Operand, 128>(device, stream, in, outputs(), plan, space, {path, split});
    else cuda::detail::run_prefill<Gate, Update, Operand, 64>(device, stream, in, outputs(), plan, space, {path, split});
  }
  /// Poisons everything the call writes, then calls it.
  void run(cuda::Path path = cuda::Path::automatic) {
    if (o) o.poison();
    final_state.poison();
    if (workspace) workspace.poison();
    if (interval) checkpoints.poison();
    launch(path);
    cuda_ok(cudaDeviceSynchronize(), "prefill");
  }
  bool guards_intact() const {
    return o.guards_intact() && final_state.guards_intact() && workspace.guards_intact() && checkpoints.guards_intact();
  }
  Errors errors(Index most = 0) const { return compare<Gate, Update>(p, o.host(), final_state.host(), most); }
};

}  // namespace braid::test
