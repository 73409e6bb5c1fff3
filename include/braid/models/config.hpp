// A model's sizes as one constexpr value. Change a copy of it, not a file.
#pragma once

#include <braid/core/error.hpp>
#include <braid/core/types.hpp>

#include <array>
#include <cstdint>
#include <string>

namespace braid {

/// `linear` linear-attention layers, then `full` full-attention layers, repeated; the last layer of a stack is full attention
/// unless `full` is 0. {3, 1} is the published order (full attention at 4, 8, ..., 24 and 27 of 27), {0, 1} a pure MLA model.
struct Ratio {
  int linear = 3, full = 1;
  constexpr bool operator==(const Ratio&) const = default;
};

/// An explicit order, written "KKMK...": K a linear-attention layer, M full attention; at most 128 layers. Empty: the ratio decides.
struct LayerOrder {
  int count = 0;
  std::uint64_t full[2] = {0, 0};  ///< bit l: layer l is full attention

  constexpr LayerOrder() = default;
  constexpr LayerOrder(const char* letters) {  // implicit: c.order = "KKMK"
    for (; letters[count] != 0; ++count) {
      const char letter = letters[count];
      if (count >= 128 || (letter != 'K' && letter != 'M')) throw Error("LayerOrder", "at most 128 letters K or M", letters);
      set(count, letter == 'M');
    }
  }
  constexpr bool is_full(int layer) const { return (full[layer / 64] >> (layer % 64)) & 1; }
  constexpr void set(int layer, bool value) {
    const std::uint64_t bit = std::uint64_t{1} << (layer % 64);
    full[layer / 64] = value ? full[layer / 64] | bit : full[layer / 64] & ~bit;
  }
  constexpr bool operator==(const LayerOrder&) const = default;
};

/// The gate between a linear-attention head's norm and the output projection (Eq. 10; the others are Table 1's ablations).
enum class OutputGate : std::uint8_t { sigmoid, swish, none };

/// Positional encoding of full attention. The published model has none: position lives in the linear layers.
enum class Position : std::uint8_t { none, rope };

/// Everything that decides the shape and the arithmetic of a model. The defaults are Kimi-Linear-48B-A3B's.
struct Config {
  int vocab = 163840;
  int hidden = 2304;
  int layers = 27;
  Ratio ratio{};
  LayerOrder order{};          ///< overrides `ratio` when not empty
  DType dtype = DType::f32;    ///< parameters and activations
  double norm_eps = 1e-5;      ///< of every RMS norm but the latent one
  double latent_norm_eps = 1e-6;  ///< of MLA's norms of latents (the reference's default, not config.json's)
  double init_std = 0.02;
  bool tied = false;           ///< the output head is the token embedding
  Index context = 1048576;     ///< longest sequence the model was made for, in tokens

  // Linear attention
  int heads = 32;
  int key_dim = 128;
  int value_dim = 128;
  int conv = 4;                ///< width of the short convolution; 0: none (Table 1)
  int gate_rank = 0;           ///< rank of the decay and output gates' projections; 0: key_dim
  OutputGate output_gate = OutputGate::sigmoid;
  int chunk = 64;              ///< tokens per chunk of the parallel form

  // Full attention (MLA)
  int mla_heads = 0;           ///< 0: as `heads`
  int kv_rank = 512;
  int q_rank = 0;              ///< 0: queries are projected directly
  int nope_dim = 128;
  int rope_dim = 64;
  int mla_value_dim = 128;
  Position position = Position::none;
  double rope_theta = 10000;

  // Feed-forward
  int dense_layers = 1;        ///< the first layers have one dense SwiGLU of width `dense_width`
  int dense_width = 9216;
  int experts = 256;           ///< 0: every layer is dense
  int experts_per_token = 8;
  int shared_experts = 1;
  int expert_width = 1024;
  int expert_groups = 1;
  int groups_per_token = 1;
  double routed_scale = 2.446;
  bool renormalize = true;     ///< the chosen experts' weights are divided by their sum

  constexpr bool operator==(const Config&) const = default;

  constexpr int full_heads() const { return mla_heads ? mla_heads : heads; }
  constexpr int low_rank() const { return gate_rank ? gate_rank : key_dim; }
  constexpr int query_dim() const { return nope_dim + rope_dim; }  ///< of one MLA head

  constexpr bool is_full(int layer) const {
    if (order.count) return order.is_full(layer);
    if (ratio.full == 0) return false;
    return layer % (ratio.linear + ratio.full) >= ratio.linear || layer == layers - 1;
  }
  constexpr bool is_moe(int layer) const { return experts > 0 && layer >= dense_layers; }

  constexpr int full_layers() const {
    int n = 0;
    for (int l = 0; l < layers; ++l) n += is_full(l);
    return n;
  }
  constexpr int linear_layers() const { return layers - full_layers(); }
  constexpr int moe_layers() const {
    int n = 0;
    for (int l = 0; l < layers; ++l) n += is_moe(l);
    return n;
  }
};

/// C as an ordinary object, for what is read when the program runs: clang 14 crashes or reads something else where the run-time value of a
/// double is taken from a template parameter of class type.
template <Config C> inline constexpr Config config_of = C;

/// Explains, one sentence each, what is wrong with a Config. Every model type instantiates it.
template <Config C> constexpr bool check_config() {
  static_assert(C.vocab > 0 && C.hidden > 0 && C.layers > 0, "braid: Config needs vocab, hidden and layers > 0");
  static_assert(C.order.count == 0 || C.order.count == C.layers, "braid: Config::order must have one letter per layer");
  static_assert(C.ratio.linear >= 0 && C.ratio.full >= 0 && C.ratio.linear + C.ratio.full > 0,
                "braid: Config::ratio needs counts >= 0, not both 0");
  static_assert(C.heads > 0 && C.key_dim > 0 && C.value_dim > 0, "braid: Config needs heads, key_dim and value_dim > 0");
  static_assert(C.conv >= 0, "braid: Config::conv is the width of the short convolution, 0 for none");
  static_assert(C.kv_rank > 0 && C.nope_dim >= 0 && C.rope_dim >= 0 && C.query_dim() > 0 && C.mla_value_dim > 0,
                "braid: Config needs kv_rank, nope_dim + rope_dim and mla_value_dim > 0");
  static_assert(C.position == Position::none || C.rope_dim % 2 == 0, "braid: Config::rope_dim must be even to be rotated");
  static_assert(C.dense_width > 0 || C.moe_layers() == C.layers, "braid: Config has dense layers and needs dense_width > 0");
  static_assert(C.experts == 0 || (C.experts_per_token > 0 && C.experts_per_token <= C.experts && C.expert_width > 0),
                "braid: Config needs 0 < experts_per_token <= experts and expert_width > 0");
  static_assert(C.experts == 0 || (C.expert_groups > 0 && C.experts % C.expert_groups == 0 && C.groups_per_token > 0 &&
                                   C.groups_per_token <= C.expert_groups),
                "braid: Config::experts must be a multiple of expert_groups, and 0 < groups_per_token <= expert_groups");
  static_assert(C.experts == 0 || C.experts / C.expert_groups * C.groups_per_token >= C.experts_per_token,
                "braid: Config's chosen groups hold fewer experts than experts_per_token");
  static_assert(C.dtype == DType::f32 || C.dtype == DType::f64, "braid: Config::dtype must be f32 or f64 on the CPU");
  return true;
}

}  // namespace braid
