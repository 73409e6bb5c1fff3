#include <braid/cpu/elementwise.hpp>
#include <braid/cpu/gated_norm.hpp>
#include <braid/cpu/linear.hpp>
#include <braid/cpu/linear_attention.hpp>
#include <braid/cpu/short_conv.hpp>
#include <braid/layers/linear_attention.hpp>

#include <cache_check.hpp>
#include <doctest/doctest.h>
#include <gradient_check.hpp>

using namespace braid;

namespace {
constexpr Config tiny = [] {
  Config c;
  c.dtype = DType::f64;
  c.hidden = 10;
  c.heads = 2;
  c.key_dim = 3;
  c.value_dim = 5;
  c.gate_rank = 4;
  c.chunk = 16;
  c.init_std = 0.3;
  return c;
}();
constexpr Config no_conv = [] {
  Config c = tiny;
  c.conv = 0;
  return c;
}();
constexpr Config wide_conv = [] {
  Config c = tiny;
  c.conv = 7;
  return c;
}();
constexpr Config swish_gate = [] {
  Config c = tiny;
  c.output_gate = OutputGate::swish;
  return c;
}();
constexpr Config no_gate = [] {
  Config c = tiny;
  c.output_gate = OutputGate::none;
  return c;
}();
constexpr Config single = [] {
  Config c;
  c.hidden = 24, c.heads = 2, c.key_dim = c.value_dim = 16, c.chunk = 16;
  return c;
}();

/// A gate of the user's own.
struct SquaredGate {
  static constexpr auto decay = Decay::per_channel;
  template <class T> BRAID_FN static T log_decay(T x, T rate, T bias) { return -(rate * (x + bias) * (x + bias)); }
  template <class T> BRAID_FN static GateDerivative<T> derivative(T x, T rate, T bias) {
    const T slope = T(-2) * rate * (x + bias);
    return {slope, -((x + bias) * (x + bias)), slope};
  }
};
template <Config C> using Squared = LinearAttention<C, SquaredGate, DeltaRule>;

template <class Layer> void check(std::vector<Index> offsets) {
  cpu::Context ctx(1);
  Layer layer;
  ParamStorage<double> storage(ctx.memory(), layer);
  initialize(layer, seed(3));
  Index count = 0;
  for_each_param(layer, [&](const std::string&, auto& p) { count += p.size(); });
  CHECK(count == Layer::parameter_count);
  const Batch batch(offsets);
  braid_test::check_layer_gradients(
      ctx, layer, storage, batch.tokens(), tiny.hidden, tiny.hidden,
      [&](View<double, 2> x, View<double, 2> y) { layer.forward(ctx, x, batch, y); },
      [&](View<double, 2> x, View<double, 2> dy, View<double, 2> dx) {
        auto y = ctx.arena.take<double>(batch.tokens(), Index{tiny.hidden});
        auto saved = layer.forward(ctx, x, batch, y);
        layer.backward(ctx, x, batch, saved, dy, dx);
      },
      12);
}

// Chunkwise and token by token differ in the order of sums of about a hundred terms, and the norms that follow may divide by a tenth:
// 100 * 10 * 1.1e-16 = 1e-13, times ten for the layers' products. Float: 6e-8 in place of 1.1e-16.
constexpr double double_tolerance = 1e-12, float_tolerance = 5e-4;

template <Config C, template <Config> class L> braid_test::CacheCheck<L<C>> cached(double tolerance = double_tolerance, int threads = 1) {
  return {C.hidden, tolerance, threads};
}

std::string message(auto&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}
}  // namespace

TEST_CASE("gradients of cells with every kind of gate and parameters") {
  const std::vector<Index> ragged{0, 1, 1, 20, 23};
  SUBCASE("KDA") { check<Kda<tiny>>(ragged); }
  SUBCASE("a gate of one's own") { check<Squared<tiny>>(ragged); }
  SUBCASE("Gated DeltaNet") { check<GatedDeltaNet<tiny>>(ragged); }
  SUBCASE("Mamba-2") { check<Mamba2<tiny>>(ragged); }
  SUBCASE("linear attention") { check<PlainLinearAttention<tiny>>(ragged); }
}

TEST_CASE("gradients of every option") {
  SUBCASE("token by token") { check<Kda<tiny>>({0, 3, 5}); }
  SUBCASE("chunk borders") { check<Kda<tiny>>({0, 15, 31, 48}); }
  SUBCASE("no convolution") { check<Kda<no_conv>>({0, 5, 20}); }
  SUBCASE("wide convolution") { check<Kda<wide_conv>>({0, 5, 20}); }
  SUBCASE("swish output gate") { check<Kda<swish_gate>>({0, 5, 20}); }
  SUBCASE("no output gate") { check<Kda<no_gate>>({0, 5, 20}); }
}

TEST_CASE("names are the published ones") {
  auto names = [](auto layer) {
    std::string all;
    for_each_param(layer, [&](const std::string& name, auto&) { all += name + " "; });
    return all;
  };
  CHECK(names(Kda<tiny>()) ==
        "q_proj.weight k_proj.weight v_proj.weight q_conv1d.weight k_conv1d.weight v_conv1d.weight f_a_proj.weight f_b_proj.weight A_log "
        "dt_bias b_proj.weight g_a_proj.weight g_b_proj.weight o_norm.weight o_proj.weight ");
  CHECK(names(Mamba2<no_gate>()) == "q_proj.weight k_proj.weight v_proj.weight q_conv1d.weight k_conv1d.weight v_conv1d.weight "
                                    "a_proj.weight A_log dt_bias o_norm.weight o_proj.weight ");
  CHECK(Kda<tiny>().A_log.shape == std::vector<Index>{1, 1, 2, 1});
  CHECK(Kda<tiny>().q_conv.shape == std::vector<Index>{6, 1, 4});
}

TEST_CASE("the same outputs however the tokens are fed") {
  SUBCASE("KDA") { cached<tiny, Kda>().every_split(37); }
  SUBCASE("no convolution") { cached<no_conv, Kda>().every_split(37); }
  SUBCASE("wide convolution") { cached<wide_conv, Kda>().every_split(37); }
  SUBCASE("Gated DeltaNet") { cached<tiny, GatedDeltaNet>().every_split(37); }
  SUBCASE("Mamba-2") { cached<tiny, Mamba2>().every_split(37); }
  SUBCASE("float") { cached<single, Kda>(float_tolerance).every_split(37); }
  SUBCASE("mixed batches") { cached<tiny, Kda>(double_tolerance, 2).mixed_batches(); }
  SUBCASE("mixed batches, wide convolution") { cached<wide_conv, Kda>().mixed_batches(); }
}

TEST_CASE("slots that a batch does not name stay as they are, to the bit") {
  auto check = cached<tiny, Kda>();
  Kda<tiny>::Cache cache(check.ctx.memory(), 4, 0);
  CHECK(cache.bytes() == 4 * Kda<tiny>::Cache::bytes_per_slot());
  check.run(check.input(8, 1), Batch({0, 2, 4, 6, 8}), &cache);
  auto slot = [&](Index s) {
    std::vector<double> all(cache.state.row(s), cache.state.row(s) + 2 * 3 * 5);
    all.insert(all.end(), cache.q_tail.row(s), cache.q_tail.row(s) + 3 * 6);
    all.insert(all.end(), cache.v_tail.row(s), cache.v_tail.row(s) + 3 * 10);
    return all;
  };
  const auto one = slot(1), three = slot(3);
  check.run(check.input(20, 2), Batch({0, 18, 20}, {2, 0}), &cache);
  CHECK(slot(1) == one);
  CHECK(slot(3) == three);
  check.run({}, Batch({0, 0, 0}, {1, 3}), &cache);  // empty sequences
  CHECK(slot(1) == one);
  CHECK(slot(3) == three);
  cache.reset(1);
  CHECK(slot(1) == std::vector<double>(one.size(), 0.0));
  CHECK(message([&] { check.run(check.input(1, 1), Batch({0, 1}, {4}), &cache); }).find("a slot below 4") != std::string::npos);
  CHECK(message([&] { cache.reset(4); }).find("a slot below 4") != std::string::npos);
  CHECK(message([&] { check.run(check.input(2, 1), Batch(3)); }).empty() == false);
}
