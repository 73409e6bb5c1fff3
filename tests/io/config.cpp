// config.json: both forms, back again, and everything that must be refused.
#include <braid/io/config_json.hpp>
#include <braid/models/config.hpp>

#include <io/folder.hpp>

#include <doctest/doctest.h>

using namespace braid;
using namespace braid::test;
using io::Json;

namespace {
/// config.json of the published model, as far as its fields matter.
Json published() {
  return Json::parse(R"({
    "architectures": ["KimiLinearForCausalLM"], "model_type": "kimi_linear", "dtype": "bfloat16",
    "bos_token_id": 163584, "eos_token_id": 163586, "pad_token_id": 163839, "first_k_dense_replace": 1, "head_dim": 72,
    "hidden_act": "silu", "hidden_size": 2304, "initializer_range": 0.02, "intermediate_size": 9216, "kv_lora_rank": 512,
    "linear_attn_config": {"full_attn_layers": [4, 8, 12, 16, 20, 24, 27],
      "kda_layers": [1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15, 17, 18, 19, 21, 22, 23, 25, 26],
      "head_dim": 128, "num_heads": 32, "short_conv_kernel_size": 4},
    "mla_use_nope": true, "model_max_length": 1048576, "moe_intermediate_size": 1024, "moe_layer_freq": 1, "moe_renormalize": true,
    "moe_router_activation_func": "sigmoid", "num_attention_heads": 32, "num_expert_group": 1, "num_experts": 256,
    "num_experts_per_token": 8, "num_hidden_layers": 27, "num_key_value_heads": 32, "num_nextn_predict_layers": 0,
    "num_shared_experts": 1, "q_lora_rank": null, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-05,
    "rope_scaling": null, "rope_theta": 10000.0, "routed_scaling_factor": 2.446, "tie_word_embeddings": false, "topk_group": 1,
    "use_cache": true, "use_grouped_topk": true, "v_head_dim": 128, "vocab_size": 163840})");
}

/// The same model as transformers writes it.
Json transformers() {
  Json json = published();
  std::vector<std::string> layers, mlps;
  for (int l = 0; l < 27; ++l) {
    layers.push_back(l % 4 == 3 || l == 26 ? "full_attention" : "linear_attention");
    mlps.push_back(l ? "sparse" : "dense");
  }
  for (const char* name : {"linear_attn_config", "first_k_dense_replace", "mla_use_nope", "moe_layer_freq", "num_experts", "num_experts_per_token",
                           "num_shared_experts", "num_expert_group", "moe_renormalize", "use_grouped_topk"})
    json.erase(name);
  json.update(Json{{"layer_types", layers}, {"mlp_layer_types", mlps}, {"linear_head_dim", 128}, {"linear_num_heads", 32},
                   {"linear_conv_kernel_dim", 4}, {"num_local_experts", 256}, {"num_experts_per_tok", 8}, {"n_shared_experts", 1},
                   {"n_group", 1}, {"norm_topk_prob", true}});
  return json;
}

Config parse(const Json& json) { return config_from_json(json.dump()); }
std::string differences(const Config& a, const Config& b) {
  std::string out;
  for (const auto& d : config_differences(a, b)) out += d.field + " " + d.first + " " + d.second + "\n";
  return out;
}
}  // namespace

TEST_CASE("both forms of the published config are the preset") {
  CHECK(parse(published()) == Config{});
  CHECK(parse(transformers()) == Config{});
  Json both = published();
  both.update(transformers());
  CHECK(parse(both) == Config{});
}

TEST_CASE("a Config survives being written as JSON") {
  const auto round = [](const Config& c) { return config_from_json(config_to_json(c)); };
  CHECK(round(Config{}) == Config{});
  Config c;
  c.vocab = 100;
  c.hidden = 24;
  c.layers = 6;
  c.order = "KMKMMK";
  c.norm_eps = 3e-6;
  c.latent_norm_eps = 1e-5;
  c.tied = true;
  c.heads = 3;
  c.mla_heads = 2;
  c.key_dim = 8;
  c.value_dim = 12;
  c.conv = 0;
  c.gate_rank = 5;
  c.output_gate = OutputGate::swish;
  c.q_rank = 7;
  c.position = Position::rope;
  c.rope_theta = 5e5;
  c.dense_layers = 2;
  c.experts = 12;
  c.experts_per_token = 3;
  c.shared_experts = 0;
  c.expert_groups = 4;
  c.groups_per_token = 2;
  c.routed_scale = 1.0 / 3;
  c.renormalize = false;
  CHECK(round(c) == c);
  for (const char* order : {"MMMMMM", "KKKKKK"}) {
    c.order = order;
    CHECK_EQ(differences(round(c), c), "");
  }
  c.experts = 0;
  CHECK_EQ(differences(round(c), c), "");
  c.ratio = {1, 1};
  c.order = {};
  CHECK_EQ(differences(round(c), c), "");
}

TEST_CASE("differences name each field, and only those that matter") {
  Config a, b;
  b.hidden = 64;
  b.experts = 8;
  b.position = Position::rope;
  b.ratio = {0, 1};
  b.dtype = DType::f64;
  b.chunk = 16;
  b.context = 1;
  b.mla_heads = 32;    // the default, said aloud
  b.gate_rank = 128;   // likewise
  const std::string text = differences(a, b);
  CHECK(has(text, "hidden 2304 64\n"));
  CHECK(has(text, "experts 256 8\n"));
  CHECK(has(text, "position braid::Position::none braid::Position::rope\n"));
  CHECK(has(text, "order KKKM"));
  for (const char* name : {"dtype", "chunk", "context", "mla_heads", "gate_rank", "expert_width"}) CHECK_FALSE(has(text, name));

  Folder folder("config");
  write_file(folder / "config.json", config_to_json(b));
  const std::string error = error_of([&] { check_config_matches(a, folder.path); });
  CHECK(has(error, "hidden = 2304"));
  CHECK(has(error, "hidden = 64"));
  CHECK(has(error, "experts = 8"));
  CHECK_EQ(error_of([&] { check_config_matches(b, folder.path); }), "");
  CHECK(has(error_of([&] { check_config_matches(b, folder / "none"); }), "No such file"));
}

TEST_CASE("special tokens") {
  Folder folder("config-tokens");
  write_file(folder / "config.json", config_to_json(Config{}, {1, 0, {2, 3}}));
  SpecialTokens tokens = read_special_tokens(folder.path);
  CHECK_EQ(tokens.bos, 1);
  CHECK_EQ(tokens.pad, 0);
  CHECK_EQ(tokens.eos, std::vector<Token>{2, 3});
  write_file(folder / "config.json", published().dump());
  CHECK_EQ(read_special_tokens(folder.path).eos, std::vector<Token>{163586});
  write_file(folder / "config.json", "{\"eos_token_id\": [-1]}");
  CHECK(has(error_of([&] { read_special_tokens(folder.path); }), "eos_token_id"));
}

TEST_CASE("configs that must be refused") {
  const auto error = [](const char* field, const Json& value, bool other_form = false) {
    Json json = other_form ? transformers() : published();
    json[field] = value;
    return error_of([&] { parse(json); });
  };
  CHECK(has(error("model_type", "llama"), "a model of type kimi_linear, found llama"));
  CHECK(has(error("model_type", nullptr), "no model_type"));
  for (const Json& bad : {Json(0), Json(-5), Json(1.5), Json("64"), Json(nullptr), Json(4e9), Json(18446744073709551615u), Json::array()})
    CHECK(has(error("hidden_size", bad), "hidden_size"));
  CHECK(has(error("rms_norm_eps", 0), "finite number > 0"));
  CHECK(has(error("rms_norm_eps", "x"), "finite number > 0"));
  CHECK(has(error("hidden_act", "gelu"), "all that is supported"));
  CHECK(has(error("attention_bias", true), "all that is supported"));
  CHECK(has(error("quantization_config", Json::object()), "all that is supported"));
  CHECK(has(error("num_nextn_predict_layers", 1), "all that is supported"));
  CHECK(has(error("moe_router_activation_func", "softmax"), "all that is supported"));
  CHECK(has(error("moe_layer_freq", 2), "all that is supported"));
  CHECK(has(error("num_key_value_heads", 8), "number of attention heads"));
  CHECK(has(error("num_hidden_layers", 28), "layer 28 in none"));
  CHECK(has(error("num_hidden_layers", 26), "layers from 1 to 26"));
  CHECK(has(error("num_hidden_layers", 129), "at most 128"));
  CHECK(has(error("num_local_experts", 128), "as said elsewhere"));
  CHECK(has(error("num_experts_per_token", 257), "no more than the experts"));
  CHECK(has(error("num_expert_group", 3), "divisor"));
  CHECK(has(error("topk_group", 2), "divisor"));
  CHECK(has(error("linear_attn_config", nullptr), "neither"));
  CHECK(has(error("linear_attn_config", 3), "an object"));
  CHECK(has(error("layer_types", Json::array({"full_attention"}), true), "27 entries"));
  CHECK(has(error("layer_types", std::vector<std::string>(27, "mamba"), true), "mamba"));
  CHECK(has(error("layer_types", std::vector<std::string>(27, "full_attention")), "as said elsewhere"));
  CHECK(has(error("first_k_dense_replace", 2, true), "2 dense layers"));
  CHECK(has(error("linear_num_heads", 3), "as said elsewhere"));
  CHECK(has(error("braid", Json{{"output_gate", "tanh"}}), "sigmoid, swish or none"));
  CHECK(has(error("braid", Json{{"value_dim", 0}}), "value_dim"));
  CHECK(has(error("vocab_size", 2147483647), ""));  // fine alone
  Json huge = published();
  for (const char* field : {"vocab_size", "hidden_size", "moe_intermediate_size", "num_experts"}) huge[field] = 2147483647;
  CHECK(has(error_of([&] { parse(huge); }), "2^62"));
  Json twice = published();
  twice["linear_attn_config"]["kda_layers"].push_back(4);
  CHECK(has(error_of([&] { parse(twice); }), "layer 4 twice"));
  twice = transformers();
  twice["mlp_layer_types"][5] = "dense";
  CHECK(has(error_of([&] { parse(twice); }), "dense layers before all others"));
  CHECK(has(error_of([&] { config_from_json("{"); }), "valid JSON"));
  CHECK(has(error_of([&] { config_from_json("[1]"); }), "a JSON object"));
  CHECK(has(error_of([&] { config_from_json("{\"a\":1,\"a\":2}"); }), "twice"));
}

TEST_CASE("counts of the published model") {
  const auto counts = count_parameters(Config{});
  CHECK_EQ(counts.total, count_parameters<double>(Config{}).total);
  CHECK_EQ(static_cast<double>(counts.total), doctest::Approx(49.1e9).epsilon(0.002));    // published: about 49.1 B
  CHECK_EQ(static_cast<double>(counts.activated), doctest::Approx(3e9).epsilon(0.04));  // published: about 3 B
  // 20 states of 2 MiB, tails of 3 taps; 576 latents per token in each of 7 layers, 2 bytes each: 8064 bytes per token.
  const CacheBytes cache = count_cache_bytes(Config{}, 1000, 2);
  CHECK_EQ(cache.state, 20 * (2 * 1048576 + 3 * 3 * 4096 * 2));
  CHECK_EQ(cache.latents, 8064 * 1000);
  CHECK_EQ(count_cache_bytes(all_full_attention(Config{}), 1000, 2).total(), 27 * 576 * 2 * 1000);
}

TEST_CASE("a header says the whole Config") {
  Config c;
  c.layers = 3;
  c.order = "KMK";
  c.routed_scale = 0.1;
  const std::string text = config_header(c, "tiny");
  CHECK(has(text, "namespace tiny {"));
  CHECK(has(text, "  c.layers = 3;\n"));
  CHECK(has(text, "  c.order = \"KMK\";\n"));
  CHECK(has(text, "  c.routed_scale = 0.1;\n"));
  CHECK(has(text, "  c.dtype = braid::DType::f32;\n"));
  CHECK(has(config_header(Config{}, "big"), "  c.ratio = {3, 1};\n"));
  for (const char* name : {"", "3x", "a-b", "a b"}) CHECK(has(error_of([&] { config_header(c, name); }), "identifier"));
  // Every field is printed: changing any one changes the text.
  for_each_config_field([&](const char* field, auto member) {
    Config other = c;
    using V = std::remove_reference_t<decltype(other.*member)>;
if constexpr (std::is_same_v<V, bool> || std::is_enum_v<V>) other.*member = static_cast<V>(!static_cast<bool>(other.*member));
    else other.*member += 1;
    INFO(field);
    CHECK_NE(config_header(other, "tiny"), text);
  });
}
