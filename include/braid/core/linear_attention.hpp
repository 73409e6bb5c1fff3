// The arguments of linear attention: plain pointers and sizes, the same for every backend, every gate and every update.
//
// Dimensions: N sequences, T tokens (packed), H key heads, HV value heads (a multiple of H; value head h reads key head
// h / (HV / H)), K key_dim, V value_dim. All arrays are contiguous and row-major; a null pointer means "absent".
#pragma once

#include <braid/core/batch.hpp>
#include <braid/core/error.hpp>
#include <braid/core/gate.hpp>
#include <braid/core/types.hpp>
#include <braid/core/update.hpp>

#include <span>

namespace braid {

/// Inputs of `linear_attention<Gate, Update>`. `T` is the type of the vectors, `S` that of the state.
template <class T, class S = T> struct LinearAttentionInputs {
  Index tokens = 0, heads = 0, value_heads = 0, key_dim = 0, value_dim = 0;
  std::span<const Index> offsets;  ///< [N + 1], host memory, from 0 ascending to T; empty: one sequence

  const T* q = nullptr;  ///< [T, H, K]
  const T* k = nullptr;  ///< [T, H, K]
  const T* v = nullptr;  ///< [T, HV, V]
  /// Decay per channel: [T, HV, K]; per head: [T, HV]; none: null. The gate's raw input, or (LogDecay) log alpha itself.
  const T* gate = nullptr;
  const T* beta = nullptr;  ///< [T, HV]; null for updates that use none
  const T* a = nullptr;     ///< [T, HV, K], Dplr only
  const T* b = nullptr;     ///< [T, HV, K], Dplr only

  const S* A_log = nullptr;    ///< [HV], log of the gate's rate; null for LogDecay
  const S* dt_bias = nullptr;  ///< per channel: [HV, K]; per head: [HV]; null for LogDecay

  bool normalize = false;   ///< q and k are L2-normalised first: x / sqrt(sum x^2 + 1e-6)
  bool beta_logit = false;  ///< `beta` holds logits: beta = sigmoid(.)
  S scale = 0;              ///< multiplies the output, o = scale * S^T q; usually 1 / sqrt(K)

  const S* initial_state = nullptr;  ///< [N, HV, K, V], key-first; null: zero
};

/// Outputs of `linear_attention`.
template <class T, class S = T> struct LinearAttentionOutputs {
  T* o = nullptr;            ///< [T, HV, V]
  S* final_state = nullptr;  ///< [N, HV, K, V]; null: not wanted. May be the initial state's memory.
  T* kept = nullptr;         ///< for the backward (cpu::linear_attention_kept values, chunkwise form alone); null: nothing is kept
};

/// Gradients: `d_o` and `d_final_state` come in, the others go out (overwritten; null: not wanted). Shapes as the inputs'.
template <class T, class S = T> struct LinearAttentionGradients {
  const T* d_o = nullptr;
  const S* d_final_state = nullptr;  ///< null: zero
  T *d_q = nullptr, *d_k = nullptr, *d_v = nullptr, *d_gate = nullptr, *d_beta = nullptr, *d_a = nullptr, *d_b = nullptr;
  S *d_A_log = nullptr, *d_dt_bias = nullptr;
  S* d_initial_state = nullptr;
  const T* kept = nullptr;  ///< what the forward of the same inputs, form and context kept; null: it is computed again
};

/// The epsilon inside the root of the L2 norm of q and k (published model).
inline constexpr double l2_norm_epsilon = 1e-6;

/// One sequence after another, each token a step of Eq. (1). The form of decoding.
struct Recurrent {};

/// The parallel form of Eqs. (2)-(9) over chunks of `Size` tokens.
template <int Size = 64> struct Chunkwise {
  static_assert(Size == 16 || Size == 32 || Size == 64 || Size == 128, "braid: Chunkwise<Size> takes 16, 32, 64 or 128 tokens per chunk");
  static constexpr int chunk = Size;
};

/// Throws Error, naming the argument, unless the inputs are complete and of sensible sizes for this gate and update.
template <class Gate, class Update, class T, class S>
void check_linear_attention(const LinearAttentionInputs<T, S>& in, std::string_view where = "linear_attention") {
  static_assert(detail::check_gate<Gate>());
  static_assert(detail::check_update<Update>());
  require(in.tokens >= 0, where, "tokens >= 0", in.tokens);
  require(in.heads > 0 && in.key_dim > 0 && in.value_dim > 0, where, "heads, key_dim and value_dim > 0",
          detail::text(in.heads, ", ", in.key_dim, ", ", in.value_dim));
  require(in.value_heads > 0 && in.value_heads % in.heads == 0, where, "value_heads a multiple of heads",
          detail::text(in.value_heads, " and ", in.heads));
  if (!in.offsets.empty()) check_offsets(in.offsets, in.tokens, where);
  const bool some = in.tokens > 0;
  auto present = [&](const void* pointer, bool needed, const char* name) {
    require(!needed || pointer != nullptr, where, detail::text("the array `", name, "`"), "a null pointer");
  };
  present(in.q, some, "q");
  present(in.k, some, "k");
  present(in.v, some, "v");
  present(in.gate, some && Gate::decay != Decay::none, "gate");
  present(in.A_log, !gate_is_given<Gate>, "A_log");
  present(in.dt_bias, !gate_is_given<Gate>, "dt_bias");
  present(in.beta, some && Update::uses_beta, "beta");
  present(in.a, some && update_is_dplr<Update>, "a");
  present(in.b, some && update_is_dplr<Update>, "b");
}

}  // namespace braid
