// The names of published tensors and the variations met in practice, brought to one form.
//
// A tensor, stored or in a model, is a list of pieces: runs of its elements, each with a canonical name and a shape without extents
// of 1. Stacked experts and stacked convolutions are several pieces. Two tensors hold the same weights where their pieces' names
// agree, so a variation is a line here and nothing else.
//
//   canonical                                  also read as
//   layers.N.mlp...                            layers.N.block_sparse_moe...
//   ...experts.E.w1.weight (gate), w3 (up)     ...experts.E.gate_proj.weight, up_proj
//   ...experts.E.w2.weight (down)              ...experts.E.down_proj.weight
//   the same of all experts                    ...experts.gate_proj [E, width, hidden], ...switch_mlp.gate_proj.weight;
//                                              ...experts.gate_up_proj [E, 2 width, hidden]
//   ...self_attn.f_a_proj.weight, A_log        ...self_attn.forget_gate.f_a_proj.weight, A_log
//   ...self_attn.{q,k,v}_conv1d.weight         ...self_attn.conv1d.weight [3 channels, 1, taps]
//   A_log [heads], q_conv1d [channels, taps]   A_log [1, 1, heads, 1], q_conv1d [channels, 1, taps]
//   embed_tokens.weight, layers..., norm       model.embed_tokens.weight, language_model.model...
#pragma once

#include <braid/core/types.hpp>

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace braid::io {

/// Elements [first, first + count) of a tensor, under their canonical name.
struct Piece {
  std::string name;
  std::vector<Index> shape;  ///< without extents of 1
  Index first = 0, count = 0;
};

namespace detail {

/// More experts than this are a mistake in a file.
inline constexpr Index most_experts = 1 << 16;

inline Index product(const std::vector<Index>& shape) {
  Index n = 1;
  for (Index extent : shape) n *= extent;
  return n;
}

inline void replace(std::string& text, std::string_view from, std::string_view to) {
  if (const auto at = text.find(from); at != text.npos) text.replace(at, from.size(), to);
}

/// The name without prefixes and with one spelling of each part.
inline std::string canonical_name(std::string name) {
  for (std::string_view prefix : {"language_model.", "model."})
    if (name.starts_with(prefix)) name.erase(0, prefix.size());
  replace(name, ".block_sparse_moe.", ".mlp.");
  replace(name, ".switch_mlp.", ".experts.");
  replace(name, ".self_attn.forget_gate.", ".self_attn.");
  if (name.find(".experts.") == name.npos) return name;
  replace(name, ".gate_proj", ".w1");
  replace(name, ".down_proj", ".w2");
  replace(name, ".up_proj", ".w3");
  return name;
}

/// `shape` without its first extent and without extents of 1.
inline std::vector<Index> squeeze(const std::vector<Index>& shape, std::size_t from) {
  std::vector<Index> out;
  for (std::size_t d = from; d < shape.size(); ++d)
    if (shape[d] != 1) out.push_back(shape[d]);
  return out;
}

/// Cuts a tensor into `names.size()` equal runs, each `shape`.
inline std::vector<Piece> cut(const std::vector<std::string>& names, const std::vector<Index>& shape) {
  std::vector<Piece> out;
  const Index count = product(shape);
  for (std::size_t i = 0; i < names.size(); ++i) out.push_back({names[i], shape, static_cast<Index>(i) * count, count});
  return out;
}
}  // namespace detail

/// The pieces of a tensor called `name`.
inline std::vector<Piece> pieces(const std::string& name, const std::vector<Index>& shape) {
  const std::string canonical = detail::canonical_name(name);
  const auto stem = [&](std::string_view end) { return canonical.substr(0, canonical.size() - end.size()); };
  if (constexpr std::string_view end = ".self_attn.conv1d.weight"; canonical.ends_with(end) && !shape.empty() && shape[0] % 3 == 0) {
    std::vector<Index> one = detail::squeeze(shape, 1);
    if (shape[0] != 3) one.insert(one.begin(), shape[0] / 3);
    const std::string block = stem(end) + ".self_attn.";
    return detail::cut({block + "q_conv1d.weight", block + "k_conv1d.weight", block + "v_conv1d.weight"}, one);
  }
  if (shape.size() == 3 && shape[0] <= detail::most_experts) {
    for (std::string_view part : {"gate_up_proj", "w1", "w2", "w3"}) {
      for (const std::string& end : {".experts." + std::string(part), ".experts." + std::string(part) + ".weight"}) {
        if (!canonical.ends_with(end)) continue;
        const bool both = part == "gate_up_proj" && shape[1] % 2 == 0;
        std::vector<std::string> names;
        for (Index e = 0; e < shape[0]; ++e) {
          const std::string expert = stem(end) + ".experts." + std::to_string(e) + ".";
          if (both) names.insert(names.end(), {expert + "w1.weight", expert + "w3.weight"});
          else names.push_back(expert + std::string(part) + ".weight");
        }
        return detail::cut(names, detail::squeeze({both ? shape[1] / 2 : shape[1], shape[2]}, 0));
      }
    }
  }
  return {{canonical, detail::squeeze(shape, 0), 0, detail::product(shape)}};
}

/// Tensors that hold no weights: tables that some programs store beside them.
inline bool is_ignored(std::string_view name) { return name.ends_with(".rotary_emb.inv_freq"); }

}  // namespace braid::io
