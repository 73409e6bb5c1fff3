// Linear projections y = x W^T and their gradients.
#pragma once

#include <braid/core/view.hpp>
#include <braid/cpu/gemm.hpp>
#include <braid/cpu/parallel.hpp>

#include <algorithm>

namespace braid::cpu {

namespace detail {
/// Splits the longer side of an m x n result over the threads; `f(row, rows, col, cols)` computes one block.
template <class F> void split_product(const Context& ctx, Index m, Index n, F&& f) {
  constexpr Index grain = 2 * few_rows + 2;  // no part of many rows is a product of few rows
  if (m >= n)
    parallel_ranges(ctx, m, grain, [&](Index begin, Index end) { f(begin, end - begin, 0, n); });
  else
    parallel_ranges(ctx, n, grain, [&](Index begin, Index end) { f(0, m, begin, end - begin); });
}

/// Calls f(col, cols) for pieces of the n columns of a result of few rows; k is the length of the sums.
template <class F> void few_rows_pieces(const Context& ctx, Index n, Index k, F&& f) {
  const Index cols = std::max(Index{1}, few_rows_piece / std::max(Index{1}, k));
  parallel_for(ctx, (n + cols - 1) / cols, [&](Index i) { f(i * cols, std::min(cols, n - i * cols)); });
}
}  // namespace detail

/// y = x w^T. x [tokens, in], w [out, in], y [tokens, out]; `accumulate` adds to y instead of overwriting it.
template <class T>
void linear(Context& ctx, View<const T, 2> x, View<const T, 2> w, View<T, 2> y, bool accumulate = false) {
  const Index in = x.cols(), out = w.rows();
  require_shape(w, {out, in}, "linear: w");
  require_shape(y, {x.rows(), out}, "linear: y");
  auto product = [&](Index row, Index rows, Index col, Index cols) {
    gemm_nt<T>(rows, cols, in, T(1), x.row(row), in, w.row(col), in, y.row(row) + col, out, accumulate);
  };
  if (x.rows() <= detail::few_rows)
    detail::few_rows_pieces(ctx, out, in, [&](Index col, Index cols) { product(0, x.rows(), col, cols); });
  else
    detail::split_product(ctx, x.rows(), out, product);
}

/// dx = dy w. dy [tokens, out], w [out, in], dx [tokens, in]; `accumulate` adds to dx.
template <class T>
void linear_backward_input(Context& ctx, View<const T, 2> dy, View<const T, 2> w, View<T, 2> dx, bool accumulate = false) {
  const Index in = w.cols(), out = w.rows();
  require_shape(dy, {dx.rows(), out}, "linear_backward_input: dy");
  require_shape(dx, {dy.rows(), in}, "linear_backward_input: dx");
  detail::split_product(ctx, dy.rows(), in, [&](Index row, Index rows, Index col, Index cols) {
    gemm_nn<T>(rows, cols, out, T(1), dy.row(row), out, w.data + col, in, dx.row(row) + col, in, accumulate);
  });
}

/// dw += dy^T x. x [tokens, in], dy [tokens, out], dw [out, in].
template <class T> void linear_backward_weight(Context& ctx, View<const T, 2> x, View<const T, 2> dy, View<T, 2> dw) {
  const Index in = x.cols(), out = dy.cols();
  require_shape(dw, {out, in}, "linear_backward_weight: dw");
  require_shape(dy, {x.rows(), out}, "linear_backward_weight: dy");
  detail::split_product(ctx, out, in, [&](Index row, Index rows, Index col, Index cols) {
    gemm_tn<T>(rows, cols, x.rows(), T(1), dy.data + row, out, x.data + col, in, dw.row(row) + col, in, true);
  });
}

}  // namespace braid::cpu
