// Softmax over keys that arrive in blocks (Milakov and Gimelshein 2018): a running maximum, a running sum and a running output.
#pragma once

#include <braid/cpu/elementwise.hpp>
#include <braid/cpu/gemm.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

namespace braid::cpu::detail {

/// sum_i a_i b_i.
template <class T> T dot_part(const T* a, const T* b, Index n) {
  Pack<T> total(T(0));
  each_pack<T>(n, [&](Index i, Index m) { total = fma(load_part(a + i, m), load_part(b + i, m), total); });
  return sum(total);
}

/// max_i x_i, n > 0.
template <class T> T largest(const T* x, Index n) {
  T tops[Pack<T>::lanes];
  std::fill_n(tops, Pack<T>::lanes, x[0]);
  Index i = 0;
  for (; i + Pack<T>::lanes <= n; i += Pack<T>::lanes)
    for (Index j = 0; j < Pack<T>::lanes; ++j) tops[j] = x[i + j] > tops[j] ? x[i + j] : tops[j];  // one vector maximum
  for (; i < n; ++i) tops[0] = std::max(tops[0], x[i]);
  return *std::max_element(tops, tops + Pack<T>::lanes);
}

/// x = exp(x - shift) for i < n; returns the sum.
template <class T> T exp_row(T* x, Index n, T shift) {
  Pack<T> total(T(0));
  Index i = 0;
  for (; i + Pack<T>::lanes <= n; i += Pack<T>::lanes) {
    const auto e = exp(Pack<T>::load(x + i) - Pack<T>(shift));
    e.store(x + i);
    total += e;
  }
  T result = sum(total);
  if (i < n) {
    store_part(exp(load_part(x + i, n - i) - Pack<T>(shift)), x + i, n - i);
    for (; i < n; ++i) result += x[i];
  }
  return result;
}

/// One row of a tile, backward: p holds scores, ds the products d_o . v. Replaces them by the softmax and by its gradient
/// p (ds - dot); columns from `visible` on become 0.
template <class T> void softmax_row_backward(T* p, T* ds, Index cols, Index visible, T log_sum, T dot) {
  exp_row(p, visible, log_sum);
  for (Index c = 0; c < visible; ++c) ds[c] = p[c] * (ds[c] - dot);
  std::fill(p + visible, p + cols, T(0));
  std::fill(ds + visible, ds + cols, T(0));
}

/// The state of `rows` queries: `out` [rows, dim] with a row stride, `maximum` and `sum` [rows].
template <class T> struct OnlineSoftmax {
  Index rows, dim;
  T* out;
  Index out_stride;
  T *maximum, *sum;

  void start() const {
    for (Index r = 0; r < rows; ++r) {
      maximum[r] = -std::numeric_limits<T>::infinity();
      sum[r] = 0;
      std::fill_n(out + r * out_stride, dim, T(0));
    }
  }

  /// Adds a block of `cols` keys: their scores [rows, cols] (overwritten) and values [cols, dim]. Row r sees the first visible(r) keys.
  template <class F> void add(T* scores, Index stride, Index cols, F&& visible, const T* values, Index value_stride) const {
    for (Index r = 0; r < rows; ++r) {
      T* x = scores + r * stride;
      const Index seen = std::clamp(visible(r), Index{0}, cols);
      std::fill(x + seen, x + cols, T(0));
      if (seen == 0) continue;
      const T top = std::max(maximum[r], largest(x, seen));
      const T keep = std::exp(maximum[r] - top);
      sum[r] = sum[r] * keep + exp_row(x, seen, top);
      maximum[r] = top;
      if (keep != T(1))
        for (Index c = 0; c < dim; ++c) out[r * out_stride + c] *= keep;
    }
    gemm_nn<T>(rows, dim, cols, T(1), scores, stride, values, value_stride, out, out_stride, true);
  }

  /// Divides by the sums. `log_sum` [rows], if not null, receives maximum + log(sum).
  void finish(T* log_sum) const {
    for (Index r = 0; r < rows; ++r) {
      const T inverse = T(1) / sum[r];
      for (Index c = 0; c < dim; ++c) out[r * out_stride + c] *= inverse;
      if (log_sum) log_sum[r] = maximum[r] + std::log(sum[r]);
    }
  }
};

/// out [dim] = the softmax of `count` partial results of one query, those of `row` in entries [first, first + count) of
/// partial [entries, rows, dim], maximum and sum [entries, rows].
template <class T>
void merge_softmax(Index count, Index first, Index row, View<const T, 3> partial, View<const T, 2> maximum, View<const T, 2> sum, T* out) {
  const Index dim = partial.shape[2];
  T top = maximum(first, row), total = 0;
  for (Index i = first; i < first + count; ++i) top = std::max(top, maximum(i, row));
  for (Index i = first; i < first + count; ++i) total += std::exp(maximum(i, row) - top) * sum(i, row);
  std::fill_n(out, dim, T(0));
  for (Index i = first; i < first + count; ++i) {
    const T weight = std::exp(maximum(i, row) - top) / total, *in = &partial(i, row, Index{0});
    for (Index c = 0; c < dim; ++c) out[c] += weight * in[c];
  }
}

}  // namespace braid::cpu::detail
