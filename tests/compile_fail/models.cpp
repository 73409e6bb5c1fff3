#include <braid/models/causal_lm.hpp>

constexpr braid::Config small = [] {
  braid::Config c;
  c.vocab = 32, c.hidden = 16, c.layers = 4, c.heads = 2, c.key_dim = c.value_dim = 8, c.kv_rank = 8, c.dense_width = 16, c.experts = 0;
#ifdef wrong_order  // braid: Config::order must have one letter per layer
  c.order = "KM";
#endif
#ifdef wrong_groups  // braid: Config::experts must be a multiple of expert_groups
  c.experts = 10, c.expert_groups = 4;
#endif
  return c;
}();

struct Lazy {};  // not a gate

#ifdef mixer_without_gate  // braid: a gate needs `static constexpr braid::Decay decay
template <braid::Config C> using Mixer = braid::LinearAttention<C, Lazy, braid::DeltaRule>;
#elif defined(mixer_of_dplr)
template <braid::Config C> using Mixer = braid::LinearAttention<C, braid::SoftplusGate, braid::Dplr>;
#else
template <braid::Config C> using Mixer = braid::Kda<C>;
#endif
#ifdef mixer_of_dplr  // braid: the linear-attention layer projects no a and b, so its update cannot be Dplr
#endif
static_assert(braid::CausalLm<small, Mixer>::parameter_count > 0);

#ifdef moe_without_experts  // braid: Moe needs Config::experts > 0
template struct braid::Moe<small>;
#endif
