#include <braid/models/config.hpp>

constexpr braid::Config mine = [] {
  braid::Config c;
#ifdef no_vocabulary  // braid: Config needs vocab, hidden and layers > 0
  c.vocab = 0;
#endif
#ifdef short_order  // braid: Config::order must have one letter per layer
  c.order = "KKMK";
#endif
#ifdef empty_ratio  // braid: Config::ratio needs counts >= 0, not both 0
  c.ratio = {0, 0};
#endif
#ifdef no_key_dim  // braid: Config needs heads, key_dim and value_dim > 0
  c.key_dim = 0;
#endif
#ifdef negative_conv  // braid: Config::conv is the width of the short convolution, 0 for none
  c.conv = -1;
#endif
#ifdef no_latent  // braid: Config needs kv_rank, nope_dim + rope_dim and mla_value_dim > 0
  c.kv_rank = 0;
#endif
#ifdef odd_rope  // braid: Config::rope_dim must be even to be rotated
  c.position = braid::Position::rope;
  c.rope_dim = 63;
#endif
#ifdef no_dense_width  // braid: Config has dense layers and needs dense_width > 0
  c.dense_width = 0;
#endif
#ifdef too_many_chosen  // braid: Config needs 0 < experts_per_token <= experts and expert_width > 0
  c.experts_per_token = 300;
#endif
#ifdef uneven_groups  // braid: Config::experts must be a multiple of expert_groups, and 0 < groups_per_token <= expert_groups
  c.expert_groups = 7;
#endif
#ifdef small_groups  // braid: Config's chosen groups hold fewer experts than experts_per_token
  c.expert_groups = 64;
#endif
#ifdef half_precision  // braid: Config::dtype must be f32 or f64 on the CPU
  c.dtype = braid::DType::f16;
#endif
  return c;
}();
static_assert(braid::check_config<mine>());
