// Root-mean-square norm with a weight.
#pragma once

#include <braid/core/param.hpp>

namespace braid {

/// y = weight x / sqrt(mean(x^2) + eps) over rows of `size` elements.
template <class T> struct RmsNorm {
  Param<T> weight;
  double eps;

  RmsNorm(Index size, double epsilon) : weight{{size}, Init::ones, Role::vector}, eps(epsilon) {}

  /// Nothing: the backward pass computes the root again from x.
  struct Saved {};

  template <class V> void visit(V&& v) { v("weight", weight); }

  /// x, y [rows, size]; y is overwritten.
  template <class Ctx> Saved forward(Ctx& ctx, View<const T, 2> x, View<T, 2> y) const {
    rms_norm<T>(ctx, x, weight.vector(), eps, y);
    return {};
  }

  /// dx is overwritten (it may be dy), the weight's gradient added to.
  template <class Ctx> void backward(Ctx& ctx, View<const T, 2> x, const Saved&, View<const T, 2> dy, View<T, 2> dx) {
    rms_norm_backward<T>(ctx, x, weight.vector(), eps, dy, dx, weight.grad_vector());
  }
};

}  // namespace braid
