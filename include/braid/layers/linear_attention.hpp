// The linear-attention layer of section 4 of the paper (Eq. 10), for any gate and any update of the algebra.
#pragma once

#include <braid/core/activation.hpp>
#include <braid/core/linear_attention.hpp>
#include <braid/core/param.hpp>
#include <braid/models/config.hpp>

#include <cmath>
#include <type_traits>
#include <utility>
#include <vector>

namespace braid {

/// q, k = L2Norm(Swish(ShortConv(W x))), v = Swish(ShortConv(W_v x)), log alpha = gate(W_f x), beta = sigmoid(W_b x),
/// y = W_o (act(W_g x) * RMSNorm_head(o)), o = linear attention<Decay gate `G`, `U`>(q, k, v, alpha, beta) / sqrt(key_dim).
///
/// A per-channel gate is projected through a low rank (f_a_proj, f_b_proj), a per-head gate directly (a_proj). Config chooses the
/// convolution's width (0: none) and the output gate (sigmoid, swish, none), the published names hold for all of them.
template <Config C, class G, class U> struct LinearAttention {
  using T = scalar_t<C.dtype>;
  static_assert(detail::check_gate<G>() && detail::check_update<U>());
  static_assert(!update_is_dplr<U>, "braid: the linear-attention layer projects no a and b, so its update cannot be Dplr");
  static_assert(!gate_is_given<G> || G::decay == Decay::none,
                "braid: LogDecay takes log alpha as it is, which a projection cannot promise to be <= 0; use SoftplusGate or a gate of your own");

  static constexpr Index hidden = C.hidden, heads = C.heads, key_dim = C.key_dim, value_dim = C.value_dim, rank = C.low_rank();
  static constexpr Index keys = heads * key_dim, values = heads * value_dim;
  static constexpr bool has_conv = C.conv > 0, has_output_gate = C.output_gate != OutputGate::none;
  static constexpr bool per_channel = G::decay == Decay::per_channel, per_head = G::decay == Decay::per_head;
  static constexpr bool has_rate = !gate_is_given<G>;
  static constexpr Index decays = per_channel ? keys : per_head ? heads : 0;
  using Activation = std::conditional_t<C.output_gate == OutputGate::swish, Swish, Sigmoid>;

  /// Batches whose longest sequence has at most this many tokens go token by token, others chunk by chunk. Measured for key and value
  /// sizes 16 to 128: the forward passes meet between 16 and 64 tokens, the backward passes between 4 and 16.
  static constexpr Index recurrent_tokens = 16, recurrent_backward_tokens = 4;

  static constexpr Index parameter_count =
      hidden * (2 * keys + 2 * values) + (2 * keys + values) * C.conv + (per_channel ? rank * (hidden + keys) : hidden * decays) +
      (has_rate ? heads + decays : 0) + (U::uses_beta ? hidden * heads : 0) + (has_output_gate ? rank * (hidden + values) : 0) + value_dim;

  Param<T> q_proj = matrix(keys, hidden), k_proj = matrix(keys, hidden), v_proj = matrix(values, hidden);
  Param<T> q_conv = taps(keys), k_conv = taps(keys), v_conv = taps(values);
  Param<T> f_a_proj = matrix(rank, hidden), f_b_proj = matrix(keys, rank);  // per channel
  Param<T> a_proj = matrix(heads, hidden);                                  // per head
  Param<T> A_log = {per_channel ? std::vector<Index>{1, 1, heads, 1} : std::vector<Index>{heads}, Init::log_rate, Role::vector};
  Param<T> dt_bias = {{decays}, Init::time_step, Role::vector};
  Param<T> b_proj = matrix(heads, hidden);
  Param<T> g_a_proj = matrix(rank, hidden), g_b_proj = matrix(values, rank);
  Param<T> o_norm = {{value_dim}, Init::ones, Role::vector};
  Param<T> o_proj = matrix(hidden, values);

  /// Calls v(published name, parameter) for the parameters that these options have.
  template <class V> void visit(V&& v) {
    v("q_proj.weight", q_proj), v("k_proj.weight", k_proj), v("v_proj.weight", v_proj);
    if constexpr (has_conv) v("q_conv1d.weight", q_conv), v("k_conv1d.weight", k_conv), v("v_conv1d.weight", v_conv);
    if constexpr (per_channel) v("f_a_proj.weight", f_a_proj), v("f_b_proj.weight", f_b_proj);
    if constexpr (per_head) v("a_proj.weight", a_proj);
    if constexpr (has_rate) v("A_log", A_log), v("dt_bias", dt_bias);
    if constexpr (U::uses_beta) v("b_proj.weight", b_proj);
    if constexpr (has_output_gate) v("g_a_proj.weight", g_a_proj), v("g_b_proj.weight", g_b_proj);
    v("o_norm.weight", o_norm), v("o_proj.weight", o_proj);
  }

  /// The last inputs of the three convolutions and the recurrent state of every slot. Its size does not grow with the sequence.
  class Cache {
   public:
    Cache(Memory& memory, Index slots, Index /*capacity*/ = 0)
        : q_tail(memory, slots, tail, keys), k_tail(memory, slots, tail, keys), v_tail(memory, slots, tail, values),
          state(memory, slots, heads, key_dim, value_dim), memory_(&memory) {}

    Index slots() const { return state.rows(); }
    /// Forgets the sequence in `slot`.
    void reset(Index slot) {
      require(slot >= 0 && slot < slots(), "LinearAttention::Cache", detail::text("a slot below ", slots()), slot);
      for (View<T, 3> t : {q_tail.view(), k_tail.view(), v_tail.view()}) zero(t.row(slot), t.stride());
      zero(state.row(slot), state.view().stride());
    }
    std::size_t bytes() const { return q_tail.bytes() + k_tail.bytes() + v_tail.bytes() + state.bytes(); }
    static constexpr std::size_t bytes_per_slot(Index /*tokens*/ = 0) {
      return static_cast<std::size_t>(tail * (2 * keys + values) + keys * value_dim) * sizeof(T);
    }

    Tensor<T, 3> q_tail, k_tail, v_tail;  ///< [slots, conv - 1, channels], oldest first
    Tensor<T, 4> state;                   ///< [slots, heads, key_dim, value_dim]

   private:
    static constexpr Index tail = has_conv ? C.conv - 1 : 0;
    void zero(T* data, Index count) { memory_->zero(data, static_cast<std::size_t>(count) * sizeof(T)); }
    Memory* memory_;
  };

  /// What backward needs: views into the arena, [tokens, features] each; null where the options have none.
  struct Saved {
    View<T, 2> q_in, k_in, v_in;  ///< before the convolution (or the swish alone)
    View<T, 2> q, k, v;           ///< after it
    View<T, 2> f_low, gate, beta, g_low, g;
    View<T, 2> o, gated;
    View<T, 1> kept;              ///< of the chunkwise form, if it was taken
  };

  /// y [tokens, hidden] = layer(x [tokens, hidden]), overwritten. Keeps what `backward` needs.
  template <class Ctx> Saved forward(Ctx& ctx, View<const T, 2> x, const Batch& batch, View<T, 2> y) const {
    return run(ctx, x, batch, y, nullptr, true);
  }
  /// Inference. With a cache, every sequence continues its slot's.
  template <class Ctx> void forward(Ctx& ctx, View<const T, 2> x, const Batch& batch, View<T, 2> y, Cache* cache) const {
    run(ctx, x, batch, y, cache, false);
  }

  /// dx [tokens, hidden] is overwritten, the parameters' gradients are added to.
  template <class Ctx>
  void backward(Ctx& ctx, View<const T, 2> x, const Batch& batch, const Saved& s, View<const T, 2> dy, View<T, 2> dx) {
    auto scope = ctx.arena.scope();
    auto like = [&](View<T, 2> v) { return ctx.arena.template take<T>(v.rows(), v.cols()); };
    auto d_o = like(s.o);
    linear_backward_weight<T>(ctx, s.gated, dy, o_proj.grad_matrix());
    linear_backward_input<T>(ctx, dy, o_proj.matrix(), d_o);
    bool first = true;  // the first projection overwrites dx
    if constexpr (has_output_gate) {
      auto d_g = like(s.g), d_low = like(s.g_low);
      gated_norm_backward<Activation, T>(ctx, per_value_head(s.o), per_value_head(s.g), o_norm.vector(), config_of<C>.norm_eps, per_value_head(d_o),
                                         per_value_head(d_o), per_value_head(d_g), o_norm.grad_vector());
      project_backward(ctx, s.g_low, g_b_proj, d_g, d_low);
      project_backward(ctx, x, g_a_proj, d_low, dx, !std::exchange(first, false));
    } else {
      rms_norm_backward<T>(ctx, per_value_head(s.o), o_norm.vector(), config_of<C>.norm_eps, per_value_head(d_o), per_value_head(d_o),
                           o_norm.grad_vector());
    }

    auto d_q = like(s.q), d_k = like(s.k), d_v = like(s.v);
    View<T, 2> d_gate, d_beta;
    if constexpr (decays > 0) d_gate = like(s.gate);
    if constexpr (U::uses_beta) d_beta = like(s.beta);
    mix_backward(ctx, s, batch, d_o, d_q, d_k, d_v, d_gate, d_beta);

    auto d_in = like(s.q_in);
    convolve_backward(ctx, s.q_in, q_conv, batch, d_q, d_in);
    project_backward(ctx, x, q_proj, d_in, dx, !std::exchange(first, false));
    convolve_backward(ctx, s.k_in, k_conv, batch, d_k, d_in);
    project_backward(ctx, x, k_proj, d_in, dx, true);
    auto d_v_in = like(s.v_in);
    convolve_backward(ctx, s.v_in, v_conv, batch, d_v, d_v_in);
    project_backward(ctx, x, v_proj, d_v_in, dx, true);
    if constexpr (per_channel) {
      auto d_low = like(s.f_low);
      project_backward(ctx, s.f_low, f_b_proj, d_gate, d_low);
      project_backward(ctx, x, f_a_proj, d_low, dx, true);
    }
    if constexpr (per_head) project_backward(ctx, x, a_proj, d_gate, dx, true);
    if constexpr (U::uses_beta) project_backward(ctx, x, b_proj, d_beta, dx, true);
  }

 private:
  static Param<T> matrix(Index out, Index in) { return {{out, in}, Init::normal, Role::matrix, config_of<C>.init_std}; }
  /// The spread of PyTorch's uniform initialisation of a convolution.
  static Param<T> taps(Index channels) {
    return {{channels, 1, Index{C.conv}}, Init::normal, Role::vector, has_conv ? 1 / std::sqrt(3.0 * C.conv) : 0};
  }
  static View<T, 2> per_value_head(View<T, 2> x) { return x.reshaped(x.rows() * heads, value_dim); }

  template <class Ctx> static View<T, 2> project(Ctx& ctx, View<const T, 2> x, const Param<T>& w) {
    auto y = ctx.arena.template take<T>(x.rows(), w.shape[0]);
    linear<T>(ctx, x, w.matrix(), y);
    return y;
  }
  template <class Ctx>
  static void project_backward(Ctx& ctx, View<const T, 2> x, Param<T>& w, View<const T, 2> dy, View<T, 2> dx, bool accumulate = false) {
    linear_backward_weight<T>(ctx, x, dy, w.grad_matrix());
    linear_backward_input<T>(ctx, dy, w.matrix(), dx, accumulate);
  }

  template <class Ctx>
  static View<T, 2> convolve(Ctx& ctx, View<const T, 2> x, const Param<T>& w, const Batch& batch, View<T, 3> tail) {
    auto y = ctx.arena.template take<T>(x.rows(), x.cols());
    if constexpr (has_conv)
      short_conv<T>(ctx, x, w.matrix(), batch, y, tail);
    else
      activate<Swish, T>(ctx, x, y);
    return y;
  }
  template <class Ctx>
  static void convolve_backward(Ctx& ctx, View<const T, 2> x, Param<T>& w, const Batch& batch, View<const T, 2> dy, View<T, 2> dx) {
    if constexpr (has_conv)
      short_conv_backward<T>(ctx, x, w.matrix(), batch, dy, dx, w.grad_matrix());
    else
      activate_backward<Swish, T>(ctx, x, dy, dx);
  }

  LinearAttentionInputs<T> inputs(const Saved& s, const Batch& batch) const {
    LinearAttentionInputs<T> in;
    in.tokens = batch.tokens(), in.heads = in.value_heads = heads, in.key_dim = key_dim, in.value_dim = value_dim;
    in.offsets = batch.offsets();
    in.q = s.q.data, in.k = s.k.data, in.v = s.v.data, in.gate = s.gate.data, in.beta = s.beta.data;
    if constexpr (has_rate) in.A_log = A_log.value, in.dt_bias = dt_bias.value;
    in.normalize = in.beta_logit = true;
    in.scale = static_cast<T>(1 / std::sqrt(static_cast<double>(key_dim)));
    return in;
  }

  template <class Ctx> Saved run(Ctx& ctx, View<const T, 2> x, const Batch& batch, View<T, 2> y, Cache* cache, bool keep) const {
    require_shape(x, {batch.tokens(), hidden}, "LinearAttention: x");
    Saved s;
    s.q_in = project(ctx, x, q_proj);
    s.k_in = project(ctx, x, k_proj);
    s.v_in = project(ctx, x, v_proj);
    s.q = convolve(ctx, s.q_in, q_conv, batch, cache ? cache->q_tail.view() : View<T, 3>{});
    s.k = convolve(ctx, s.k_in, k_conv, batch, cache ? cache->k_tail.view() : View<T, 3>{});
    s.v = convolve(ctx, s.v_in, v_conv, batch, cache ? cache->v_tail.view() : View<T, 3>{});
    if constexpr (per_channel) s.f_low = project(ctx, x, f_a_proj), s.gate = project(ctx, s.f_low, f_b_proj);
    if constexpr (per_head) s.gate = project(ctx, x, a_proj);
    if constexpr (U::uses_beta) s.beta = project(ctx, x, b_proj);
    s.o = ctx.arena.template take<T>(x.rows(), values);
    if (keep && batch.longest() > recurrent_tokens)
      s.kept = ctx.arena.template take<T>(linear_attention_kept<Chunkwise<C.chunk>>(ctx, inputs(s, batch)));
    mix(ctx, s, batch, cache);

    s.gated = ctx.arena.template take<T>(x.rows(), values);
    if constexpr (has_output_gate) {
      s.g_low = project(ctx, x, g_a_proj), s.g = project(ctx, s.g_low, g_b_proj);
      gated_norm<Activation, T>(ctx, per_value_head(s.o), per_value_head(s.g), o_norm.vector(), config_of<C>.norm_eps, per_value_head(s.gated));
    } else {
      rms_norm<T>(ctx, per_value_head(s.o), o_norm.vector(), config_of<C>.norm_eps, per_value_head(s.gated));
    }
    linear<T>(ctx, s.gated, o_proj.matrix(), y);
    return s;
  }

  /// Calls f(form): token by token if no sequence of the batch has more than `limit` tokens.
  template <class F> static void with_form(const Batch& batch, Index limit, F&& f) {
    if (batch.longest() <= limit)
      f(Recurrent{});
    else
      f(Chunkwise<C.chunk>{});
  }

  /// o = linear attention of q, k, v; the states of a cache are updated in place, or through a copy if the batch's slots are not neighbours.
  template <class Ctx> void mix(Ctx& ctx, const Saved& s, const Batch& batch, Cache* cache) const {
    auto scope = ctx.arena.scope();
    auto in = inputs(s, batch);
    LinearAttentionOutputs<T> out;
    out.o = s.o.data, out.kept = s.kept.data;
    View<T, 4> states;
    bool neighbours = true;
    if (cache) {
      for (Index i = 0; i < batch.sequences(); ++i) {
        require(batch.slot(i) < cache->slots(), "LinearAttention: cache", detail::text("a slot below ", cache->slots()), batch.slot(i));
        neighbours = neighbours && batch.slot(i) == batch.slot(0) + i;
      }
      if (neighbours) {
        states = cache->state.view().slice(batch.slot(0), batch.sequences());
      } else {
        states = ctx.arena.template take<T>(batch.sequences(), heads, key_dim, value_dim);
        load_slots<T, 4>(ctx, cache->state, batch, states);
      }
      in.initial_state = out.final_state = states.data;
    }
    with_form(batch, recurrent_tokens, [&]<class Form>(Form) { linear_attention<G, U, Form>(ctx, in, out); });
    if (!neighbours) store_slots<T, 4>(ctx, states, batch, cache->state);
  }

  template <class Ctx>
  void mix_backward(Ctx& ctx, const Saved& s, const Batch& batch, View<const T, 2> d_o, View<T, 2> d_q, View<T, 2> d_k, View<T, 2> d_v,
                    View<T, 2> d_gate, View<T, 2> d_beta) {
    auto scope = ctx.arena.scope();
    LinearAttentionGradients<T> d;
    d.d_o = d_o.data, d.d_q = d_q.data, d.d_k = d_k.data, d.d_v = d_v.data, d.d_gate = d_gate.data, d.d_beta = d_beta.data;
    View<T, 1> d_rate, d_bias;
    if constexpr (has_rate) {
      d_rate = ctx.arena.template take<T>(heads), d_bias = ctx.arena.template take<T>(decays);
      d.d_A_log = d_rate.data, d.d_dt_bias = d_bias.data;
    }
    d.kept = s.kept.data;
    const auto in = inputs(s, batch);
    with_form(batch, recurrent_backward_tokens, [&]<class Form>(Form) { linear_attention_backward<G, U, Form>(ctx, in, d); });
    if constexpr (has_rate) {
      add<T, 1>(ctx, d_rate, A_log.grad_vector());
      add<T, 1>(ctx, d_bias, dt_bias.grad_vector());
    }
  }
};

/// Kimi Delta Attention, as in the published model.
template <Config C> using Kda = LinearAttention<C, SoftplusGate, DeltaRule>;
/// KDA with the gate of later models, -5 < log alpha < 0.
template <Config C> using KdaBounded = LinearAttention<C, BoundedGate<-5>, DeltaRule>;
/// Gated DeltaNet: one decay per head.
template <Config C> using GatedDeltaNet = LinearAttention<C, PerHead<SoftplusGate>, DeltaRule>;
/// DeltaNet: no decay.
template <Config C> using DeltaNet = LinearAttention<C, NoDecay, DeltaRule>;
/// Mamba-2's recurrence: one decay per head, additive.
template <Config C> using Mamba2 = LinearAttention<C, PerHead<SoftplusGate>, Additive>;
/// Gated linear attention: one decay per channel, additive.
template <Config C> using Gla = LinearAttention<C, SoftplusGate, Additive>;
/// Plain linear attention: no decay, additive.
template <Config C> using PlainLinearAttention = LinearAttention<C, NoDecay, Additive>;

}  // namespace braid
