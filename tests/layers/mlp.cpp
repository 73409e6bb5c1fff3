#include <braid/cpu/linear.hpp>
#include <braid/cpu/swiglu.hpp>
#include <braid/layers/mlp.hpp>
#include <doctest/doctest.h>
#include <finite_difference.hpp>
#include <fixtures.hpp>

using namespace braid;

TEST_CASE("gradients of a SwiGLU, odd sizes") {
  cpu::Context ctx;
  for (Index tokens : {1, 6}) {
    SwiGlu<double> mlp(5, 7, 0.5);
    ParamStorage<double> storage(ctx.memory(), mlp);
    storage.allocate_gradients(mlp);
    initialize(mlp, seed(3));
    auto x = fixtures::normal<double>(1, 1, tokens, 5), dy = fixtures::normal<double>(2, 1, tokens, 5);
    auto y = fixtures::poison<double>(tokens, 5), dx = fixtures::poison<double>(tokens, 5);
    auto loss = [&] {
      auto scope = ctx.arena.scope();
      mlp.forward(ctx, x, y);
      return finite_difference::dot(y, dy);
    };
    auto scope = ctx.arena.scope();
    const auto saved = mlp.forward(ctx, x, y);
    mlp.backward(ctx, x, saved, dy, dx);
    finite_difference::check("x", x.data(), dx.data(), x.size(), loss);
    finite_difference::check_parameters(mlp, loss);
  }
}

TEST_CASE("names, shapes and count") {
  cpu::Context ctx;
  SwiGlu<float> mlp(6, 10);
  std::string names;
  Index count = 0;
  for_each_param(mlp, [&](const std::string& name, Param<float>& p) {
    names += std::string(detail::text(name, " ", p.shape[0], "x", p.shape[1], "; "));
    count += p.size();
  }, "mlp.");
  CHECK(names == "mlp.gate_proj.weight 10x6; mlp.up_proj.weight 10x6; mlp.down_proj.weight 6x10; ");
  CHECK(count == SwiGlu<float>::parameters(6, 10));
  CHECK(mlp.hidden() == 6);
  CHECK(mlp.width() == 10);
}

TEST_CASE("no tokens") {
  cpu::Context ctx;
  SwiGlu<float> mlp(6, 10);
  ParamStorage<float> storage(ctx.memory(), mlp);
  storage.allocate_gradients(mlp);
  Tensor<float, 2> none(ctx.memory(), 0, 6), out(ctx.memory(), 0, 6);
  const auto saved = mlp.forward(ctx, none, out);
  mlp.backward(ctx, none, saved, none, out);
  for (Index i = 0; i < storage.size(); ++i) CHECK(storage.grads()[i] == 0);
}
