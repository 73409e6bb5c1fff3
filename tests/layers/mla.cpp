#include <braid/cpu/attention.hpp>
#include <braid/cpu/latent_attention.hpp>
#include <braid/cpu/linear.hpp>
#include <braid/cpu/rms_norm.hpp>
#include <braid/cpu/rope.hpp>
#include <braid/layers/mla.hpp>

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
  c.kv_rank = 6;
  c.nope_dim = 4;
  c.rope_dim = 2;
  c.mla_value_dim = 5;
  c.init_std = 0.3;
  return c;
}();
constexpr Config turned = [] {
  Config c = tiny;
  c.position = Position::rope;
  c.rope_dim = 4;
  c.q_rank = 5;
  return c;
}();
constexpr Config unshared = [] {
  Config c = tiny;
  c.rope_dim = 0;
  c.mla_heads = 3;
  return c;
}();
constexpr Config single = [] {
  Config c = turned;
  c.dtype = DType::f32;
  c.hidden = 24;
  c.heads = 4;
  c.kv_rank = 16;
  c.nope_dim = 16;
  c.mla_value_dim = 16;
  return c;
}();

template <Config C> void check(std::vector<Index> offsets) {
  cpu::Context ctx(1);
  Mla<C> layer;
  ParamStorage<double> storage(ctx.memory(), layer);
  initialize(layer, seed(3));
  Index count = 0;
  for_each_param(layer, [&](const std::string&, auto& p) { count += p.size(); });
  CHECK(count == Mla<C>::parameter_count);
  const Batch batch(offsets);
  braid_test::check_layer_gradients(
      ctx, layer, storage, batch.tokens(), C.hidden, C.hidden,
      [&](View<double, 2> x, View<double, 2> y) { layer.forward(ctx, x, batch, y); },
      [&](View<double, 2> x, View<double, 2> dy, View<double, 2> dx) {
        auto y = ctx.arena.take<double>(batch.tokens(), Index{C.hidden});
        auto saved = layer.forward(ctx, x, batch, y);
        layer.backward(ctx, x, batch, saved, dy, dx);
      });
}

// The two forms add the same products in another order: sums of up to a thousand terms of like size, each step off by 1.1e-16 of the
// partial sum: 1e-13 of the largest output, ten times that through the exponential of scores up to 10. Float: 6e-8 in place of 1.1e-16.
constexpr double double_tolerance = 1e-12, float_tolerance = 5e-4;

std::string message(auto&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return {};
}
}  // namespace

TEST_CASE("gradients of the layer") {
  const std::vector<Index> ragged{0, 1, 1, 20, 23};
  SUBCASE("no position") { check<tiny>(ragged); }
  SUBCASE("rope, query rank") { check<turned>(ragged); }
  SUBCASE("no shared part, heads of its own") { check<unshared>(ragged); }
  SUBCASE("several blocks") { check<turned>({0, 150}); }
  SUBCASE("block borders") { check<tiny>({0, 63, 127, 192}); }
}

TEST_CASE("names are the published ones") {
  auto names = [](auto layer) {
    std::string all;
    for_each_param(layer, [&](const std::string& name, auto&) { all += name + " "; });
    return all;
  };
  CHECK(names(Mla<tiny>()) == "q_proj.weight kv_a_proj_with_mqa.weight kv_a_layernorm.weight kv_b_proj.weight o_proj.weight ");
  CHECK(names(Mla<turned>()) == "q_a_proj.weight q_a_layernorm.weight q_b_proj.weight kv_a_proj_with_mqa.weight kv_a_layernorm.weight "
                                "kv_b_proj.weight o_proj.weight ");
}

TEST_CASE("the same outputs however the tokens are fed") {
  SUBCASE("no position") { braid_test::CacheCheck<Mla<tiny>>(10, double_tolerance).every_split(23); }
  SUBCASE("rope, query rank") { braid_test::CacheCheck<Mla<turned>>(10, double_tolerance).every_split(23); }
  SUBCASE("no shared part") { braid_test::CacheCheck<Mla<unshared>>(10, double_tolerance).every_split(23); }
  SUBCASE("float") { braid_test::CacheCheck<Mla<single>>(24, float_tolerance).every_split(23); }
  SUBCASE("mixed batches") { braid_test::CacheCheck<Mla<turned>>(10, double_tolerance, 2).mixed_batches(); }
  SUBCASE("long, over the borders of tiles and splits") {
    braid_test::CacheCheck<Mla<turned>> check(10, double_tolerance);
    const auto x = check.input(1100, 7), whole = check.run(x, Batch(1100));
    check.same(check.in_pieces(x, {300, 511, 512, 513, 600, 631, 663, 1023, 1024, 1025, 1099, 1100}), whole, "pieces");
  }
}

TEST_CASE("rope: scores depend on the distance alone, and angles are interleaved pairs") {
  cpu::Context ctx(1);
  double q[4] = {1, 2, 3, 4};
  const Index start[1] = {3};
  cpu::rope<double>(ctx, View<double, 3>(q, 1, 1, 4), 0, 100.0, Batch(1), start);
  CHECK(q[0] == doctest::Approx(std::cos(3.0) - 2 * std::sin(3.0)));
  CHECK(q[1] == doctest::Approx(std::sin(3.0) + 2 * std::cos(3.0)));
  CHECK(q[2] == doctest::Approx(3 * std::cos(0.3) - 4 * std::sin(0.3)));  // 100^(-2/4) = 0.1
  CHECK(q[3] == doctest::Approx(3 * std::sin(0.3) + 4 * std::cos(0.3)));
}

TEST_CASE("the cache says how large it is and refuses what does not fit") {
  braid_test::CacheCheck<Mla<tiny>> check(10, double_tolerance);
  Mla<tiny>::Cache cache(check.ctx.memory(), 2, 6);
  CHECK(cache.bytes() == 2 * Mla<tiny>::Cache::bytes_per_slot(6));
  CHECK(Mla<tiny>::Cache::bytes_per_slot(6) == 6 * 8 * sizeof(double));
  const auto x = check.input(5, 1);
  check.run(x, Batch({0, 5}, {1}), &cache);
  CHECK(message([&] { check.run(check.input(2, 1), Batch({0, 2}, {1}), &cache); }) ==
        "Mla: cache: expected at most 6 tokens in slot 1, found 5 cached and 2 new");
  CHECK(cache.lengths()[1] == 5);
  CHECK(message([&] { check.run(x, Batch({0, 5}, {2}), &cache); }).find("a slot below 2") != std::string::npos);
  CHECK(message([&] { cache.reset(2); }).find("a slot below 2") != std::string::npos);
  check.run(check.input(1, 1), Batch({0, 1}, {1}), &cache);  // what fits still does
}

TEST_CASE("large scores neither overflow nor lose the maximum") {
  cpu::Context ctx(1);
  constexpr Index n = 130;
  auto q = ctx.arena.take<float>(n, Index{1}, Index{2}), o = ctx.arena.take<float>(n, Index{1}, Index{1});
  auto kv = ctx.arena.take<float>(n, Index{1}, Index{3});
  auto shared = ctx.arena.take<float>(n, Index{0});
  for (Index t = 0; t < n; ++t) {
    q(t, 0, 0) = 1e4f, q(t, 0, 1) = 0;
    kv(t, 0, 0) = static_cast<float>(t), kv(t, 0, 1) = 0, kv(t, 0, 2) = static_cast<float>(t);
    o(t, 0, 0) = std::nanf("");
  }
  cpu::attention<float>(ctx, q, kv, shared, Batch(n), 1, o);
  for (Index t = 0; t < n; ++t) CHECK(o(t, 0, 0) == doctest::Approx(double(t)));  // the last key wins by 1e4
}
