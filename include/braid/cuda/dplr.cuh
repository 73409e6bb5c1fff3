// Linear attention with the general diagonal-plus-low-rank update over whole sequences (prefill), section 6.2:
// S <- (Diag(alpha) - a b^T) S + k v^T in chunks of 32 tokens; two kernels for sm_80 and up. See linear_attention.cuh for the rest of the table.
#pragma once

#include <braid/cuda/dplr_prepare.cuh>
#include <braid/cuda/linear_attention.cuh>
#include <braid/cuda/recurrence.cuh>

namespace braid::cuda {

/// Inputs of `dplr`: those of `linear_attention` (beta unused) and the two vectors of the update.
template <class T, class G = T> struct DplrInputs : PrefillInputs<T, G> {
  const T* a = nullptr;  ///< [T, HV, K]
  const T* b = nullptr;  ///< [T, HV, K], applied to the state before its decay
};

namespace detail {

constexpr PrefillPlan dplr_plan(Index tokens, Index sequences, Index value_heads, Index key_dim) {
  PrefillPlan plan;
  plan.slot_count = slots(tokens, sequences);
  plan.record_bytes = DplrRecord{static_cast<int>(key_dim)}.bytes();
  plan.bytes = static_cast<std::size_t>(plan.slot_count * value_heads * plan.record_bytes);
  return plan;
}

template <class Gate, class Operand, int KeyDim, class T, class G>
void run_dplr(cudaStream_t stream, const DplrInputs<T, G>& in, const PrefillOutputs<T>& out, const Workspace& workspace, const PrefillPlan& plan) {
  using C = DplrCell<T, G, Gate, KeyDim, Operand>;
  const auto to_int = [](Index x) { return static_cast<int>(x); };
  auto* records = static_cast<std::byte*>(workspace.data);
  const auto args = recurrence_arguments(in, out, records);
  const DplrPrepareArguments<T, G> prepare{in.q, in.k, in.a, in.b, in.gate, in.A_log, in.dt_bias, to_int(in.heads), to_int(in.value_heads), in.normalize,
                                           records, args.order};
  const Index warps = 2 * plan.slot_count * in.value_heads, blocks = (warps + DplrPreparePolicy::warps - 1) / DplrPreparePolicy::warps;
  if (in.tokens > 0)
    launch(&dplr_prepare_kernel<C, DplrPreparePolicy>, static_cast<unsigned>(blocks), DplrPreparePolicy::warps * 32, 0, false, stream, prepare);
  launch_dplr_recurrence<T, Operand, KeyDim>(args, in.sequences, stream);
}

}  // namespace detail

/// Bytes of workspace that `dplr` needs.
constexpr std::size_t dplr_workspace_bytes(Index tokens, Index sequences, Index value_heads, Index key_dim) {
  return detail::dplr_plan(tokens, sequences, value_heads, key_dim).bytes;
}

/// As `linear_attention`, for the update Dplr. `Operand` = __half is the more exact choice while |a|, |b|, |v| and what they grow to stay
/// below 6e4; __nv_bfloat16 has the range of float.
template <class Gate, class Operand = __half, class T, class G>
void dplr(cudaStream_t stream, const DplrInputs<T, G>& in, const PrefillOutputs<T>& out, const Workspace& workspace) {
  constexpr std::string_view where = "cuda::dplr";
  current_device();
  const PrefillPlan plan = detail::dplr_plan(in.tokens, in.sequences, in.value_heads, in.key_dim);
  detail::check_prefill<Gate, Dplr>(in, out, workspace, plan);
  auto present = [&](const T* pointer, const char* name) {
    require(in.tokens == 0 || pointer != nullptr, where, braid::detail::text("the array ", name), "a null pointer");
    require(reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0, where, braid::detail::text(name, " aligned to 16 bytes"), pointer);
  };
  present(in.a, "`a`");
  present(in.b, "`b`");
  if (in.key_dim == 128) detail::run_dplr<Gate, Operand, 128>(stream, in, out, workspace, plan);
  else detail::run_dplr<Gate, Operand, 64>(stream, in, out, workspace, plan);
}

}  // namespace braid::cuda
