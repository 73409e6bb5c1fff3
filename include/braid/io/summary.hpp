// Sizes of a model that is known only at run time: parameters, activated parameters, bytes of cache.
#pragma once

#include <braid/models/config.hpp>

#include <cstddef>

namespace braid {

/// Parameters of a KDA/MLA model: in all, and those that take part in one token's products (as CausalLm::activated_count counts).
template <class N> struct ParameterCounts {
  N total, activated;
};

/// Counts parameters in N: Index for exact numbers, double where they might not fit.
template <class N = Index> constexpr ParameterCounts<N> count_parameters(const Config& c) {
  const N hidden = N(c.hidden), heads = N(c.heads), rank = N(c.low_rank());
  const N keys = heads * N(c.key_dim), values = heads * N(c.value_dim);
  const bool gated = c.output_gate != OutputGate::none;
  const N linear = hidden * (N(2) * keys + N(2) * values) + (N(2) * keys + values) * N(c.conv) + rank * (hidden + keys) + heads + keys +
                   hidden * heads + (gated ? rank * (hidden + values) : N(0)) + N(c.value_dim);
  const N full_heads = N(c.full_heads()), query = full_heads * (N(c.nope_dim) + N(c.rope_dim));
  const N kv_rank = N(c.kv_rank), q_rank = N(c.q_rank), value = N(c.mla_value_dim);
  const N queries = c.q_rank ? q_rank * (hidden + N(1) + query) : hidden * query;
  const N full = queries + hidden * (kv_rank + N(c.rope_dim)) + kv_rank + kv_rank * full_heads * (N(c.nope_dim) + value) +
                 full_heads * value * hidden;
  const N expert = N(3) * hidden * N(c.expert_width);
  const N moe = N(c.experts) * hidden + N(c.experts) + (N(c.experts) + N(c.shared_experts)) * expert;
  const N idle = (N(c.experts) - N(c.experts_per_token)) * expert;  // of one layer, for one token
  const N moe_layers = N(c.moe_layers()), dense_layers = N(c.layers) - moe_layers;
  const N stack = N(c.linear_layers()) * linear + N(c.full_layers()) * full + N(2) * N(c.layers) * hidden +
                  dense_layers * N(3) * hidden * N(c.dense_width) + (c.moe_layers() ? moe_layers * moe : N(0)) + hidden;
  const N head = N(c.vocab) * hidden;
  return {stack + head * (c.tied ? N(1) : N(2)), stack - (c.moe_layers() ? moe_layers * idle : N(0)) + head};
}

/// Bytes of the inference cache of one sequence: recurrent states, which do not grow, and latents, which do.
struct CacheBytes {
  double state, latents;
  double total() const { return state + latents; }
};

/// The cache of a sequence of `tokens` tokens. `width`: bytes per element of latents and convolution tails; states are held in
/// floats (or wider elements).
inline CacheBytes count_cache_bytes(const Config& c, Index tokens, int width = 4) {
  const double heads = c.heads, key_dim = c.key_dim, value_dim = c.value_dim;
  const double tails = heads * (2 * key_dim + value_dim) * (c.conv > 1 ? c.conv - 1 : 0) * width;
  const double state = heads * key_dim * value_dim * (width > 4 ? width : 4) + tails;
  return {c.linear_layers() * state, c.full_layers() * (double(c.kv_rank) + c.rope_dim) * width * static_cast<double>(tokens)};
}

/// The same model with full attention in every layer.
inline Config all_full_attention(Config c) {
  c.ratio = {0, 1};
  c.order = {};
  return c;
}

}  // namespace braid
