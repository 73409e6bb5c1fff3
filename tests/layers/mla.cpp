#include <braid/cpu/attention.hpp>
#include <braid/cpu/latent_attention.hpp>
#include <braid/cpu/linear.hpp>
#include <braid/cpu/rms_norm.hpp>
#include <braid/cpu/rope.hpp>
#include <braid/layers/mla.hpp>

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

template <Config C> void check(std::vector<Index> offsets) {
  cpu::Context ctx;
  Mla<C> layer;
  ParamStorage<double> storage(ctx.memory(), layer);
  initialize(layer, seed(3));
  Index count = 0;
  for_each_param(layer, [&](const std::string&, auto& p) { count += p.size(); });
  CHECK(count == Mla<C>::parameter_count);
  const Batch batch(offsets);
  braid_test::check_layer_gradients(
      ctx, layer, storage, batch.tokens(), tiny.hidden, tiny.hidden,
      [&](View<double, 2> x, View<double, 2> y) { layer.forward(ctx, x, batch, y); },
      [&](View<double, 2> x, View<double, 2> dy, View<double, 2> dx) {
        auto y = ctx.arena.take<double>(batch.tokens(), Index{tiny.hidden});
        auto saved = layer.forward(ctx, x, batch, y);
        layer.backward(ctx, x, batch, saved, dy, dx);
      });
}
}  // namespace

TEST_CASE("gradients of the layer") {
  SUBCASE("no position") { check<tiny>({0, 1, 1, 20, 23}); }
  SUBCASE("rope, query rank") { check<turned>({0, 1, 1, 20, 23}); }
  SUBCASE("several blocks") { check<turned>({0, 150}); }
}
