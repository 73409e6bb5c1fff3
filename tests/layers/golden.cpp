// Whole blocks against the hidden states of a published-format checkpoint, from an independent implementation in float32.
#include <braid/cpu/attention.hpp>
#include <braid/cpu/elementwise.hpp>
#include <braid/cpu/gated_norm.hpp>
#include <braid/cpu/latent_attention.hpp>
#include <braid/cpu/linear.hpp>
#include <braid/cpu/linear_attention.hpp>
#include <braid/cpu/moe.hpp>
#include <braid/cpu/rms_norm.hpp>
#include <braid/cpu/short_conv.hpp>
#include <braid/cpu/swiglu.hpp>
#include <braid/io/safetensors.hpp>
#include <braid/layers/linear_attention.hpp>
#include <braid/layers/mla.hpp>
#include <braid/layers/mlp.hpp>
#include <braid/layers/moe.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>

using namespace braid;

namespace {
constexpr Config four = [] {
  Config c;
  c.vocab = 256, c.hidden = 64, c.layers = 4, c.heads = 4, c.key_dim = c.value_dim = 16, c.chunk = 16;
  c.kv_rank = 32, c.nope_dim = 16, c.rope_dim = 8, c.mla_value_dim = 16;
  c.dense_width = 160, c.experts = 8, c.experts_per_token = 2, c.expert_width = 48;
  return c;
}();
constexpr Config grouped = [] {
  Config c;
  c.vocab = 200, c.hidden = 64, c.layers = 5, c.heads = 2, c.key_dim = c.value_dim = 32, c.chunk = 32;
  c.kv_rank = 32, c.q_rank = 40, c.nope_dim = 24, c.rope_dim = 8, c.mla_value_dim = 32;
  return c;
}();

const std::filesystem::path folder = BRAID_GOLDEN;

template <class Layer> ParamStorage<float> load(cpu::Context& ctx, Layer& layer, const io::SafetensorsFile& file, const std::string& prefix) {
  ParamStorage<float> storage(ctx.memory(), layer);
  for_each_param(layer, [&](const std::string& name, Param<float>& p) { file.read(prefix + name, p.value, p.size()); });
  return storage;
}

/// Relative distance of block `l` applied to hidden.l from hidden.(l + 1).
template <class Mixer, class Ffn> double block_error(const char* model, int l, Mixer mixer, Ffn ffn, const char* ffn_name, Index hidden, Index length) {
  cpu::Context ctx;
  const io::SafetensorsFile weights(folder / model / "model.safetensors"), expected(folder / model / "expected.safetensors");
  const std::string prefix = "model.layers." + std::to_string(l) + ".";
  RmsNorm<float> before(hidden, 1e-5), after(hidden, 1e-5);
  const auto s1 = load(ctx, before, weights, prefix + "input_layernorm."), s2 = load(ctx, after, weights, prefix + "post_attention_layernorm.");
  const auto s3 = load(ctx, mixer, weights, prefix + "self_attn."), s4 = load(ctx, ffn, weights, prefix + ffn_name + ".");
  auto x = expected.read<float>("hidden." + std::to_string(l)), want = expected.read<float>("hidden." + std::to_string(l + 1));
  const Batch batch(2, length);
  const View<float, 2> in(x.data(), batch.tokens(), hidden);
  auto scope = ctx.arena.scope();
  auto normed = ctx.arena.take<float>(in.rows(), hidden), mid = ctx.arena.take<float>(in.rows(), hidden);
  before.forward(ctx, in, normed);
  mixer.forward(ctx, normed, batch, mid);
  add<float, 2>(ctx, in, mid);
  after.forward(ctx, mid, normed);
  ffn.forward(ctx, normed, in);
  add<float, 2>(ctx, mid, in);
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < x.size(); ++i) error += std::pow(x[i] - want[i], 2), norm += std::pow(want[i], 2);
  return std::sqrt(error / norm);
}
}  // namespace

// Both sides are float32: a few hundred roundings of 6e-8 relative to the largest terms, that is about 1e-6.
TEST_CASE("blocks of the golden models") {
  if (!std::filesystem::exists(folder)) {
    MESSAGE("SKIPPED: no golden data at ", folder.string());
    return;
  }
  CHECK(block_error("model-4layer", 0, Kda<four>(), SwiGlu<float>(64, 160), "mlp", 64, 45) < 3e-6);
  CHECK(block_error("model-4layer", 1, Kda<four>(), Moe<four>(), "block_sparse_moe", 64, 45) < 3e-6);
  CHECK(block_error("model-grouped", 0, Kda<grouped>(), SwiGlu<float>(64, 128), "block_sparse_moe", 64, 33) < 3e-6);
  CHECK(block_error("model-grouped", 1, Mla<grouped>(), SwiGlu<float>(64, 128), "block_sparse_moe", 64, 33) < 3e-6);
  CHECK(block_error("model-4layer", 2, Kda<four>(), Moe<four>(), "block_sparse_moe", 64, 45) < 3e-6);
}
