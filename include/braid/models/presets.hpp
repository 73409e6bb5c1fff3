// The published model, its variants in the paper's comparisons, and the models of its scaling study.
#pragma once

#include <braid/models/causal_lm.hpp>

namespace braid {

/// Kimi-Linear-48B-A3B: 20 KDA and 7 NoPE MLA layers, 256 experts of which 8 (and a shared one) serve each token.
inline constexpr Config kimi_linear_48b{};

/// The same with rotary position encoding in the MLA layers (the paper's "Kimi Linear (RoPE)").
inline constexpr Config kimi_linear_rope_48b = [] {
  Config c = kimi_linear_48b;
  c.position = Position::rope;
  return c;
}();

/// Full attention in every layer, with rotary position encoding: the paper's MLA baseline.
inline constexpr Config mla_48b = [] {
  Config c = kimi_linear_rope_48b;
  c.ratio = {0, 1};
  return c;
}();

using KimiLinear48B = CausalLm<kimi_linear_48b, Kda, Mla>;
using KimiLinearRope48B = CausalLm<kimi_linear_rope_48b, Kda, Mla>;
using Gdn48B = CausalLm<kimi_linear_48b, GatedDeltaNet, Mla>;  ///< the paper's GDN hybrid: one decay per head
using Mla48B = CausalLm<mla_48b, Kda, Mla>;

namespace detail {
/// A model of Table 2: as many heads as layers, 8 of 64 experts, context 4096. The paper gives activated parameters, heads, layers
/// and hidden size; `expert_width` is the multiple of 8 that comes closest to the activated count, and the dense first layer is
/// nine times as wide, as in the published model.
constexpr Config scaling_model(int layers, int hidden, int expert_width) {
  Config c = kimi_linear_48b;
  c.layers = layers;
  c.heads = layers;
  c.hidden = hidden;
  c.experts = 64;
  c.expert_width = expert_width;
  c.dense_width = 9 * expert_width;
  c.context = 4096;
  return c;
}
}  // namespace detail

inline constexpr Config scaling_653m = detail::scaling_model(16, 1216, 544);
inline constexpr Config scaling_878m = detail::scaling_model(18, 1376, 624);
inline constexpr Config scaling_1100m = detail::scaling_model(20, 1536, 632);
inline constexpr Config scaling_1400m = detail::scaling_model(22, 1632, 744);
inline constexpr Config scaling_1700m = detail::scaling_model(24, 1776, 768);

}  // namespace braid
