// Head-wise RMS norm times an activated gate: the output of the linear-attention layer, before its last projection (Eq. 10).
#pragma once

#include <braid/core/activation.hpp>
#include <braid/cpu/rms_norm.hpp>

namespace braid::cpu {

/// y = A(gate) w x / sqrt(mean(x^2) + eps), row by row. x, gate, y [rows, size] (y may be x), w [size]; a row is one head of a token.
template <class A, class T>
void gated_norm(Context& ctx, View<const T, 2> x, View<const T, 2> gate, View<const T, 1> w, double eps, View<T, 2> y) {
  require_shape(gate, x.shape, "gated_norm: gate");
  require_shape(w, {x.cols()}, "gated_norm: w");
  require_shape(y, x.shape, "gated_norm: y");
  const Index n = x.cols();
  parallel_ranges(ctx, x.rows(), 1 + 2048 / (n + 1), [&](Index begin, Index end) {
    for (Index r = begin; r < end; ++r) {
      const T *in = x.row(r), *g = gate.row(r);
      T* out = y.row(r);
      const T inverse = detail::inverse_rms(in, n, T(eps));
      each_pack<T>(n, [&](Index i, Index m) {
        const auto normed = load_part(in + i, m) * Pack<T>(inverse) * load_part(w.data + i, m);
        store_part(normed * A::value(load_part(g + i, m)), out + i, m);
      });
    }
  });
}

/// dx and dgate overwritten (dx may be dy), dw added to. Shapes as in gated_norm.
/// With n = x r the normed row: dgate = dy w n A'(gate); dx and dw as of rms_norm under dy A(gate).
template <class A, class T>
void gated_norm_backward(Context& ctx, View<const T, 2> x, View<const T, 2> gate, View<const T, 1> w, double eps,
                         View<const T, 2> dy, View<T, 2> dx, View<T, 2> dgate, View<T, 1> dw) {
  require_shape(gate, x.shape, "gated_norm_backward: gate");
  require_shape(w, {x.cols()}, "gated_norm_backward: w");
  require_shape(dw, w.shape, "gated_norm_backward: dw");
  require_shape(dy, x.shape, "gated_norm_backward: dy");
  require_shape(dx, x.shape, "gated_norm_backward: dx");
  require_shape(dgate, x.shape, "gated_norm_backward: dgate");
  const Index n = x.cols();
  detail::rows_with_sum(ctx, x.rows(), n, dw.data, [&](Index r, T* d_w) {
    const T *in = x.row(r), *g = gate.row(r), *d_out = dy.row(r);
    T *d_in = dx.row(r), *d_g = dgate.row(r);
    const T inverse = detail::inverse_rms(in, n, T(eps));
    Pack<T> dot(T(0));
    each_pack<T>(n, [&](Index i, Index m) {
      const auto normed = load_part(in + i, m) * Pack<T>(inverse), raw = load_part(g + i, m);
      const auto d = load_part(d_out + i, m), weight = load_part(w.data + i, m);
      const auto gated = d * A::value(raw), d_normed = gated * weight;
      store_part(d * weight * normed * A::derivative(raw), d_g + i, m);
      store_part(fma(gated, normed, load_part(d_w + i, m)), d_w + i, m);
      store_part(d_normed, d_in + i, m);
      dot = fma(d_normed, normed, dot);
    });
    const T pull = sum(dot) / T(n) * inverse;
    for (Index i = 0; i < n; ++i) d_in[i] = inverse * (d_in[i] - in[i] * pull);
  });
}

}  // namespace braid::cpu
