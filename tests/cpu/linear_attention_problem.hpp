// One call of linear attention as data: inputs, incoming gradients and all results, in any scalar type.
#pragma once

#include <braid/core/linear_attention.hpp>

#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace braid::test {

/// Inputs, as vectors. An empty vector is an absent array.
template <class T> struct LinearAttentionProblem {
  Index tokens = 0, heads = 1, value_heads = 1, key_dim = 0, value_dim = 0;
  std::vector<Index> offsets;
  std::vector<T> q, k, v, gate, beta, a, b, A_log, dt_bias, initial_state, d_o, d_final_state;
  bool normalize = false, beta_logit = false;
  double scale = 1;

  Index sequences() const { return offsets.empty() ? 1 : static_cast<Index>(offsets.size()) - 1; }
  Index state_size() const { return sequences() * value_heads * key_dim * value_dim; }

  LinearAttentionInputs<T> inputs() const {
    auto pointer = [](const std::vector<T>& x) { return x.empty() ? nullptr : x.data(); };
    LinearAttentionInputs<T> in;
    in.tokens = tokens, in.heads = heads, in.value_heads = value_heads, in.key_dim = key_dim, in.value_dim = value_dim;
    in.offsets = offsets;
    in.q = pointer(q), in.k = pointer(k), in.v = pointer(v), in.gate = pointer(gate), in.beta = pointer(beta);
    in.a = pointer(a), in.b = pointer(b), in.A_log = pointer(A_log), in.dt_bias = pointer(dt_bias);
    in.normalize = normalize, in.beta_logit = beta_logit, in.scale = static_cast<T>(scale);
    in.initial_state = pointer(initial_state);
    return in;
  }

  template <class U> LinearAttentionProblem<U> as() const {
    auto cast = [](const std::vector<T>& x) { return std::vector<U>(x.begin(), x.end()); };
    return {tokens, heads, value_heads, key_dim, value_dim, offsets, cast(q), cast(k), cast(v), cast(gate), cast(beta), cast(a),
            cast(b), cast(A_log), cast(dt_bias), cast(initial_state), cast(d_o), cast(d_final_state), normalize, beta_logit, scale};
  }
};

/// Everything a call gives, poisoned with NaN until it is written.
template <class T> struct LinearAttentionResults {
  std::vector<T> o, final_state, d_q, d_k, d_v, d_gate, d_beta, d_a, d_b, d_A_log, d_dt_bias, d_initial_state;

  explicit LinearAttentionResults(const LinearAttentionProblem<T>& p) {
    auto poison = [](std::size_t n) { return std::vector<T>(n, std::numeric_limits<T>::quiet_NaN()); };
    o = poison(p.v.size()), final_state = poison(static_cast<std::size_t>(p.state_size()));
    d_q = poison(p.q.size()), d_k = poison(p.k.size()), d_v = poison(p.v.size()), d_gate = poison(p.gate.size());
    d_beta = poison(p.beta.size()), d_a = poison(p.a.size()), d_b = poison(p.b.size()), d_A_log = poison(p.A_log.size());
    d_dt_bias = poison(p.dt_bias.size()), d_initial_state = poison(final_state.size());
  }

  LinearAttentionOutputs<T> outputs() { return {o.data(), final_state.data()}; }
  LinearAttentionGradients<T> gradients(const LinearAttentionProblem<T>& p) {
    auto pointer = [](std::vector<T>& x) { return x.empty() ? nullptr : x.data(); };
    LinearAttentionGradients<T> g;
    g.d_o = p.d_o.data(), g.d_final_state = p.d_final_state.empty() ? nullptr : p.d_final_state.data();
    g.d_q = pointer(d_q), g.d_k = pointer(d_k), g.d_v = pointer(d_v), g.d_gate = pointer(d_gate), g.d_beta = pointer(d_beta);
    g.d_a = pointer(d_a), g.d_b = pointer(d_b), g.d_A_log = pointer(d_A_log), g.d_dt_bias = pointer(d_dt_bias);
    g.d_initial_state = pointer(d_initial_state);
    return g;
  }

  static constexpr std::array<const char*, 12> names{"o",      "final_state", "d_q", "d_k",     "d_v",       "d_gate",
                                                     "d_beta", "d_a",         "d_b", "d_A_log", "d_dt_bias", "d_initial_state"};
  std::array<std::vector<T>*, 12> all() {
    return {&o, &final_state, &d_q, &d_k, &d_v, &d_gate, &d_beta, &d_a, &d_b, &d_A_log, &d_dt_bias, &d_initial_state};
  }
};

/// ||x - y|| / ||y||, or ||x|| where y = 0; NaN if x holds a NaN or the sizes differ.
template <class X, class Y> double relative_error(const std::vector<X>& x, const std::vector<Y>& y) {
  if (x.size() != y.size()) return std::numeric_limits<double>::quiet_NaN();
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double d = static_cast<double>(x[i]) - static_cast<double>(y[i]);
    difference += d * d;
    norm += static_cast<double>(y[i]) * static_cast<double>(y[i]);
  }
  return std::sqrt(norm > 0 ? difference / norm : difference);
}

/// The largest error over all arrays, in units of its limit, and the array it is in.
struct WorstError {
  double error = 0, share = 0;
  std::string where = "-";
  bool within = true;
  void add(double e, double limit, const std::string& name) {
    within = within && e <= limit;  // a NaN is not
    if (e / limit <= share || std::isnan(error)) return;
    error = e, share = e / limit, where = name;
  }
};

}  // namespace braid::test
