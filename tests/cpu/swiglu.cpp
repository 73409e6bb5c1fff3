#include <braid/cpu/swiglu.hpp>
#include <doctest/doctest.h>
#include <finite_difference.hpp>
#include <fixtures.hpp>

using namespace braid;

namespace {
double silu(double x) { return x / (1 + std::exp(-x)); }

template <class T> void check_values(int threads) {
  cpu::Context ctx(threads);
  const T epsilon = std::numeric_limits<T>::epsilon();
  for (Index rows : {0, 1, 3, 130})
    for (Index cols : {1, 7, 16, 33}) {
      auto gate = fixtures::normal<T>(1, 4, rows, cols), up = fixtures::normal<T>(2, 1, rows, cols);
      auto y = fixtures::poison<T>(rows, cols);
      cpu::swiglu<T>(ctx, gate, up, y);
      for (Index i = 0; i < y.size(); ++i) {  // exp 2 ulp, then one rounding each of 1 + e, 1 / ., and two products
        const double expected = silu(gate.data()[i]) * up.data()[i];
        CHECK(std::abs(y.data()[i] - expected) <= 4 * epsilon * std::abs(expected));
      }
      cpu::swiglu<T>(ctx, gate, up, gate);  // in place
      for (Index i = 0; i < y.size(); ++i) CHECK(gate.data()[i] == y.data()[i]);
    }
}
}  // namespace

TEST_CASE("values") {
  check_values<float>(1);
  check_values<double>(2);
}

TEST_CASE("gradients") {
  cpu::Context ctx;
  auto gate = fixtures::normal<double>(1, 3, 5, 7), up = fixtures::normal<double>(2, 1, 5, 7), dy = fixtures::normal<double>(3, 1, 5, 7);
  auto y = fixtures::poison<double>(5, 7), d_gate = fixtures::poison<double>(5, 7), d_up = fixtures::poison<double>(5, 7);
  cpu::swiglu_backward<double>(ctx, gate, up, dy, d_gate, d_up);
  auto loss = [&] { return cpu::swiglu<double>(ctx, gate, up, y), finite_difference::dot(y, dy); };
  finite_difference::check("gate", gate.data(), d_gate.data(), 35, loss);
  finite_difference::check("up", up.data(), d_up.data(), 35, loss);
}

TEST_CASE("large inputs stay finite and reach their limits") {
  cpu::Context ctx;
  Tensor<float, 2> gate(ctx.memory(), 1, 3), one(ctx.memory(), 1, 3), y(ctx.memory(), 1, 3), dg(ctx.memory(), 1, 3), du(ctx.memory(), 1, 3);
  for (int i = 0; i < 3; ++i) gate.data()[i] = float(1e4 * (i - 1)), one.data()[i] = 1;
  cpu::swiglu<float>(ctx, gate, one, y);
  cpu::swiglu_backward<float>(ctx, gate, one, one, dg, du);
  const float expected[3] = {0, 0, 1e4f}, slope[3] = {0, 0.5f, 1};
  for (int i = 0; i < 3; ++i) {
    CHECK(y.data()[i] == expected[i]);
    CHECK(du.data()[i] == expected[i]);
    CHECK(dg.data()[i] == slope[i]);
  }
}

TEST_CASE("an element's value does not depend on its place") {
  cpu::Context ctx;
  auto gate = fixtures::normal<float>(1, 3, 1, 100), up = fixtures::normal<float>(2, 1, 1, 100);
  auto y = fixtures::poison<float>(1, 100);
  cpu::swiglu<float>(ctx, gate, up, y);
  for (Index i = 0; i < 100; ++i) {
    float alone;
    cpu::swiglu<float>(ctx, {gate.data() + i, 1, 1}, {up.data() + i, 1, 1}, {&alone, 1, 1});
    CHECK(alone == y.data()[i]);
  }
}

TEST_CASE("shapes that disagree are refused") {
  cpu::Context ctx;
  Tensor<float, 2> a(ctx.memory(), 2, 3), b(ctx.memory(), 3, 2);
  CHECK_THROWS_WITH_AS(cpu::swiglu<float>(ctx, a, b, a), "swiglu: up: expected shape [2, 3], found [3, 2]", Error);
}
