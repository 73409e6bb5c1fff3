// The model as a whole: names and counts, gradients, and the same logits whichever way the tokens are fed.
#include <braid/braid.hpp>
#include <braid/train/trainer.hpp>

#include <allocations.hpp>
#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include <unistd.h>

using namespace braid;

namespace {

constexpr Config tiny = [] {
  Config c;
  c.vocab = 50, c.hidden = 24, c.layers = 5, c.ratio = {3, 1};
  c.heads = 2, c.key_dim = 8, c.value_dim = 12, c.gate_rank = 6, c.chunk = 16;
  c.mla_heads = 3, c.kv_rank = 10, c.nope_dim = 8, c.rope_dim = 4, c.mla_value_dim = 6;
  c.dense_width = 20, c.experts = 6, c.experts_per_token = 2, c.expert_width = 8, c.expert_groups = 3, c.groups_per_token = 2;
  c.init_std = 0.15;
  return c;
}();
constexpr Config tiny64 = [] {
  Config c = tiny;
  c.dtype = DType::f64;
  return c;
}();
constexpr Config tied_dense = [] {
  Config c = tiny64;
  c.tied = true, c.experts = 0, c.order = "MKKMK", c.position = Position::rope, c.q_rank = 9;
  return c;
}();

std::vector<Token> some_tokens(Index n, std::uint64_t which = 1) {
  Random random(seed(which));
  std::vector<Token> tokens(static_cast<std::size_t>(n));
  for (auto& t : tokens) t = static_cast<Token>(random.below(tiny.vocab));
  return tokens;
}

template <class T> double distance(const T* x, const T* y, Index n) {
  double error = 0, norm = 0;
  for (Index i = 0; i < n; ++i) {
    error += std::pow(double(x[i]) - double(y[i]), 2);
    norm += std::pow(double(y[i]), 2);
  }
  return std::sqrt(error / norm);
}

/// Logits of the packed sequences, fed in portions of `portion` tokens of each sequence at a time, through slots in reverse order.
template <class Model> std::vector<typename Model::T> in_portions(cpu::Context& ctx, const Model& model, const std::vector<Token>& tokens,
                                                                  const Batch& whole, Index portion) {
  using T = typename Model::T;
  const Index n = whole.sequences(), vocab = Model::config.vocab;
  auto cache = model.cache(ctx, n + 1, whole.longest());
  std::vector<T> out(static_cast<std::size_t>(whole.tokens() * vocab), std::numeric_limits<T>::quiet_NaN());
  for (Index done = 0; done < whole.longest(); done += portion) {
    std::vector<Index> offsets{0}, slots;
    std::vector<Token> part;
    for (Index s = 0; s < n; ++s) {
      const Index count = std::clamp(whole.length(s) - done, Index{0}, portion);  // sequences that have ended go on empty
      for (Index t = 0; t < count; ++t) part.push_back(tokens[static_cast<std::size_t>(whole.begin(s) + done + t)]);
      offsets.push_back(offsets.back() + count);
      slots.push_back(n - s);
    }
    const Batch batch(offsets, slots);
    Tensor<T, 2> logits(ctx.memory(), batch.tokens(), vocab);
    model.forward(ctx, part, batch, logits.view(), &cache);
    for (Index s = 0; s < n; ++s)
      std::copy_n(logits.row(batch.begin(s)), batch.length(s) * vocab, out.begin() + (whole.begin(s) + done) * vocab);
  }
  return out;
}

template <class Model> void check_feeding(double tolerance) {
  cpu::Context ctx;
  Model model(ctx, seed(3));
  const Batch batch({0, 37, 37, 38, 70});
  const auto tokens = some_tokens(batch.tokens());
  const auto whole = model.forward(ctx, tokens, batch);
  for (Index portion : {1, 2, 3, 16, 17, 64}) {
    CAPTURE(portion);
    const auto parts = in_portions(ctx, model, tokens, batch, portion);
    CHECK(distance(parts.data(), whole.data(), whole.size()) < tolerance);
  }
}

/// The directional derivative of the loss along each parameter's own gradient g is |g|^2.
template <class Model> void check_gradients() {
  cpu::Context ctx;
  Model model(ctx, seed(5));
  const Batch batch({0, 21, 22, 40});
  const auto tokens = some_tokens(40, 1);
  auto targets = some_tokens(40, 2);
  targets[3] = -1;
  model.gradients(ctx, tokens, targets, batch);
  for_each_param(model, [&](const std::string& name, auto& p) {
    if (p.role == Role::balance) return;
    CAPTURE(name);
    const std::vector<double> start(p.value, p.value + p.size()), g(p.grad, p.grad + p.size());
    double norm2 = 0;
    for (double x : g) norm2 += x * x;
    REQUIRE(norm2 > 0);
    // A step h |g| = 3e-6. Queries and keys are normalised and as short as 0.01 before, so third derivatives over the first reach
    // 1/0.01^2 = 1e4 and truncation (3e-6)^2 1e4 = 1e-7; rounding of the loss, 1e-15 / (3e-6 |g|), stays below 1e-8 for |g| > 0.1.
    const double h = 3e-6 / std::sqrt(norm2);
    auto loss_at = [&](double step) {
      for (std::size_t i = 0; i < start.size(); ++i) p.value[i] = start[i] + step * g[i];
      return double(model.loss(ctx, tokens, targets, batch));
    };
    const double slope = (loss_at(h) - loss_at(-h)) / (2 * h);
    loss_at(0);
    CHECK(slope == doctest::Approx(norm2).epsilon(1e-5));
  });
}

}  // namespace

TEST_CASE("parameters have published names and the counts are what visiting finds") {
  cpu::Context ctx;
  CausalLm<tiny> model(ctx);
  Index count = 0;
  std::map<std::string, std::vector<Index>> shapes;
  for_each_param(model, [&](const std::string& name, auto& p) {
    count += p.size();
    CHECK(shapes.emplace(name, p.shape).second);
  });
  CHECK(count == CausalLm<tiny>::parameter_count);
  CHECK(shapes.at("model.embed_tokens.weight") == std::vector<Index>{50, 24});
  CHECK(shapes.at("model.layers.0.mlp.down_proj.weight") == std::vector<Index>{24, 20});
  CHECK(shapes.at("model.layers.1.block_sparse_moe.experts.5.w2.weight") == std::vector<Index>{24, 8});
  CHECK(shapes.at("model.layers.2.self_attn.q_conv1d.weight") == std::vector<Index>{16, 1, 4});
  CHECK(shapes.at("model.layers.2.self_attn.A_log") == std::vector<Index>{1, 1, 2, 1});
  CHECK(shapes.at("model.layers.3.self_attn.kv_a_proj_with_mqa.weight") == std::vector<Index>{14, 24});
  CHECK(shapes.at("model.norm.weight") == std::vector<Index>{24});
  CHECK(shapes.count("lm_head.weight") == 1);

  CausalLm<tied_dense> tied(ctx);
  count = 0;
  for_each_param(tied, [&](const std::string& name, auto& p) {
    count += p.size();
    CHECK(name != "lm_head.weight");
  });
  CHECK(count == CausalLm<tied_dense>::parameter_count);
}

TEST_CASE("every gradient of a whole model agrees with central differences") {
  SUBCASE("hybrid with experts") { check_gradients<CausalLm<tiny64>>(); }
  SUBCASE("tied, dense, irregular order, RoPE, query rank") { check_gradients<CausalLm<tied_dense>>(); }
  SUBCASE("one decay per head") { check_gradients<CausalLm<tiny64, GatedDeltaNet>>(); }
}

TEST_CASE("the same logits whichever way the tokens are fed") {
  // Each way sums the same products in another order: relative differences of a few eps per operation, some 30 operations deep and
  // amplified by the norms and gates by about ten: 300 eps, with eps = 1.2e-7 (float) and 2.2e-16 (double).
  SUBCASE("double") { check_feeding<CausalLm<tiny64>>(300 * 2.2e-16); }
  SUBCASE("float") { check_feeding<CausalLm<tiny>>(300 * 1.2e-7); }
  SUBCASE("double, RoPE, irregular order") { check_feeding<CausalLm<tied_dense>>(300 * 2.2e-16); }
}

TEST_CASE("the same seed gives the same bits; a sequence does not see its neighbours") {
  cpu::Context ctx;
  CausalLm<tiny64> model(ctx, seed(3)), twin(ctx, seed(3)), other(ctx, seed(4));
  const auto tokens = some_tokens(40);
  const auto logits = model.forward(ctx, tokens), again = twin.forward(ctx, tokens), different = other.forward(ctx, tokens);
  CHECK(distance(again.data(), logits.data(), logits.size()) == 0);
  CHECK(distance(different.data(), logits.data(), logits.size()) > 0.1);

  auto packed = some_tokens(60, 9);
  std::copy(tokens.begin(), tokens.end(), packed.begin() + 10);
  const auto batched = model.forward(ctx, packed, Batch({0, 10, 50, 60}));
  CHECK(distance(batched.row(10), logits.data(), logits.size()) < 300 * 2.2e-16);
}

TEST_CASE("a steady step of training and one of decoding allocate nothing") {
  cpu::Context ctx;
  CausalLm<tiny64> model(ctx, seed(3));
  const auto tokens = some_tokens(40), targets = some_tokens(40, 2);
  const Batch batch({0, 21, 22, 40}), step(3, 1);
  auto cache = model.cache(ctx, 3, 40);
  Tensor<double, 2> logits(ctx.memory(), 3, tiny.vocab);
  auto train = [&] { model.gradients(ctx, tokens, targets, batch); };
  auto decode = [&] { model.next_logits(ctx, std::span(tokens).first(3), step, cache, logits.view()); };
  for (int i = 0; i < 2; ++i) train(), decode();  // the arena grows, then its blocks are merged
  const long before = allocations::count;
  train();
  CHECK(allocations::count == before);
  decode();
  CHECK(allocations::count == before);
}

TEST_CASE_TEMPLATE("a steady step of the trainer allocates nothing", Recipe, AdamW, Muon) {
  cpu::Context ctx;
  CausalLm<tiny64> model(ctx, seed(3));
  Trainer trainer(ctx, model, Recipe{}, {.progress = false});
  const TokenBatch data{some_tokens(40), some_tokens(40, 2), Batch({0, 21, 22, 40})};
  for (int i = 0; i < 2; ++i) trainer.step(data, 0.01);
  const long before = allocations::count;
  trainer.step(data, 0.01);
  CHECK(allocations::count == before);
}

TEST_CASE_TEMPLATE("a hybrid that was interrupted and goes on from its checkpoint ends with the same bits", Recipe, AdamW, Muon) {
  const auto folder = std::filesystem::temp_directory_path() / ("braid-hybrid-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  cpu::Context ctx;
  const auto source = [](Index step) {
    const auto which = static_cast<std::uint64_t>(step);
    return TokenBatch{some_tokens(30, which), some_tokens(30, which + 100), Batch({0, 11, 30})};
  };
  const auto train = [&](CausalLm<tiny>& model, Index steps, const char* name) {
    Trainer trainer(ctx, model, Recipe{}, {.steps = steps, .checkpoint = folder / name, .progress = false});
    const bool resumed = trainer.resume();
    trainer.run(source, Wsd{.peak = 0.01, .warmup = 2, .steps = 8, .decay = 3});
    return resumed;
  };
  CausalLm<tiny> whole(ctx, seed(3)), first(ctx, seed(3)), second(ctx, seed(77));  // seed 77: all must come from the file
  CHECK_FALSE(train(whole, 8, "whole"));
  CHECK_FALSE(train(first, 5, "part"));
  CHECK(train(second, 8, "part"));
  bool same = true, moved = false;
  const float *expected = whole.parameters().values(), *found = second.parameters().values(), *before = first.parameters().values();
  for (Index i = 0; i < whole.parameters().size(); ++i) same = same && found[i] == expected[i], moved = moved || found[i] != before[i];
  CHECK(same);
  CHECK(moved);
  std::filesystem::remove_all(folder);
}

TEST_CASE("a slot that was reset is as good as new") {
  cpu::Context ctx;
  CausalLm<tiny64> model(ctx, seed(3));
  const auto tokens = some_tokens(20), others = some_tokens(15, 2);
  auto cache = model.cache(ctx, 1, 40);
  Tensor<double, 2> first(ctx.memory(), 1, tiny.vocab), second(ctx.memory(), 1, tiny.vocab);
  model.next_logits(ctx, tokens, Batch(20), cache, first.view());
  CHECK(cache.length(0) == 20);
  cache.reset(0);
  model.next_logits(ctx, others, Batch(15), cache, second.view());
  cache.reset(0);
  model.next_logits(ctx, tokens, Batch(20), cache, second.view());
  CHECK(distance(second.data(), first.data(), tiny.vocab) == 0);
}

TEST_CASE("bad input is refused with its place, and the cache is left as it was") {
  cpu::Context ctx;
  CausalLm<tiny> model(ctx, seed(3));
  auto tokens = some_tokens(10);
  auto message = [](auto&& f) -> std::string {
    try {
      f();
    } catch (const Error& e) {
      return e.what();
    }
    return {};
  };
  tokens[7] = 50;
  CHECK(message([&] { model.forward(ctx, tokens); }).find("id 50 at position 7") != std::string::npos);
  tokens[7] = -2;
  CHECK(message([&] { model.forward(ctx, tokens); }).find("id -2 at position 7") != std::string::npos);
  tokens[7] = 1;
  CHECK(message([&] { model.forward(ctx, tokens, Batch(9)); }).find("9 tokens") != std::string::npos);
  auto cache = model.cache(ctx, 2, 8);
  Tensor<float, 2> logits(ctx.memory(), 1, tiny.vocab);
  CHECK(message([&] { model.next_logits(ctx, tokens, Batch(10), cache, logits.view()); }).find("at most 8 tokens") != std::string::npos);
  CHECK(message([&] { model.next_logits(ctx, std::span(tokens).first(2), Batch({0, 2}, {2}), cache, logits.view()); }).find("slot below 2") !=
        std::string::npos);
  CHECK(cache.length(0) == 0);
  std::vector<Token> targets(10, 50);
  CHECK(message([&] { model.loss(ctx, tokens, targets, Batch(10)); }).find("target 50") != std::string::npos);
}
