#include <braid/cpu/cross_entropy.hpp>
#include <braid/cpu/embedding.hpp>
#include <braid/layers/embedding.hpp>
#include <doctest/doctest.h>
#include <finite_difference.hpp>
#include <fixtures.hpp>

#include <vector>

using namespace braid;

TEST_CASE("a tied embedding and head: both gradients meet in one table") {
  cpu::Context ctx;
  Embedding<double> table(9, 5, 0.5);
  ParamStorage<double> storage(ctx.memory(), table);
  storage.allocate_gradients(table);
  initialize(table, seed(1));
  const std::vector<Token> tokens{8, 2, 2, 0, 5}, targets{2, 2, ignored_target, 5, 1};
  auto x = fixtures::poison<double>(5, 5), dx = fixtures::poison<double>(5, 5), logits = fixtures::poison<double>(5, 9);
  auto loss = [&] { return table.forward(ctx, tokens, x), double(table.loss(ctx, x, targets)); };
  const double whole = loss();
  CHECK(double(table.loss_backward(ctx, x, targets, dx)) == whole);
  table.backward(ctx, tokens, dx);
  finite_difference::check_parameters(table, loss);

  loss();  // x as it was
  table.logits(ctx, x, logits);
  CHECK(double(cpu::cross_entropy<double>(ctx, logits, targets)) == doctest::Approx(whole).epsilon(1e-14));
  CHECK_THROWS_AS(table.forward(ctx, std::vector<Token>{9}, logits.view()), Error);
}
