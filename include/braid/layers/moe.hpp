// Mixture of experts: a sigmoid router, routed SwiGLU experts and a shared one (section 4; DeepSeek-V3 for the router).
#pragma once

#include <braid/core/moe.hpp>
#include <braid/layers/mlp.hpp>
#include <braid/models/config.hpp>

#include <string>
#include <vector>

namespace braid {

/// y = shared_experts(x) + sum over the chosen experts e of weight_e(x) experts.e(x). The correction bias of the router is not
/// trained by gradient: the backward pass counts in its `grad` how many tokens each expert received (see Role::balance).
template <Config C> struct Moe {
  static_assert(check_config<C>() && C.experts > 0, "braid: Moe needs Config::experts > 0");
  using T = scalar_t<C.dtype>;
  static constexpr Index width = C.expert_width, shared_width = Index{C.shared_experts} * C.expert_width;
  static constexpr bool has_shared = C.shared_experts > 0;
  static constexpr Router router{C.experts,          C.experts_per_token, C.expert_groups,
                                 C.groups_per_token, config_of<C>.routed_scale,      C.renormalize};

  static constexpr Index router_count = Index{C.experts} * C.hidden + C.experts;
  static constexpr Index expert_count = SwiGlu<T>::parameters(C.hidden, width);
  static constexpr Index shared_count = SwiGlu<T>::parameters(C.hidden, shared_width);
  static constexpr Index parameter_count = router_count + C.experts * expert_count + shared_count;
  /// Parameters that take part in the products of one token.
  static constexpr Index activated_count = router_count + C.experts_per_token * expert_count + shared_count;

  /// A routed expert, with the checkpoint's names: w1 is the gate, w3 up, w2 down.
  struct Expert {
    Param<T> w1{{C.expert_width, C.hidden}, Init::normal, Role::matrix, config_of<C>.init_std};
    Param<T> w2{{C.hidden, C.expert_width}, Init::normal, Role::matrix, config_of<C>.init_std};
    Param<T> w3{{C.expert_width, C.hidden}, Init::normal, Role::matrix, config_of<C>.init_std};
    template <class V> void visit(V&& v) {
      v("w1.weight", w1);
      v("w2.weight", w2);
      v("w3.weight", w3);
    }
  };
  struct Experts {
    std::vector<Expert> list = std::vector<Expert>(C.experts);
    template <class V> void visit(V&& v) {
      for (std::size_t e = 0; e < list.size(); ++e) v(std::to_string(e), list[e]);
    }
  };
  struct Gate {
    Param<T> weight{{C.experts, C.hidden}, Init::normal, Role::matrix, config_of<C>.init_std};
    Param<T> e_score_correction_bias{{C.experts}, Init::zeros, Role::balance};
    template <class V> void visit(V&& v) {
      v("weight", weight);
      v("e_score_correction_bias", e_score_correction_bias);
    }
  };

  Gate gate;
  Experts experts;
  SwiGlu<T> shared_experts{C.hidden, shared_width, config_of<C>.init_std};

  template <class V> void visit(V&& v) {
    v("gate", gate);
    v("experts", experts);
    if constexpr (has_shared) v("shared_experts", shared_experts);
  }

  struct Saved {
    Routing<T> routing;
    Dispatch dispatch;
    View<T, 2> x;                  // [rows, hidden], the tokens' inputs by expert
    View<T, 2> gate, up, active;   // [rows, width]
    View<T, 2> y;                  // [rows, hidden], the experts' outputs
    typename SwiGlu<T>::Saved shared;
  };

  /// x, y [tokens, hidden]; y is overwritten.
  template <class Ctx> Saved forward(Ctx& ctx, View<const T, 2> x, View<T, 2> y) const {
    Saved s;
    auto logits = ctx.arena.template take<T>(x.rows(), C.experts);
    linear<T>(ctx, x, gate.weight.matrix(), logits);
    s.routing = route<T>(ctx, logits, gate.e_score_correction_bias.vector(), router);
    s.dispatch = dispatch(ctx, s.routing.expert, C.experts);
    const Index rows = s.dispatch.rows();
    s.x = ctx.arena.template take<T>(rows, C.hidden);
    for (auto* v : {&s.gate, &s.up, &s.active}) *v = ctx.arena.template take<T>(rows, width);
    s.y = ctx.arena.template take<T>(rows, C.hidden);

    gather_rows<T>(ctx, x, s.dispatch, s.x);
    grouped_linear<T>(ctx, s.x, s.dispatch, stack(&Expert::w1), s.gate);
    grouped_linear<T>(ctx, s.x, s.dispatch, stack(&Expert::w3), s.up);
    swiglu<T>(ctx, s.gate, s.up, s.active);
    grouped_linear<T>(ctx, s.active, s.dispatch, stack(&Expert::w2), s.y);
    if constexpr (has_shared) s.shared = shared_experts.forward(ctx, x, y);
    combine_rows<T>(ctx, s.y, s.dispatch, s.routing.weight, y, has_shared);
    return s;
  }

  /// dx is overwritten (it must not be dy), the parameters' gradients are added to. All [tokens, hidden].
  template <class Ctx> void backward(Ctx& ctx, View<const T, 2> x, const Saved& s, View<const T, 2> dy, View<T, 2> dx) {
    auto scope = ctx.arena.scope();
    const Index rows = s.dispatch.rows();
    count_dispatched<T>(ctx, s.dispatch, gate.e_score_correction_bias.grad_vector());
    if constexpr (has_shared) shared_experts.backward(ctx, x, s.shared, dy, dx);

    auto d_y = ctx.arena.template take<T>(rows, C.hidden);
    auto d_weight = ctx.arena.template take<T>(x.rows(), C.experts_per_token);
    combine_rows_backward<T>(ctx, s.y, s.dispatch, s.routing.weight, dy, d_y, d_weight);

    auto d_active = ctx.arena.template take<T>(rows, width);
    auto d_gate = ctx.arena.template take<T>(rows, width);
    const auto d_up = d_active, d_x = d_y;  // in place
    grouped_linear_backward_weight<T>(ctx, s.active, d_y, s.dispatch, gradient_stack(&Expert::w2));
    grouped_linear_backward_input<T>(ctx, d_y, s.dispatch, stack(&Expert::w2), d_active);
    swiglu_backward<T>(ctx, s.gate, s.up, d_active, d_gate, d_up);
    grouped_linear_backward_weight<T>(ctx, s.x, d_gate, s.dispatch, gradient_stack(&Expert::w1));
    grouped_linear_backward_weight<T>(ctx, s.x, d_up, s.dispatch, gradient_stack(&Expert::w3));
    grouped_linear_backward_input<T>(ctx, d_gate, s.dispatch, stack(&Expert::w1), d_x);
    grouped_linear_backward_input<T>(ctx, d_up, s.dispatch, stack(&Expert::w3), d_x, true);
    combine_rows<T>(ctx, d_x, s.dispatch, {}, dx, has_shared);

    auto d_logits = ctx.arena.template take<T>(x.rows(), C.experts);
    route_backward<T>(ctx, s.routing, d_weight, router, d_logits);
    linear_backward_weight<T>(ctx, x, d_logits, gate.weight.grad_matrix());
    linear_backward_input<T>(ctx, d_logits, gate.weight.matrix(), dx, true);
  }

 private:
  /// One matrix of every expert. ParamStorage lays the experts out one after the other, so a stride says where each is.
  MatrixStack<const T> stack(Param<T> Expert::*matrix) const { return stacked<const T>(matrix, &Param<T>::value); }
  MatrixStack<T> gradient_stack(Param<T> Expert::*matrix) { return stacked<T>(matrix, &Param<T>::grad); }

  template <class U> MatrixStack<U> stacked(Param<T> Expert::*matrix, T* Param<T>::*storage) const {
    const auto& first = experts.list.front().*matrix;
    const auto& last = experts.list.back().*matrix;
    MatrixStack<U> out{first.*storage, C.experts, first.shape[0], first.shape[1], 0};
    if constexpr (C.experts > 1) out.stride = experts.list[1].*matrix.*storage - out.data;
    require(out[C.experts - 1] == last.*storage, "Moe", "experts at equal distances, as ParamStorage binds them", "another layout");
    return out;
  }
};

}  // namespace braid
