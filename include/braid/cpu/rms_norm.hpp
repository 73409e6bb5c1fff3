// Root-mean-square norm, y = w x / sqrt(mean(x^2) + eps), and its gradients.
#pragma once

#include <braid/core/view.hpp>
#include <braid/cpu/elementwise.hpp>

#include <cmath>

namespace braid::cpu {

namespace detail {

/// Rows whose weight gradients are summed by one task: a fixed number, so that sums do not depend on the number of threads.
inline constexpr Index norm_block = 64;

/// 1 / sqrt(mean(x^2) + eps) of one row.
template <class T> T inverse_rms(const T* x, Index n, T eps) {
  Pack<T> total(T(0));
  each_pack<T>(n, [&](Index i, Index count) {
    const auto a = load_part(x + i, count);
    total = fma(a, a, total);
  });
  return T(1) / std::sqrt(sum(total) / T(n) + eps);
}

/// Calls f(row, partial) for every row, where `partial` [cols] collects a block of rows' contributions to a gradient of [cols], and
/// adds the blocks to `total` in their order.
template <class T, class F> void rows_with_sum(Context& ctx, Index rows, Index cols, T* total, F&& f) {
  const Index blocks = (rows + norm_block - 1) / norm_block;
  auto scope = ctx.arena.scope();
  auto partial = ctx.arena.template take_zero<T>(blocks, cols);
  parallel_for(ctx, blocks, [&](Index b) {
    for (Index r = b * norm_block, end = std::min(rows, r + norm_block); r < end; ++r) f(r, partial.row(b));
  });
  for (Index b = 0; b < blocks; ++b)
    for (Index c = 0; c < cols; ++c) total[c] += partial(b, c);
}

}  // namespace detail

/// y = w x / sqrt(mean(x^2) + eps), row by row. x, y [rows, size] (may be the same), w [size].
template <class T> void rms_norm(Context& ctx, View<const T, 2> x, View<const T, 1> w, double eps, View<T, 2> y) {
  require_shape(w, {x.cols()}, "rms_norm: w");
  require_shape(y, x.shape, "rms_norm: y");
  const Index n = x.cols();
  parallel_ranges(ctx, x.rows(), 1 + 4096 / (n + 1), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const T* in = x.row(r);
      T* out = y.row(r);
      const T inverse = detail::inverse_rms(in, n, T(eps));
      for (Index i = 0; i < n; ++i) out[i] = in[i] * inverse * w.data[i];
    }
  });
}

/// dx overwritten, dw added to. x, dy, dx [rows, size] (dx may be dy), w, dw [size].
/// With r = 1 / sqrt(mean(x^2) + eps): dx = r (w dy) - x r^3 mean(x w dy), dw = sum over rows of dy x r.
template <class T>
void rms_norm_backward(Context& ctx, View<const T, 2> x, View<const T, 1> w, double eps, View<const T, 2> dy, View<T, 2> dx,
                       View<T, 1> dw) {
  require_shape(w, {x.cols()}, "rms_norm_backward: w");
  require_shape(dw, w.shape, "rms_norm_backward: dw");
  require_shape(dy, x.shape, "rms_norm_backward: dy");
  require_shape(dx, x.shape, "rms_norm_backward: dx");
  const Index n = x.cols();
  detail::rows_with_sum(ctx, x.rows(), n, dw.data, [&](Index r, T* d_w) {
    const T *in = x.row(r), *d_out = dy.row(r);
    T* d_in = dx.row(r);
    const T inverse = detail::inverse_rms(in, n, T(eps));
    Pack<T> dot(T(0));
    each_pack<T>(n, [&](Index i, Index m) {
      dot = fma(load_part(in + i, m), load_part(w.data + i, m) * load_part(d_out + i, m), dot);
    });
    const T pull = sum(dot) / T(n) * inverse * inverse * inverse;
    for (Index i = 0; i < n; ++i) {
      d_w[i] += d_out[i] * in[i] * inverse;
      d_in[i] = w.data[i] * d_out[i] * inverse - in[i] * pull;
    }
  });
}

}  // namespace braid::cpu
