// Gradients against finite differences, in double.
#pragma once

#include <braid/core/param.hpp>
#include <braid/core/view.hpp>
#include <doctest/doctest.h>

#include <cmath>
#include <string>

namespace finite_difference {

using braid::Index;

/// `gradient[i]` must be the derivative of loss() with respect to x[i], for all i < n. The five-point rule with step h errs by
/// h^4 / 30 times the fifth derivative and by about 2e-16 |loss| / h through rounding: with h = 1e-3, near 1e-12 for losses and
/// derivatives of order 1 to 100. A wrong formula errs by much more than 1e-8 of the greatest entry.
template <class F> void check(const std::string& name, double* x, const double* gradient, Index n, F&& loss) {
  constexpr double h = 1e-3;
  double scale = 1, worst = 0;
  for (Index i = 0; i < n; ++i) {
    const double start = x[i];
    auto at = [&](double step) { return x[i] = start + step * h, loss(); };
    const double difference = (8 * (at(1) - at(-1)) - (at(2) - at(-2))) / (12 * h);
    x[i] = start;
    scale = std::max(scale, std::abs(difference));
    worst = std::isfinite(gradient[i]) ? std::max(worst, std::abs(difference - gradient[i])) : INFINITY;
  }
  CHECK_MESSAGE(worst <= 1e-8 * scale, name, ": off by ", worst, " of ", scale);
}

/// Every parameter of `layer` that is trained by gradient; its `grad` holds what is to be checked.
template <class Layer, class F> void check_parameters(Layer& layer, F&& loss) {
  braid::for_each_param(layer, [&](const std::string& name, braid::Param<double>& p) {
    if (p.role != braid::Role::balance) check(name, p.value, p.grad, p.size(), loss);
  });
}

/// sum_i a_i b_i: a loss whose gradient with respect to `a` is `b`.
template <class A, class B> double dot(const A& a, const B& b) {
  double sum = 0;
  for (Index i = 0; i < a.size(); ++i) sum += a.data()[i] * b.data()[i];
  return sum;
}

}  // namespace finite_difference
