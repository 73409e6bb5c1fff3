// The gated activation of a feed-forward: y = silu(gate) * up, silu(x) = x sigmoid(x) (Shazeer 2020).
#pragma once

#include <braid/core/math.hpp>
#include <braid/core/view.hpp>
#include <braid/cpu/map.hpp>

namespace braid::cpu {

/// y = silu(gate) * up. All of one shape; y may be gate or up.
template <class T> BRAID_NOINLINE void swiglu(Context& ctx, View<const T, 2> gate, View<const T, 2> up, View<T, 2> y) {
  require_shape(up, gate.shape, "swiglu: up");
  require_shape(y, gate.shape, "swiglu: y");
  using P = Pack<T>;
  map<T, 2, 1>(ctx, y.size(), {gate.data, up.data}, {y.data},
               [](const std::array<P, 2>& x) -> std::array<P, 1> { return {x[0] * math::sigmoid(x[0]) * x[1]}; });
}

/// d_gate = dy * up * silu'(gate), d_up = dy * silu(gate), with silu'(x) = s (1 + x (1 - s)), s = sigmoid(x). All of one shape;
/// the outputs may be inputs.
template <class T>
BRAID_NOINLINE void swiglu_backward(Context& ctx, View<const T, 2> gate, View<const T, 2> up, View<const T, 2> dy,
                                    View<T, 2> d_gate, View<T, 2> d_up) {
  require_shape(up, gate.shape, "swiglu_backward: up");
  require_shape(dy, gate.shape, "swiglu_backward: dy");
  require_shape(d_gate, gate.shape, "swiglu_backward: d_gate");
  require_shape(d_up, gate.shape, "swiglu_backward: d_up");
  using P = Pack<T>;
  map<T, 3, 2>(ctx, dy.size(), {gate.data, up.data, dy.data}, {d_gate.data, d_up.data},
               [](const std::array<P, 3>& x) -> std::array<P, 2> {
                 const P s = math::sigmoid(x[0]), one = T(1);
                 return {x[2] * x[1] * s * (one + x[0] * (one - s)), x[2] * x[0] * s};
               });
}

}  // namespace braid::cpu
