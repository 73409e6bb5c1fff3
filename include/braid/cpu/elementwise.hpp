// Operations on one element at a time, and the loop over packs that other operations share.
#pragma once

#include <braid/core/activation.hpp>
#include <braid/core/view.hpp>
#include <braid/cpu/map.hpp>

namespace braid::cpu {

/// Calls f(i, count) for the packs of a row of n elements. The last may be a part of one: every element goes through the same
/// instructions wherever it lies.
template <class T, class F> inline void each_pack(Index n, F&& f) {
  Index i = 0;
  for (; i + Pack<T>::lanes <= n; i += Pack<T>::lanes) f(i, Pack<T>::lanes);
  if (i < n) f(i, n - i);
}

/// y += x. Any shape, the same for both.
template <class T, int Rank> void add(Context& ctx, View<const T, Rank> x, View<T, Rank> y) {
  require_shape(x, y.shape, "add: x");
  parallel_ranges(ctx, y.size(), 1 << 14, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) y.data[i] += x.data[i];
  });
}

/// y = A(x), with A an activation of core/activation.hpp. x and y [rows, cols], may be the same.
template <class A, class T> void activate(Context& ctx, View<const T, 2> x, View<T, 2> y) {
  require_shape(x, y.shape, "activate: x");
  using P = Pack<T>;
  map<T, 1, 1>(ctx, y.size(), {x.data}, {y.data}, [](const std::array<P, 1>& in) -> std::array<P, 1> { return {A::value(in[0])}; });
}

/// dx = dy A'(x). All [rows, cols]; dx may be dy.
template <class A, class T> void activate_backward(Context& ctx, View<const T, 2> x, View<const T, 2> dy, View<T, 2> dx) {
  require_shape(x, dx.shape, "activate_backward: x");
  require_shape(dy, dx.shape, "activate_backward: dy");
  using P = Pack<T>;
  map<T, 2, 1>(ctx, dx.size(), {x.data, dy.data}, {dx.data},
               [](const std::array<P, 2>& in) -> std::array<P, 1> { return {in[1] * A::derivative(in[0])}; });
}

}  // namespace braid::cpu
