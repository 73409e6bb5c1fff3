// Linear attention as the paper writes it: float64, token by token, plain loops, nothing shared with any backend but the arguments.
// It is slow and keeps every state; its purpose is to be read and to be right.
#pragma once

#include <braid/core/linear_attention.hpp>

#include <array>
#include <cmath>
#include <vector>

namespace braid::reference {

namespace detail {

/// Reads one head of one token after another, with the activations of section 4 applied.
template <class Gate, class Update> struct HeadReader {
  const LinearAttentionInputs<double>& in;
  Index head;  // value head
  Index K = in.key_dim, V = in.value_dim, H = in.heads, HV = in.value_heads;

  Index key_row(Index t) const { return (t * H + head / (HV / H)) * K; }
  Index row(Index t) const { return t * HV + head; }

  double decay_bias(Index d) const { return Gate::decay == Decay::per_channel ? in.dt_bias[head * K + d] : in.dt_bias[head]; }
  double gate_input(Index t, Index d) const { return Gate::decay == Decay::per_channel ? in.gate[row(t) * K + d] : in.gate[row(t)]; }
  double alpha(Index t, Index d) const {
    if constexpr (Gate::decay == Decay::none) return 1;
    if constexpr (gate_is_given<Gate>) return std::exp(gate_input(t, d));
    return std::exp(Gate::log_decay(gate_input(t, d), std::exp(in.A_log[head]), decay_bias(d)));
  }
  GateDerivative<double> gate_derivative(Index t, Index d) const {
    if constexpr (gate_is_given<Gate>) return {1, 0, 0};
    return Gate::derivative(gate_input(t, d), std::exp(in.A_log[head]), decay_bias(d));
  }
  double beta(Index t) const {
    if (!in.beta) return 0;
    return in.beta_logit ? 1 / (1 + std::exp(-in.beta[row(t)])) : in.beta[row(t)];
  }
  double norm(const double* x) const {
    double sum = in.normalize ? l2_norm_epsilon : 1;
    for (Index d = 0; in.normalize && d < K; ++d) sum += x[d] * x[d];
    return std::sqrt(sum);
  }
  std::vector<double> normalized(const double* x) const {
    std::vector<double> y(x, x + K);
    for (double& value : y) value /= norm(x);
    return y;
  }
  std::vector<double> q(Index t) const { return normalized(in.q + key_row(t)); }
  std::vector<double> k(Index t) const { return normalized(in.k + key_row(t)); }
};

/// Adds the gradient of x / ||x|| (or of x) to dx.
inline void add_normalized_gradient(const std::vector<double>& dy, const std::vector<double>& y, double norm, bool normalize, double* dx) {
  double along = 0;
  for (std::size_t d = 0; normalize && d < y.size(); ++d) along += dy[d] * y[d];
  for (std::size_t d = 0; d < y.size(); ++d) dx[d] += (dy[d] - along * y[d]) / norm;
}

/// What one token does to the state S [K, V]: Eq. (1), or section 6.2 for Dplr.
template <class Gate, class Update> struct Token {
  Index K, V;
  std::vector<double> q, k, alpha, r, y;  // r: what is written along k; y: what the state said before
  double erase = 0, write = 1, norm2 = 0;

  Token(const HeadReader<Gate, Update>& read, Index t, std::vector<double>& S)
      : K(read.K), V(read.V), q(read.q(t)), k(read.k(t)), alpha(K), r(V), y(V) {
    for (Index d = 0; d < K; ++d) alpha[d] = read.alpha(t, d);
    const double* v = read.in.v + read.row(t) * V;
    if constexpr (update_is_dplr<Update>) {
      const double *a = read.in.a + read.row(t) * K, *b = read.in.b + read.row(t) * K;
      for (Index j = 0; j < V; ++j)
        for (Index d = 0; d < K; ++d) y[j] += S[d * V + j] * b[d];  // y = S^T b
      for (Index d = 0; d < K; ++d)
        for (Index j = 0; j < V; ++j) S[d * V + j] = alpha[d] * S[d * V + j] - a[d] * y[j] + k[d] * v[j];
    } else {
      for (double value : k) norm2 += value * value;
      erase = Update::erase(read.beta(t), norm2);
      write = Update::write(read.beta(t), norm2);
      for (Index d = 0; d < K; ++d)
        for (Index j = 0; j < V; ++j) {
          S[d * V + j] *= alpha[d];
          y[j] += S[d * V + j] * k[d];  // y = (A S)^T k
        }
      for (Index j = 0; j < V; ++j) r[j] = write * v[j] - erase * y[j];
      for (Index d = 0; d < K; ++d)
        for (Index j = 0; j < V; ++j) S[d * V + j] += k[d] * r[j];
    }
  }
};

inline std::vector<double> initial_state(const double* from, Index size) {
  return from ? std::vector<double>(from, from + size) : std::vector<double>(size, 0.0);
}

/// Calls f(sequence, first token, end token, value head) for every sequence and head.
template <class F> void for_each_head(const LinearAttentionInputs<double>& in, F&& f) {
  const std::array<Index, 2> whole{0, in.tokens};
  const std::span<const Index> offsets = in.offsets.empty() ? std::span<const Index>(whole) : in.offsets;
  for (std::size_t n = 0; n + 1 < offsets.size(); ++n)
    for (Index h = 0; h < in.value_heads; ++h) f(static_cast<Index>(n), offsets[n], offsets[n + 1], h);
}

}  // namespace detail

/// o_t = scale S_t^T q_t with S_t by Eq. (1). Shapes: see LinearAttentionInputs. Throws Error as `check_linear_attention`.
template <class Gate, class Update>
void linear_attention(const LinearAttentionInputs<double>& in, const LinearAttentionOutputs<double>& out) {
  check_linear_attention<Gate, Update>(in, "reference::linear_attention");
  const Index K = in.key_dim, V = in.value_dim, HV = in.value_heads;
  detail::for_each_head(in, [&](Index n, Index begin, Index end, Index h) {
    const Index at = (n * HV + h) * K * V;
    const detail::HeadReader<Gate, Update> read{in, h};
    std::vector<double> S = detail::initial_state(in.initial_state ? in.initial_state + at : nullptr, K * V);
    for (Index t = begin; t < end; ++t) {
      const detail::Token<Gate, Update> token(read, t, S);
      for (Index j = 0; j < V; ++j) {
        double sum = 0;
        for (Index d = 0; d < K; ++d) sum += S[d * V + j] * token.q[d];
        out.o[(t * HV + h) * V + j] = in.scale * sum;
      }
    }
    if (out.final_state) std::copy(S.begin(), S.end(), out.final_state + at);
  });
}

namespace detail {

/// The reverse of one token: takes dS, the gradient of S_t, to that of S_{t-1}, and adds to the token's gradients in `out`.
template <class Gate, class Update>
void reverse_token(const HeadReader<Gate, Update>& read, Index t, const std::vector<double>& before,
                   const LinearAttentionGradients<double>& out, std::vector<double>& dS) {
  const LinearAttentionInputs<double>& in = read.in;
  const Index K = in.key_dim, V = in.value_dim, row = read.row(t);
  std::vector<double> S = before;
  const Token<Gate, Update> x(read, t, S);
  const double *v = in.v + row * V, *d_o = out.d_o + row * V;
  std::vector<double> dq(K), dk(K), da(K), db(K), dalpha(K), dv(V), dr(V), dy(V);

  for (Index d = 0; d < K; ++d)
    for (Index j = 0; j < V; ++j) {  // o = scale S^T q
      dq[d] += in.scale * S[d * V + j] * d_o[j];
      dS[d * V + j] += in.scale * x.q[d] * d_o[j];
    }
  if constexpr (update_is_dplr<Update>) {
    const double *a = in.a + row * K, *b = in.b + row * K;
    for (Index d = 0; d < K; ++d)
      for (Index j = 0; j < V; ++j) {
        const double g = dS[d * V + j];
        dk[d] += g * v[j], dv[j] += g * x.k[d];
        da[d] -= g * x.y[j], dy[j] -= g * a[d];
        dalpha[d] += g * before[d * V + j];
      }
    for (Index d = 0; d < K; ++d)
      for (Index j = 0; j < V; ++j) {
        db[d] += before[d * V + j] * dy[j];
        dS[d * V + j] = x.alpha[d] * dS[d * V + j] + b[d] * dy[j];
      }
    for (Index d = 0; d < K; ++d) {
      if (out.d_a) out.d_a[row * K + d] = da[d];
      if (out.d_b) out.d_b[row * K + d] = db[d];
    }
  } else {
    double derase = 0, dwrite = 0;
    for (Index j = 0; j < V; ++j) {
      for (Index d = 0; d < K; ++d) dk[d] += dS[d * V + j] * x.r[j], dr[j] += dS[d * V + j] * x.k[d];
      dv[j] = x.write * dr[j];
      dy[j] = -x.erase * dr[j];
      dwrite += dr[j] * v[j];
      derase -= dr[j] * x.y[j];
    }
    for (Index d = 0; d < K; ++d)
      for (Index j = 0; j < V; ++j) {  // y = (A S)^T k
        dk[d] += x.alpha[d] * before[d * V + j] * dy[j];
        const double g = dS[d * V + j] + x.k[d] * dy[j];
        dalpha[d] += g * before[d * V + j];
        dS[d * V + j] = x.alpha[d] * g;
      }
    const double beta = read.beta(t);
    const auto slope = Update::derivative(beta, x.norm2);
    const double dbeta = derase * slope.erase_beta + dwrite * slope.write_beta;
    const double dnorm2 = derase * slope.erase_norm + dwrite * slope.write_norm;
    for (Index d = 0; d < K; ++d) dk[d] += 2 * dnorm2 * x.k[d];
    if (out.d_beta && Update::uses_beta) out.d_beta[row] = in.beta_logit ? dbeta * beta * (1 - beta) : dbeta;
  }

  for (Index j = 0; out.d_v && j < V; ++j) out.d_v[row * V + j] = dv[j];
  const Index at = read.key_row(t);
  if (out.d_q) add_normalized_gradient(dq, x.q, read.norm(in.q + at), in.normalize, out.d_q + at);
  if (out.d_k) add_normalized_gradient(dk, x.k, read.norm(in.k + at), in.normalize, out.d_k + at);
  if constexpr (Gate::decay != Decay::none) {
    constexpr bool channels = Gate::decay == Decay::per_channel;
    for (Index d = 0; d < K; ++d) {
      const double dlog = x.alpha[d] * dalpha[d];
      const auto slope = read.gate_derivative(t, d);
      const Index g = channels ? row * K + d : row;
      if (out.d_gate) out.d_gate[g] += dlog * slope.x;
      if constexpr (!gate_is_given<Gate>) {
        if (out.d_A_log) out.d_A_log[read.head] += dlog * slope.rate * std::exp(in.A_log[read.head]);
        if (out.d_dt_bias) out.d_dt_bias[channels ? read.head * K + d : read.head] += dlog * slope.bias;
      }
    }
  }
}

}  // namespace detail

/// Gradients of `linear_attention` by running its steps in reverse. Shapes: see LinearAttentionGradients.
template <class Gate, class Update>
void linear_attention_backward(const LinearAttentionInputs<double>& in, const LinearAttentionGradients<double>& out) {
  check_linear_attention<Gate, Update>(in, "reference::linear_attention_backward");
  const Index K = in.key_dim, V = in.value_dim, HV = in.value_heads, T = in.tokens;
  constexpr bool channels = Gate::decay == Decay::per_channel;
  auto clear = [](double* x, Index n) {
    if (x) std::fill(x, x + n, 0.0);
  };
  clear(out.d_q, T * in.heads * K), clear(out.d_k, T * in.heads * K), clear(out.d_gate, T * HV * (channels ? K : 1));
  clear(out.d_A_log, HV), clear(out.d_dt_bias, HV * (channels ? K : 1));

  detail::for_each_head(in, [&](Index n, Index begin, Index end, Index h) {
    const Index at = (n * HV + h) * K * V;
    const detail::HeadReader<Gate, Update> read{in, h};
    std::vector<std::vector<double>> states{detail::initial_state(in.initial_state ? in.initial_state + at : nullptr, K * V)};
    for (Index t = begin; t < end; ++t) {
      states.push_back(states.back());
      detail::Token<Gate, Update>(read, t, states.back());
    }
    std::vector<double> dS = detail::initial_state(out.d_final_state ? out.d_final_state + at : nullptr, K * V);
    for (Index t = end; t-- > begin;) detail::reverse_token(read, t, states[t - begin], out, dS);
    if (out.d_initial_state) std::copy(dS.begin(), dS.end(), out.d_initial_state + at);
  });
}

}  // namespace braid::reference
