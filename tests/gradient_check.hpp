// Gradients against central differences, in double.
#pragma once

#include <braid/core/param.hpp>
#include <braid/cpu/context.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

namespace braid_test {

using braid::Index;
using braid::View;

/// Tolerance of a checked gradient, relative to the largest entry of its array. With h = 1e-4 the four-point difference is off by
/// 1.5 eps f r / h = 3e-12 f r, where r, the growth of rounding inside f, is at most about the square root of the 1e5 operations of a
/// small layer, 3e2: 1e-9 f; gradients may be a hundredth of f: 1e-7. The other error, h^4 / 30 f^(5) = 3e-18 f^(5), stays below that for
/// functions as steep as f^(5) = 1e10 (an L2 norm of 1e-2 has that).
inline constexpr double gradient_tolerance = 1e-7;

/// df/dx by the four-point central difference.
template <class F> double difference(F&& f, double& x, double h = 1e-4) {
  const double at = x;
  auto value = [&](double step) {
    x = at + step;
    return f();
  };
  const double d1 = value(h) - value(-h), d2 = value(2 * h) - value(-2 * h);
  x = at;
  return (8 * d1 - d2) / (12 * h);
}

/// Largest |gradient - difference| over up to `samples` entries of x [n], relative to the largest entry of `gradient` (or to `floor`).
template <class F>
double gradient_error(F&& f, double* x, const double* gradient, Index n, Index samples = 24, double floor = 1e-3, std::uint64_t seed = 1) {
  braid::Random random(braid::seed(seed));
  double largest = floor, worst = 0;
  for (Index i = 0; i < n; ++i) largest = std::max(largest, std::abs(gradient[i]));
  for (Index k = 0; k < std::min(n, samples); ++k) {
    const Index i = n <= samples ? k : static_cast<Index>(random.below(static_cast<std::uint64_t>(n)));
    const double error = std::abs(gradient[i] - difference(f, x[i])) / largest;
    worst = std::isnan(error) ? error : std::max(worst, error);  // NaN stays
  }
  return worst;
}

/// n normal numbers.
inline std::vector<double> normal(Index n, std::uint64_t seed, double scale = 1) {
  braid::Random random(braid::seed(seed));
  std::vector<double> x(static_cast<std::size_t>(n));
  for (double& v : x) v = scale * random.normal();
  return x;
}

/// Checks a layer's gradients to all its parameters and to its input, under the loss sum(y * weights) with random weights.
/// forward(x, y) and backward(x, dy, dx) run the layer on views [rows, cols] and [rows, out]; parameters must be bound by `storage`.
/// Outputs are poisoned with NaN first, gradients accumulated twice (they must be added to, not overwritten).
template <class Layer, class Forward, class Backward>
void check_layer_gradients(braid::cpu::Context& ctx, Layer& layer, braid::ParamStorage<double>& storage, Index rows, Index cols, Index out,
                           Forward&& forward, Backward&& backward, Index samples = 24, double scale = 1) {
  const double nan = std::nan("");
  auto x = normal(rows * cols, 11, scale), weights = normal(rows * out, 12);
  std::vector<double> y(weights.size(), nan), dx(x.size(), nan);
  auto view = [](std::vector<double>& v, Index r, Index c) { return View<double, 2>(v.data(), r, c); };
  auto loss = [&] {
    auto scope = ctx.arena.scope();
    std::fill(y.begin(), y.end(), nan);
    forward(view(x, rows, cols), view(y, rows, out));
    double sum = 0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * weights[i];
    return sum;
  };
  storage.allocate_gradients(layer);
  storage.zero_gradients();
  for (int pass = 0; pass < 2; ++pass) {
    auto scope = ctx.arena.scope();
    backward(view(x, rows, cols), view(weights, rows, out), view(dx, rows, cols));
  }
  CHECK_MESSAGE(gradient_error(loss, x.data(), dx.data(), rows * cols, samples) < gradient_tolerance, "input");
  braid::for_each_param(layer, [&](const std::string& name, braid::Param<double>& p) {
    for (Index i = 0; i < p.size(); ++i) p.grad[i] /= 2;
    CHECK_MESSAGE(gradient_error(loss, p.value, p.grad, p.size(), samples) < gradient_tolerance, name);
  });
}

}  // namespace braid_test
