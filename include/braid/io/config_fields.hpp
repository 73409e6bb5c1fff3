// The fields of a Config by name: comparing two, and printing one as C++.
#pragma once

#include <braid/models/config.hpp>

#include <cctype>
#include <charconv>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace braid {

/// Calls f(name, pointer to member) for every field that is a single value: all but `ratio` and `order`.
template <class F> constexpr void for_each_config_field(F&& f) {
  f("vocab", &Config::vocab);
  f("hidden", &Config::hidden);
  f("layers", &Config::layers);
  f("dtype", &Config::dtype);
  f("norm_eps", &Config::norm_eps);
  f("latent_norm_eps", &Config::latent_norm_eps);
  f("init_std", &Config::init_std);
  f("tied", &Config::tied);
  f("context", &Config::context);
  f("heads", &Config::heads);
  f("key_dim", &Config::key_dim);
  f("value_dim", &Config::value_dim);
  f("conv", &Config::conv);
  f("gate_rank", &Config::gate_rank);
  f("output_gate", &Config::output_gate);
  f("chunk", &Config::chunk);
  f("mla_heads", &Config::mla_heads);
  f("kv_rank", &Config::kv_rank);
  f("q_rank", &Config::q_rank);
  f("nope_dim", &Config::nope_dim);
  f("rope_dim", &Config::rope_dim);
  f("mla_value_dim", &Config::mla_value_dim);
  f("position", &Config::position);
  f("rope_theta", &Config::rope_theta);
  f("dense_layers", &Config::dense_layers);
  f("dense_width", &Config::dense_width);
  f("experts", &Config::experts);
  f("experts_per_token", &Config::experts_per_token);
  f("shared_experts", &Config::shared_experts);
  f("expert_width", &Config::expert_width);
  f("expert_groups", &Config::expert_groups);
  f("groups_per_token", &Config::groups_per_token);
  f("routed_scale", &Config::routed_scale);
  f("renormalize", &Config::renormalize);
}

/// The order of a model's layers in letters: K linear attention, M full attention.
inline std::string layer_letters(const Config& c) {
  std::string letters;
  for (int l = 0; l < c.layers; ++l) letters += c.is_full(l) ? 'M' : 'K';
  return letters;
}

namespace detail {
inline std::string cpp_text(int x) { return std::to_string(x); }
inline std::string cpp_text(Index x) { return std::to_string(x); }
inline std::string cpp_text(bool x) { return x ? "true" : "false"; }
inline std::string cpp_text(double x) {  // the shortest text that reads back as x
  char buffer[32];
  return {buffer, std::to_chars(buffer, buffer + sizeof buffer, x).ptr};
}
inline std::string cpp_text(DType x) {
  constexpr const char* names[] = {"f32", "f64", "bf16", "f16"};
  return std::string("braid::DType::") + names[static_cast<int>(x)];
}
inline std::string cpp_text(OutputGate x) {
  constexpr const char* names[] = {"sigmoid", "swish", "none"};
  return std::string("braid::OutputGate::") + names[static_cast<int>(x)];
}
inline std::string cpp_text(Position x) {
  return std::string("braid::Position::") + (x == Position::rope ? "rope" : "none");
}

/// The kinds of layers that both of two models have.
struct CommonLayers {
  bool linear, full, dense, moe;
  CommonLayers(const Config& a, const Config& b)
      : linear(a.linear_layers() && b.linear_layers()), full(a.full_layers() && b.full_layers()),
        dense(a.moe_layers() < a.layers && b.moe_layers() < b.layers), moe(a.moe_layers() && b.moe_layers()) {}
};

/// One Config for all that mean the same: defaults that stand for another field are filled in; what describes layers that are not
/// `common`, or does not belong to a checkpoint (`dtype`, `chunk`, `init_std`, `context`), is reset.
inline Config meaning(Config c, const CommonLayers& common) {
  const Config d{};
  c.mla_heads = c.full_heads();
  c.gate_rank = c.low_rank();
  c.dense_layers = c.layers - c.moe_layers();
  const auto reset = [&](bool unused, auto... member) {
    if (unused) ((c.*member = d.*member), ...);
  };
  reset(true, &Config::dtype, &Config::chunk, &Config::init_std, &Config::context);
  reset(!common.linear, &Config::heads, &Config::key_dim, &Config::value_dim, &Config::conv, &Config::gate_rank, &Config::output_gate);
  reset(!common.full, &Config::mla_heads, &Config::kv_rank, &Config::q_rank, &Config::nope_dim, &Config::rope_dim, &Config::mla_value_dim,
        &Config::position, &Config::latent_norm_eps);
  reset(!common.dense, &Config::dense_width);
  reset(!common.moe, &Config::experts, &Config::experts_per_token, &Config::shared_experts, &Config::expert_width,
        &Config::expert_groups, &Config::groups_per_token, &Config::routed_scale, &Config::renormalize);
  reset(c.position == Position::none, &Config::rope_theta);
  reset(c.expert_groups == c.groups_per_token, &Config::expert_groups, &Config::groups_per_token);  // no group is left out
  return c;
}
}  // namespace detail

/// A field in which two configs differ, and its two values as text.
struct ConfigDifference {
  std::string field, first, second;
};

/// The fields in which two models differ in shape or arithmetic. Fields without effect (an expert's width without experts) and
/// those that do not belong to a checkpoint (dtype, chunk, init_std, context) do not count.
inline std::vector<ConfigDifference> config_differences(const Config& first, const Config& second) {
  std::vector<ConfigDifference> out;
  const detail::CommonLayers common(first, second);
  const Config a = detail::meaning(first, common), b = detail::meaning(second, common);
  for_each_config_field([&](const char* name, auto member) {
    if (a.*member != b.*member) out.push_back({name, detail::cpp_text(a.*member), detail::cpp_text(b.*member)});
  });
  const std::string order_a = layer_letters(a), order_b = layer_letters(b);
  if (order_a != order_b) out.push_back({"order", order_a, order_b});
  return out;
}

/// A C++ header that defines `NAME::config`, a constexpr Config. What braid_add_checkpoint and the tool braid_config write.
/// Throws Error unless `name` is an identifier.
inline std::string config_header(const Config& c, std::string_view name) {
  bool identifier = !name.empty() && !std::isdigit(static_cast<unsigned char>(name.front()));
  for (char letter : name) identifier &= std::isalnum(static_cast<unsigned char>(letter)) || letter == '_';
  require(identifier, "config_header", "a name that is a C++ identifier", name.empty() ? "nothing" : name);
  std::string out = "// Written by braid from a checkpoint's config.json: change that, not this.\n#pragma once\n\n";
  out += "#include <braid/models/config.hpp>\n\nnamespace " + std::string(name) + " {\n\n";
  out += "inline constexpr braid::Config config = [] {\n  braid::Config c;\n";
  for_each_config_field([&](const char* field, auto member) {
    out += "  c." + std::string(field) + " = " + detail::cpp_text(c.*member) + ";\n";
  });
  if (c.order.count) out += "  c.order = \"" + layer_letters(c) + "\";\n";
  else out += "  c.ratio = {" + std::to_string(c.ratio.linear) + ", " + std::to_string(c.ratio.full) + "};\n";
  return out + "  return c;\n}();\n\n}  // namespace " + std::string(name) + "\n";
}

}  // namespace braid
