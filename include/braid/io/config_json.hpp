// config.json of a checkpoint, in both of its forms, to a Config and back.
//
// The published form gives `linear_attn_config` with 1-based lists of layers and `first_k_dense_replace`; transformers writes
// `layer_types`, `mlp_layer_types` and `linear_*`. A file may hold both, if they agree. What a Config can say and neither form can
// (the ablations of the paper's Table 1, and different key and value widths) is kept in an object "braid".
#pragma once

#include <braid/io/atomic_file.hpp>
#include <braid/io/config_fields.hpp>
#include <braid/io/json.hpp>
#include <braid/io/mapped_file.hpp>
#include <braid/io/summary.hpp>

#include <cmath>
#include <initializer_list>
#include <limits>
#include <optional>

namespace braid {

/// The special tokens that config.json names.
struct SpecialTokens {
  std::optional<Token> bos, pad;
  std::vector<Token> eos;
};

namespace io {

/// Typed access to an object of config.json. A field may go by several names; null counts as absent.
class ConfigReader {
 public:
  ConfigReader(const Json& json, std::string where) : json_(json), where_(std::move(where)) {}

  using Names = std::initializer_list<const char*>;

  /// The field under the first of its names that is there. Throws Error if two names give different values.
  const Json* find(Names names) const {
    const Json* found = nullptr;
    for (const char* name : names) {
      const auto entry = json_.find(name);
      if (entry == json_.end() || entry->is_null()) continue;
      if (found) same(name, *found == *entry, text(*found), text(*entry));
      else found = &*entry;
    }
    return found;
  }
  int integer(Names names, std::optional<int> fallback = {}, int least = 1) const {
    const Json* value = need(names, fallback.has_value());
    if (!value) return *fallback;
    const bool fits = value->is_number_integer() && (!value->is_number_unsigned() || value->get<std::uint64_t>() <= limit) &&
                      value->get<std::int64_t>() >= least && value->get<std::int64_t>() <= limit;
    require(fits, name(names), braid::detail::text("a whole number from ", least, " to ", limit), text(*value));
    return value->get<int>();
  }
  double real(Names names, std::optional<double> fallback = {}) const {
    const Json* value = need(names, fallback.has_value());
    if (!value) return *fallback;
    require(value->is_number() && std::isfinite(value->get<double>()) && value->get<double>() > 0, name(names), "a finite number > 0",
            text(*value));
    return value->get<double>();
  }
  bool boolean(Names names, bool fallback) const {
    const Json* value = need(names, true);
    if (!value) return fallback;
    require(value->is_boolean(), name(names), "true or false", text(*value));
    return value->get<bool>();
  }
  std::string string(Names names, const std::string& fallback) const {
    const Json* value = need(names, true);
    if (!value) return fallback;
    require(value->is_string(), name(names), "a text", text(*value));
    return value->get<std::string>();
  }
  /// A list of `count` texts, each `yes` (true) or `no` (false); nothing if it is absent.
  std::optional<std::vector<bool>> choices(const char* field, int count, const std::string& yes, const std::string& no) const {
    const Json* value = find({field});
    if (!value) return {};
    require(value->is_array() && static_cast<int>(value->size()) == count, name({field}), braid::detail::text("a list with ", count, " entries"),
            value->is_array() ? std::to_string(value->size()) : value->type_name());
    std::vector<bool> out;
    for (const Json& entry : *value) {
      require(entry == yes || entry == no, name({field}), yes + " or " + no, text(entry));
      out.push_back(entry == yes);
    }
    return out;
  }
  /// The nested object `field`; null if it is absent.
  const Json* object(const char* field) const {
    const Json* value = find({field});
    require(!value || value->is_object(), name({field}), "an object", value ? value->type_name() : "");
    return value;
  }

  /// Throws Error unless the field is absent or has the only value that is supported.
  void only(const char* field, const Json& supported) const {
    const Json* value = find({field});
    require(!value || *value == supported, name({field}), text(supported) + ", which is all that is supported", value ? text(*value) : "");
  }
  void same(const char* field, bool agree, const std::string& first, const std::string& second) const {
    require(agree, name({field}), first + ", as said elsewhere in the file", second);
  }
  std::string name(Names names) const { return where_ + ": " + *names.begin(); }
  static std::string text(const Json& value) {
    std::string out = value.dump(-1, ' ', true, Json::error_handler_t::replace);
    return out.size() > 200 ? out.substr(0, 200) + "..." : out;
  }

 private:
  static constexpr int limit = std::numeric_limits<int>::max();
  const Json* need(Names names, bool optional) const {
    const Json* value = find(names);
    require(value || optional, name(names), "a value", "none");
    return value;
  }
  const Json& json_;
  std::string where_;
};

namespace detail {

/// A list of 1-based layer numbers, set in `of`: each layer at most once.
inline void mark_layers(const ConfigReader& reader, const char* field, std::vector<int>& of, int value) {
  const Json* list = reader.find({field});
  require(list && list->is_array(), reader.name({field}), "a list of layers", list ? list->type_name() : "none");
  for (const Json& entry : *list) {
    const bool valid = entry.is_number_unsigned() && entry.get<std::uint64_t>() >= 1 && entry.get<std::uint64_t>() <= of.size();
    require(valid, reader.name({field}), braid::detail::text("layers from 1 to ", of.size()), ConfigReader::text(entry));
    int& layer = of[entry.get<std::size_t>() - 1];
    require(layer < 0, reader.name({field}), "each layer once", "layer " + ConfigReader::text(entry) + " twice");
    layer = value;
  }
}

/// Sets `order`, or leaves the default ratio if that says the same.
inline void read_order(const ConfigReader& reader, const Json* linear, Config& c) {
  require(c.layers <= 128, reader.name({"num_hidden_layers"}), "at most 128 layers", c.layers);
  auto full = reader.choices("layer_types", c.layers, "full_attention", "linear_attention");
  if (linear && (linear->contains("full_attn_layers") || linear->contains("kda_layers"))) {
    const ConfigReader lists(*linear, reader.name({"linear_attn_config"}));
    std::vector<int> marks(static_cast<std::size_t>(c.layers), -1);
    mark_layers(lists, "full_attn_layers", marks, 1);
    mark_layers(lists, "kda_layers", marks, 0);
    std::vector<bool> listed;
    for (std::size_t l = 0; l < marks.size(); ++l) {
      require(marks[l] >= 0, lists.name({"kda_layers"}), "every layer in one of the two lists", braid::detail::text("layer ", l + 1, " in none"));
      listed.push_back(marks[l] == 1);
    }
    if (full) reader.same("layer_types", *full == listed, "the layers of linear_attn_config", "others");
    full = listed;
  }
  require(full.has_value(), reader.name({"layer_types"}), "layer_types, or linear_attn_config with its lists", "neither");
  bool usual = true;
  for (int l = 0; l < c.layers; ++l) usual &= c.is_full(l) == (*full)[static_cast<std::size_t>(l)];
  if (usual) return;
  LayerOrder order;
  order.count = c.layers;
  for (int l = 0; l < c.layers; ++l) order.set(l, (*full)[static_cast<std::size_t>(l)]);
  c.order = order;
}

inline void read_linear_attention(const ConfigReader& reader, const Json* linear, Config& c) {
  if (!c.linear_layers()) return;
  const ConfigReader top = reader;
  const Json empty = Json::object();
  const ConfigReader nested(linear ? *linear : empty, reader.name({"linear_attn_config"}));
  const auto either = [&](const char* inner, const char* outer, int least) {
    if (!nested.find({inner})) return top.integer({outer}, {}, least);
    const int value = nested.integer({inner}, {}, least);
    if (top.find({outer})) top.same(outer, top.integer({outer}, {}, least) == value, std::to_string(value), "another value");
    return value;
  };
  c.heads = either("num_heads", "linear_num_heads", 1);
  c.key_dim = c.value_dim = either("head_dim", "linear_head_dim", 1);
  c.conv = either("short_conv_kernel_size", "linear_conv_kernel_dim", 0);
  nested.only("gate_lower_bound", nullptr);
}

inline void read_full_attention(const ConfigReader& reader, Config& c) {
  if (!c.full_layers()) return;
  const int heads = reader.integer({"num_attention_heads"});
  const int kv_heads = reader.integer({"num_key_value_heads"}, heads);
  require(kv_heads == heads, reader.name({"num_key_value_heads"}), braid::detail::text(heads, ", the number of attention heads"), kv_heads);
  if (!c.linear_layers()) c.heads = heads;
  c.mla_heads = heads == c.heads ? 0 : heads;
  c.kv_rank = reader.integer({"kv_lora_rank"});
  c.q_rank = reader.integer({"q_lora_rank"}, 0, 0);
  c.nope_dim = reader.integer({"qk_nope_head_dim"}, {}, 0);
  c.rope_dim = reader.integer({"qk_rope_head_dim"}, {}, 0);
  c.mla_value_dim = reader.integer({"v_head_dim"});
  require(std::int64_t{c.nope_dim} + c.rope_dim > 0, reader.name({"qk_nope_head_dim"}), "qk_nope_head_dim + qk_rope_head_dim > 0", 0);
  require(std::int64_t{c.nope_dim} + c.rope_dim <= std::numeric_limits<int>::max(), reader.name({"qk_nope_head_dim"}),
          "qk_nope_head_dim + qk_rope_head_dim below 2^31", "more");
  c.position = reader.boolean({"mla_use_nope"}, true) ? Position::none : Position::rope;
  if (c.position == Position::none) return;
  reader.only("rope_scaling", nullptr);
  c.rope_theta = reader.real({"rope_theta"}, c.rope_theta);
  require(c.rope_dim % 2 == 0, reader.name({"qk_rope_head_dim"}), "an even number, to be rotated", c.rope_dim);
}

inline void read_feed_forward(const ConfigReader& reader, Config& c) {
  c.experts = reader.integer({"num_experts", "num_local_experts", "n_routed_experts"}, 0, 0);
  c.dense_layers = reader.integer({"first_k_dense_replace"}, c.experts ? 1 : c.layers, 0);
  reader.only("moe_layer_freq", 1);
  if (const auto sparse = reader.choices("mlp_layer_types", c.layers, "sparse", "dense")) {
    int dense = 0;
    while (dense < c.layers && !(*sparse)[static_cast<std::size_t>(dense)]) ++dense;
    for (int l = dense; l < c.layers; ++l)
      require((*sparse)[static_cast<std::size_t>(l)], reader.name({"mlp_layer_types"}), "dense layers before all others",
              braid::detail::text("a dense layer ", l));
    if (reader.find({"first_k_dense_replace"}))
      reader.same("mlp_layer_types", std::min(c.dense_layers, c.layers) == dense, std::to_string(c.dense_layers) + " dense layers",
                  std::to_string(dense));
    c.dense_layers = dense;
  }
  require(c.experts > 0 || c.dense_layers >= c.layers, reader.name({"num_experts"}), "experts, since not all layers are dense", "none");
  if (c.moe_layers() < c.layers) c.dense_width = reader.integer({"intermediate_size"});
  if (c.moe_layers() == 0) return;
  reader.only("moe_router_activation_func", "sigmoid");
  c.experts_per_token = reader.integer({"num_experts_per_token", "num_experts_per_tok"});
  c.shared_experts = reader.integer({"num_shared_experts", "n_shared_experts"}, 0, 0);
  c.expert_width = reader.integer({"moe_intermediate_size"});
  c.routed_scale = reader.real({"routed_scaling_factor"}, 1.0);
  c.renormalize = reader.boolean({"moe_renormalize", "norm_topk_prob"}, true);
  c.expert_groups = c.groups_per_token = 1;
  if (reader.boolean({"use_grouped_topk"}, true)) {
    c.expert_groups = reader.integer({"num_expert_group", "n_group"}, 1);
    c.groups_per_token = reader.integer({"topk_group"}, 1);
  }
  require(c.experts % c.expert_groups == 0 && c.groups_per_token <= c.expert_groups, reader.name({"num_expert_group"}),
          "a divisor of num_experts, and at least topk_group", c.expert_groups);
  require(c.experts_per_token <= c.experts / c.expert_groups * c.groups_per_token, reader.name({"num_experts_per_token"}),
          "no more than the experts of the chosen groups", c.experts_per_token);
}

/// What only a Config can say.
inline void read_extension(const ConfigReader& reader, Config& c) {
  const Json* json = reader.object("braid");
  if (!json) return;
  const ConfigReader extra(*json, reader.name({"braid"}));
  c.value_dim = extra.integer({"value_dim"}, c.value_dim);
  c.gate_rank = extra.integer({"gate_rank"}, c.gate_rank, 0);
  c.latent_norm_eps = extra.real({"latent_norm_eps"}, c.latent_norm_eps);
  const std::string gate = extra.string({"output_gate"}, "sigmoid");
  require(gate == "sigmoid" || gate == "swish" || gate == "none", extra.name({"output_gate"}), "sigmoid, swish or none", gate);
  c.output_gate = gate == "none" ? OutputGate::none : gate == "swish" ? OutputGate::swish : OutputGate::sigmoid;
}

}  // namespace detail
}  // namespace io

/// The Config that the text of a config.json describes. `where` names it in errors. Throws Error for another architecture, for
/// values out of range, and for what braid has no arithmetic for. The result's `dtype` is f32 whatever the file's.
inline Config config_from_json(std::string_view text, const std::string& where = "config.json") {
  const io::Json json = io::parse_json_object(text, where);
  const io::ConfigReader reader(json, where);
  const std::string type = reader.string({"model_type"}, "no model_type");
  require(type == "kimi_linear", where, "a model of type kimi_linear", type);
  Config c;
  c.vocab = reader.integer({"vocab_size"});
  c.hidden = reader.integer({"hidden_size"});
  c.layers = reader.integer({"num_hidden_layers"});
  c.norm_eps = reader.real({"rms_norm_eps"}, c.norm_eps);
  c.init_std = reader.real({"initializer_range"}, c.init_std);
  c.context = reader.integer({"model_max_length", "max_position_embeddings"}, static_cast<int>(c.context));
  c.tied = reader.boolean({"tie_word_embeddings"}, false);
  reader.only("hidden_act", "silu");
  reader.only("attention_bias", false);
  reader.only("num_nextn_predict_layers", 0);
  reader.only("quantization_config", nullptr);
  const io::Json* linear = reader.object("linear_attn_config");
  io::detail::read_order(reader, linear, c);
  io::detail::read_linear_attention(reader, linear, c);
  io::detail::read_full_attention(reader, c);
  io::detail::read_feed_forward(reader, c);
  io::detail::read_extension(reader, c);
  const double parameters = count_parameters<double>(c).total;
  require(parameters < 0x1p62, where, "fewer than 2^62 parameters", parameters);  // so that sizes can be multiplied without care
  return c;
}

/// The Config of the checkpoint in a directory.
inline Config read_config(const std::filesystem::path& directory) {
  const auto path = directory / "config.json";
  return config_from_json(io::read_text(path, 16 << 20), path.string());
}

/// The special tokens of the checkpoint in a directory.
inline SpecialTokens read_special_tokens(const std::filesystem::path& directory) {
  const auto path = directory / "config.json";
  const io::Json json = io::parse_json_object(io::read_text(path, 16 << 20), path.string());
  const io::ConfigReader reader(json, path.string());
  SpecialTokens tokens;
  if (reader.find({"bos_token_id"})) tokens.bos = reader.integer({"bos_token_id"}, {}, 0);
  if (reader.find({"pad_token_id"})) tokens.pad = reader.integer({"pad_token_id"}, {}, 0);
  const io::Json* eos = reader.find({"eos_token_id"});
  if (eos && eos->is_array()) {
    for (const io::Json& id : *eos) {
      const io::Json one = {{"eos_token_id", id}};
      tokens.eos.push_back(io::ConfigReader(one, path.string()).integer({"eos_token_id"}, {}, 0));
    }
  } else if (eos) {
    tokens.eos.push_back(reader.integer({"eos_token_id"}, {}, 0));
  }
  return tokens;
}

/// Throws Error, naming every field that differs, unless the checkpoint in `directory` is of the model `c`.
inline void check_config_matches(const Config& c, const std::filesystem::path& directory) {
  std::string expected, found;
  for (const ConfigDifference& d : config_differences(c, read_config(directory))) {
    expected += (expected.empty() ? "" : ", ") + d.field + " = " + d.first;
    found += (found.empty() ? "" : ", ") + d.field + " = " + d.second;
  }
  require(expected.empty(), (directory / "config.json").string(), expected + " (the model's type)", found);
}

/// A config.json in the published form, which transformers reads too. `stored` is the dtype of the weights beside it.
inline std::string config_to_json(const Config& c, const SpecialTokens& tokens = {}, DType stored = DType::f32) {
  constexpr const char* dtypes[] = {"float32", "float64", "bfloat16", "float16"};
  nlohmann::ordered_json json, linear;
  const auto optional = [](const auto& id) { return id ? nlohmann::ordered_json(*id) : nlohmann::ordered_json(nullptr); };
  std::vector<int> layers[2];
  for (int l = 0; l < c.layers; ++l) layers[c.is_full(l)].push_back(l + 1);
  json["architectures"] = {"KimiLinearForCausalLM"};
  json["model_type"] = "kimi_linear";
  json["dtype"] = dtypes[static_cast<int>(stored)];
  json["bos_token_id"] = optional(tokens.bos);
  json["eos_token_id"] = tokens.eos.empty() ? nullptr : tokens.eos.size() == 1 ? nlohmann::ordered_json(tokens.eos[0]) : nlohmann::ordered_json(tokens.eos);
  json["pad_token_id"] = optional(tokens.pad);
  json["vocab_size"] = c.vocab;
  json["hidden_size"] = c.hidden;
  json["num_hidden_layers"] = c.layers;
  json["hidden_act"] = "silu";
  json["rms_norm_eps"] = c.norm_eps;
  json["initializer_range"] = c.init_std;
  json["tie_word_embeddings"] = c.tied;
  json["model_max_length"] = c.context;
  json["linear_attn_config"] = {{"full_attn_layers", layers[1]}, {"kda_layers", layers[0]}, {"head_dim", c.key_dim},
                                {"num_heads", c.heads}, {"short_conv_kernel_size", c.conv}};
  json["num_attention_heads"] = json["num_key_value_heads"] = c.full_heads();
  json["kv_lora_rank"] = c.kv_rank;
  json["q_lora_rank"] = c.q_rank ? nlohmann::ordered_json(c.q_rank) : nlohmann::ordered_json(nullptr);
  json["qk_nope_head_dim"] = c.nope_dim;
  json["qk_rope_head_dim"] = c.rope_dim;
  json["v_head_dim"] = c.mla_value_dim;
  json["mla_use_nope"] = c.position == Position::none;
  json["rope_theta"] = c.rope_theta;
  json["rope_scaling"] = nullptr;
  json["first_k_dense_replace"] = c.layers - c.moe_layers();
  json["intermediate_size"] = c.dense_width;
  json["moe_layer_freq"] = 1;
  json["num_experts"] = c.experts;
  json["num_experts_per_token"] = c.experts_per_token;
  json["num_shared_experts"] = c.shared_experts;
  json["moe_intermediate_size"] = c.expert_width;
  json["moe_router_activation_func"] = "sigmoid";
  json["moe_renormalize"] = c.renormalize;
  json["use_grouped_topk"] = true;
  json["num_expert_group"] = c.expert_groups;
  json["topk_group"] = c.groups_per_token;
  json["routed_scaling_factor"] = c.routed_scale;
  json["num_nextn_predict_layers"] = 0;
  nlohmann::ordered_json extra;
  if (c.value_dim != c.key_dim) extra["value_dim"] = c.value_dim;
  if (c.gate_rank) extra["gate_rank"] = c.gate_rank;
  if (c.latent_norm_eps != Config{}.latent_norm_eps) extra["latent_norm_eps"] = c.latent_norm_eps;
  if (c.output_gate != OutputGate::sigmoid) extra["output_gate"] = c.output_gate == OutputGate::none ? "none" : "swish";
  if (!extra.empty()) json["braid"] = extra;
  return json.dump(2) + "\n";
}

}  // namespace braid
