// Activation of linear attention's inputs, a tile at a time, and its gradients: L2 norm of q and k, decay from the gate, beta and the
// update's two strengths (section 4 of the paper, before Eq. 10).
#pragma once

#include <braid/cpu/linear_attention_tile.hpp>

#include <cmath>

namespace braid::cpu::detail {

/// Where gradients of a backward pass go. Arrays shared by several tasks have one lane per task, summed afterwards.
template <class T> struct GradientSink {
  T *q, *k;                    // [T, key_lanes, K]
  T *gate, *beta, *a, *b;      // [T, value_lanes, ...]
  T *A_log, *dt_bias;          // [N, lanes], [N, lanes, K or 1]
  Index key_lanes, value_lanes, lanes;
  bool key_by_lane, value_by_lane;  // lanes are tasks, else heads
};

/// The activations of one task. `T` is the type of vectors and state.
template <class Gate, class Update, class T> class Activation {
  static constexpr bool channels = Gate::decay == Decay::per_channel;
  static constexpr bool dplr = update_is_dplr<Update>;

 public:
  using P = Pack<T>;
  using TileT = Tile<Gate, Update, T>;

  Activation(const LinearAttentionInputs<T>& in, const HeadTask& task, const TileT& tile) : in_(in), task_(task), tile_(tile) {
    if constexpr (!gate_is_given<Gate> && Gate::decay != Decay::none) {
      rate_ = std::exp(in.A_log[task.head]);
      const Index width = decay_width<Gate>(in.key_dim);
      copy_padded(in.dt_bias + task.head * width, width, tile.K, tile.bias);
    }
  }

  /// Fills the tile with `rows` tokens from `first` on.
  void load(Index first, Index rows) const {
    for (Index i = 0; i < rows; ++i) {
      const Index t = first + i;
      load_key(in_.q + key_row(t), in_.scale, tile_.q + i * tile_.K, tile_.q_inverse[i]);
      const T square = load_key(in_.k + key_row(t), T(1), tile_.k + i * tile_.K, tile_.k_inverse[i]);
      load_decay(t, i);
      if constexpr (dplr) {
        copy_padded(in_.a + value_row(t) * in_.key_dim, in_.key_dim, tile_.K, tile_.a + i * tile_.K);
        copy_padded(in_.b + value_row(t) * in_.key_dim, in_.key_dim, tile_.K, tile_.b + i * tile_.K);
      } else {
        const T beta = Update::uses_beta ? load_beta(t) : T(0);
        tile_.beta[i] = beta;
        tile_.norm2[i] = square;
        tile_.erase[i] = Update::erase(beta, square);
        tile_.write[i] = Update::write(beta, square);
      }
    }
    load_values(in_, task_, in_.v, first, rows, tile_.V, tile_.v);
  }

  /// Carries the gradients of a loaded tile through the activations and stores them.
  void store(const TileGradients<Gate, Update, T>& g, Index first, Index rows, const GradientSink<T>& sink, T* d_v) const {
    const Index K = in_.key_dim, key_lane = sink.key_by_lane ? task_.lane : task_.key_head;
    const Index value_lane = sink.value_by_lane ? task_.lane : task_.head;
    for (Index i = 0; i < rows; ++i) {
      const Index t = first + i, key_at = (t * sink.key_lanes + key_lane) * K, value_at = t * sink.value_lanes + value_lane;
      if constexpr (dplr) {
        if (sink.a) std::copy(g.a + i * tile_.K, g.a + i * tile_.K + K, sink.a + value_at * K);
        if (sink.b) std::copy(g.b + i * tile_.K, g.b + i * tile_.K + K, sink.b + value_at * K);
      } else {
        store_strengths(g, i, sink.beta ? sink.beta + value_at : nullptr);
      }
      if (sink.q) store_key(g.q + i * tile_.K, in_.q + key_row(t), in_.scale, tile_.q_inverse[i], sink.q + key_at);
      if (sink.k) store_key(g.k + i * tile_.K, in_.k + key_row(t), T(1), tile_.k_inverse[i], sink.k + key_at);
      if constexpr (Gate::decay != Decay::none) store_decay(g, t, i, value_at, sink);
    }
    store_values(in_, task_, g.v, first, rows, tile_.V, d_v);
  }

 private:
  Index key_row(Index t) const { return (t * in_.heads + task_.key_head) * in_.key_dim; }
  Index value_row(Index t) const { return t * in_.value_heads + task_.head; }

  /// to = factor * from / ||from||; returns ||to / factor||^2.
  T load_key(const T* from, T factor, T* to, T& inverse) const {
    copy_padded(from, in_.key_dim, tile_.K, to);
    T square = dot(to, to, tile_.K);
    inverse = T(1);
    if (in_.normalize) {
      inverse = T(1) / std::sqrt(square + T(l2_norm_epsilon));
      square *= inverse * inverse;
    }
    const P scale(factor * inverse);
    for_packs<T>(tile_.K, [&](Index d) { (P::load(to + d) * scale).store(to + d); });
    return square;
  }
  /// Gradient of load_key: y = factor x / ||x||.
  void store_key(const T* dy, const T* x, T factor, T inverse, T* dx) const {
    const Index K = in_.key_dim;
    T along = 0;
    if (in_.normalize)
      for (Index d = 0; d < K; ++d) along += dy[d] * x[d];
    const T scale = factor * inverse, back = scale * along * inverse * inverse;
    for (Index d = 0; d < K; ++d) dx[d] = scale * dy[d] - back * x[d];
  }

  T load_beta(Index t) const {
    const T beta = in_.beta[value_row(t)];
    return in_.beta_logit ? math::sigmoid(beta) : beta;
  }
  void store_strengths(const TileGradients<Gate, Update, T>& g, Index i, T* d_beta) const {
    const T beta = tile_.beta[i];
    const auto slope = Update::derivative(beta, tile_.norm2[i]);
    const T dnorm2 = 2 * (g.erase[i] * slope.erase_norm + g.write[i] * slope.write_norm);
    if (dnorm2 != T(0))
      for (Index d = 0; d < tile_.K; ++d) g.k[i * tile_.K + d] += dnorm2 * tile_.k[i * tile_.K + d];
    const T dbeta = g.erase[i] * slope.erase_beta + g.write[i] * slope.write_beta;
    if (d_beta) *d_beta = in_.beta_logit ? dbeta * beta * (T(1) - beta) : dbeta;
  }

  void load_decay(Index t, Index i) const {
    if constexpr (Gate::decay == Decay::per_head) {
      const T x = in_.gate[value_row(t)];
      if constexpr (gate_is_given<Gate>) tile_.alpha[i] = std::exp(x);
      else tile_.alpha[i] = std::exp(Gate::log_decay(x, rate_, tile_.bias[0]));
    } else if constexpr (channels) {
      T* alpha = tile_.alpha + i * tile_.K;
      copy_padded(in_.gate + value_row(t) * in_.key_dim, in_.key_dim, tile_.K, alpha);
      for_packs<T>(tile_.K, [&](Index d) { math::exp(log_decay(P::load(alpha + d), d)).store(alpha + d); });
      std::fill(alpha + in_.key_dim, alpha + tile_.K, T(1));
    }
  }
  P log_decay(P x, Index d) const {
    if constexpr (gate_is_given<Gate>) return x;
    else if constexpr (gate_takes_packs<Gate>) return Gate::log_decay(x, P(rate_), P::load(tile_.bias + d));
    else {
      T lane[P::lanes];
      x.store(lane);
      for (Index j = 0; j < P::lanes; ++j) lane[j] = Gate::log_decay(lane[j], rate_, tile_.bias[d + j]);
      return P::load(lane);
    }
  }

  void store_decay(const TileGradients<Gate, Update, T>& g, Index t, Index i, Index value_at, const GradientSink<T>& sink) const {
    const Index width = decay_width<Gate>(in_.key_dim), partial = task_.sequence * sink.lanes + task_.lane;
    const T* dlog = g.log_decay + i * decay_width<Gate>(tile_.K);
    T* d_gate = sink.gate ? sink.gate + value_at * width : nullptr;
    if constexpr (gate_is_given<Gate>) {
      if (d_gate) std::copy(dlog, dlog + width, d_gate);
    } else {
      const T* x = in_.gate + value_row(t) * width;
      T* d_bias = sink.dt_bias ? sink.dt_bias + partial * width : nullptr;
      T d_rate = 0;
      Index d = 0;
      if constexpr (gate_takes_packs<Gate> && channels) {
        P rate_total(T(0));
        for (; d + P::lanes <= width; d += P::lanes) {
          const P g_log = P::load(dlog + d);
          const auto slope = Gate::derivative(P::load(x + d), P(rate_), P::load(tile_.bias + d));
          if (d_gate) (g_log * slope.x).store(d_gate + d);
          if (d_bias) (P::load(d_bias + d) + g_log * slope.bias).store(d_bias + d);
          rate_total += g_log * slope.rate;
        }
        d_rate = sum(rate_total);
      }
      for (; d < width; ++d) {
        const auto slope = Gate::derivative(x[d], rate_, tile_.bias[d]);
        if (d_gate) d_gate[d] = dlog[d] * slope.x;
        if (d_bias) d_bias[d] += dlog[d] * slope.bias;
        d_rate += dlog[d] * slope.rate;
      }
      if (sink.A_log) sink.A_log[partial] += d_rate * rate_;  // rate = exp(A_log)
    }
  }

  const LinearAttentionInputs<T>& in_;
  const HeadTask& task_;
  const TileT& tile_;
  T rate_ = 1;
};

}  // namespace braid::cpu::detail
