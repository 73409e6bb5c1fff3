// One call of linear attention as data: inputs, incoming gradients and all results, in any scalar type.
#pragma once

#include <braid/core/linear_attention.hpp>
#include <braid/core/random.hpp>

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

/// Sizes of a random problem.
struct LinearAttentionSizes {
  std::vector<Index> lengths;
  Index heads = 1, value_heads = 1, key_dim = 16, value_dim = 16;
};

/// A random problem for a gate and an update: unit keys and queries (raw ones if the gate is parametric), beta in [0, 2], decays from
/// almost 1 down to e^-10, states and incoming gradients everywhere.
template <class Gate, class Update> LinearAttentionProblem<double> random_problem(const LinearAttentionSizes& sizes, std::uint64_t number) {
  Random random(seed(number));
  LinearAttentionProblem<double> p;
  p.heads = sizes.heads, p.value_heads = sizes.value_heads, p.key_dim = sizes.key_dim, p.value_dim = sizes.value_dim;
  p.offsets = {0};
  for (Index length : sizes.lengths) p.offsets.push_back(p.offsets.back() + length);
  p.tokens = p.offsets.back();
  auto normal = [&](Index n, double scale) {
    std::vector<double> x(static_cast<std::size_t>(n));
    for (double& value : x) value = scale * random.normal();
    return x;
  };
  const Index T = p.tokens, HV = p.value_heads, K = p.key_dim;
  const Index decays = Gate::decay == Decay::per_channel ? K : (Gate::decay == Decay::per_head ? 1 : 0);
  const double unit = 1 / std::sqrt(static_cast<double>(K));
  p.normalize = p.beta_logit = !gate_is_given<Gate>;
  p.q = normal(T * p.heads * K, p.normalize ? 1 : unit), p.k = normal(T * p.heads * K, p.normalize ? 1 : unit);
  p.v = normal(T * HV * p.value_dim, 1), p.d_o = normal(T * HV * p.value_dim, 1);
  p.gate = normal(T * HV * decays, 1.5);
  if (gate_is_given<Gate>)
    for (double& g : p.gate) g = -std::exp(g);
  else
    p.A_log = normal(HV, 0.5), p.dt_bias = normal(HV * decays, 0.5);
  if (Update::uses_beta) {
    p.beta = normal(T * HV, 1);
    if (!p.beta_logit)
      for (double& b : p.beta) b = 2 / (1 + std::exp(-b));
  }
  if (update_is_dplr<Update>) p.a = normal(T * HV * K, 0.7 * unit), p.b = normal(T * HV * K, 0.7 * unit);
  p.initial_state = normal(p.state_size(), 0.5), p.d_final_state = normal(p.state_size(), 0.5);
  p.scale = 0.7;
  return p;
}

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

  /// The largest relative error against `expected`, each array within `limit`, d_q and d_k within `keys_limit` where it is given.
  template <class U> auto worst(const LinearAttentionResults<U>& expected, double limit, double keys_limit = 0) const;

  static constexpr std::array<const char*, 12> names{"o",      "final_state", "d_q", "d_k",     "d_v",       "d_gate",
                                                     "d_beta", "d_a",         "d_b", "d_A_log", "d_dt_bias", "d_initial_state"};
  std::array<const std::vector<T>*, 12> all() const {
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

template <class T>
template <class U>
auto LinearAttentionResults<T>::worst(const LinearAttentionResults<U>& expected, double limit, double keys_limit) const {
  WorstError worst;
  for (std::size_t i = 0; i < names.size(); ++i) {
    const bool keys = keys_limit > 0 && (all()[i] == &d_q || all()[i] == &d_k);
    worst.add(relative_error(*all()[i], *expected.all()[i]), keys ? keys_limit : limit, names[i]);
  }
  return worst;
}

/// Outputs and gradients of a call `forward(inputs, outputs)`, `backward(inputs, gradients)`.
template <class T, class Forward, class Backward>
LinearAttentionResults<T> results_of(const LinearAttentionProblem<T>& p, Forward&& forward, Backward&& backward) {
  LinearAttentionResults<T> results(p);
  forward(p.inputs(), results.outputs());
  backward(p.inputs(), results.gradients(p));
  return results;
}

}  // namespace braid::test
