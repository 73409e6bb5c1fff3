#include <braid/cpu/elementwise.hpp>
#include <braid/cpu/gated_norm.hpp>
#include <braid/cpu/linear.hpp>
#include <braid/cpu/linear_attention.hpp>
#include <braid/cpu/short_conv.hpp>
#include <braid/layers/linear_attention.hpp>

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

template <class Layer> void check(std::vector<Index> offsets) {
  cpu::Context ctx;
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
      }, 12);
}
}  // namespace

TEST_CASE("gradients of the layer, every cell of the algebra") {
  const std::vector<Index> offsets{0, 1, 1, 20, 23};
  SUBCASE("kda") { check<Kda<tiny>>(offsets); }
  SUBCASE("short sequences") { check<Kda<tiny>>({0, 3, 5}); }
  SUBCASE("gated delta net") { check<GatedDeltaNet<tiny>>(offsets); }
}
