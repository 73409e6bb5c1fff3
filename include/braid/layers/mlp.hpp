// The dense feed-forward of a block.
#pragma once

#include <braid/core/param.hpp>

namespace braid {

/// y = down_proj(silu(gate_proj x) * up_proj x): the SwiGLU feed-forward (Shazeer 2020).
template <class T> struct SwiGlu {
  Param<T> gate_proj, up_proj, down_proj;  // [width, hidden] twice, [hidden, width]

  SwiGlu(Index hidden, Index width, double init_std = 0.02)
      : gate_proj{{width, hidden}, Init::normal, Role::matrix, init_std},
        up_proj{{width, hidden}, Init::normal, Role::matrix, init_std},
        down_proj{{hidden, width}, Init::normal, Role::matrix, init_std} {}

  /// Number of parameters.
  static constexpr Index parameters(Index hidden, Index width) { return 3 * hidden * width; }
  Index hidden() const { return down_proj.shape[0]; }
  Index width() const { return down_proj.shape[1]; }

  template <class V> void visit(V&& v) {
    v("gate_proj.weight", gate_proj);
    v("up_proj.weight", up_proj);
    v("down_proj.weight", down_proj);
  }

  struct Saved {
    View<T, 2> gate, up, active;  // [tokens, width] each
  };

  /// x, y [tokens, hidden]; y is overwritten.
  template <class Ctx> Saved forward(Ctx& ctx, View<const T, 2> x, View<T, 2> y) const {
    auto take = [&] { return ctx.arena.template take<T>(x.rows(), width()); };
    const Saved s{take(), take(), take()};
    linear<T>(ctx, x, gate_proj.matrix(), s.gate);
    linear<T>(ctx, x, up_proj.matrix(), s.up);
    swiglu<T>(ctx, s.gate, s.up, s.active);
    linear<T>(ctx, s.active, down_proj.matrix(), y);
    return s;
  }

  /// dx is overwritten (it must not be dy), the parameters' gradients are added to. All [tokens, hidden].
  template <class Ctx> void backward(Ctx& ctx, View<const T, 2> x, const Saved& s, View<const T, 2> dy, View<T, 2> dx) {
    auto scope = ctx.arena.scope();
    auto d_active = ctx.arena.template take<T>(x.rows(), width());
    auto d_gate = ctx.arena.template take<T>(x.rows(), width());
    linear_backward_weight<T>(ctx, s.active, dy, down_proj.grad_matrix());
    linear_backward_input<T>(ctx, dy, down_proj.matrix(), d_active);
    const auto d_up = d_active;  // in place
    swiglu_backward<T>(ctx, s.gate, s.up, d_active, d_gate, d_up);
    linear_backward_weight<T>(ctx, x, d_gate, gate_proj.grad_matrix());
    linear_backward_weight<T>(ctx, x, d_up, up_proj.grad_matrix());
    linear_backward_input<T>(ctx, d_gate, gate_proj.matrix(), dx);
    linear_backward_input<T>(ctx, d_up, up_proj.matrix(), dx, true);
  }
};

}  // namespace braid
