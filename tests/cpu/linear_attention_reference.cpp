// The float64 reference against finite differences: the root of all other checks of linear attention.
#include "cpu/linear_attention_problem.hpp"

#include <braid/reference/linear_attention.hpp>

#include <doctest/doctest.h>

using namespace braid;
using namespace braid::test;

namespace {

/// Longhorn's strengths (Table 6): beta / (1 + beta n) with n = ||k||^2, an update that depends on the key's norm.
struct Longhorn {
  static constexpr bool uses_beta = true, erases = true;
  template <class T> static T erase(T beta, T n) { return beta / (T(1) + beta * n); }
  template <class T> static T write(T beta, T n) { return beta / (T(1) + beta * n); }
  template <class T> static UpdateDerivative<T> derivative(T beta, T n) {
    const T d = (T(1) + beta * n) * (T(1) + beta * n);
    return {T(1) / d, -beta * beta / d, T(1) / d, -beta * beta / d};
  }
};

template <class Gate, class Update> double loss(const LinearAttentionProblem<double>& p) {
  LinearAttentionResults<double> r(p);
  reference::linear_attention<Gate, Update>(p.inputs(), r.outputs());
  double sum = 0;
  for (std::size_t i = 0; i < r.o.size(); ++i) sum += r.o[i] * p.d_o[i];
  for (std::size_t i = 0; i < r.final_state.size(); ++i) sum += r.final_state[i] * p.d_final_state[i];
  return sum;
}

/// Central differences of every entry of every input. Step h: the truncation is O(h^2), rounding O(2^-52 |loss| / h); 1e-5 balances
/// them near 1e-9 for losses of order 10.
template <class Gate, class Update> void check(std::uint64_t number) {
  auto p = random_problem<Gate, Update>({{5, 0, 3}, 1, 2, 3, 2}, number);
  auto r = results_of(
      p, [](auto in, auto out) { reference::linear_attention<Gate, Update>(in, out); },
      [](auto in, auto out) { reference::linear_attention_backward<Gate, Update>(in, out); });
  auto compare = [&](const char* name, std::vector<double>& input, const std::vector<double>& gradient) {
    constexpr double h = 1e-5;
    std::vector<double> numeric(input.size());
    for (std::size_t i = 0; i < input.size(); ++i) {
      const double x = input[i];
      input[i] = x + h;
      const double above = loss<Gate, Update>(p);
      input[i] = x - h;
      numeric[i] = (above - loss<Gate, Update>(p)) / (2 * h);
      input[i] = x;
    }
    CAPTURE(name);
    CHECK(relative_error(gradient, numeric) <= 1e-7);
  };
  compare("q", p.q, r.d_q), compare("k", p.k, r.d_k), compare("v", p.v, r.d_v), compare("gate", p.gate, r.d_gate);
  compare("beta", p.beta, r.d_beta), compare("a", p.a, r.d_a), compare("b", p.b, r.d_b), compare("A_log", p.A_log, r.d_A_log);
  compare("dt_bias", p.dt_bias, r.d_dt_bias), compare("initial_state", p.initial_state, r.d_initial_state);
}

}  // namespace

TEST_CASE("gradients of the reference are those of finite differences") {
  check<NoDecay, Additive>(1);
  check<LogDecay<Decay::per_head>, Additive>(2);
  check<LogDecay<>, Additive>(3);
  check<NoDecay, DeltaRule>(4);
  check<PerHead<SoftplusGate>, DeltaRule>(5);
  check<LogDecay<>, DeltaRule>(6);
  check<SoftplusGate, DeltaRule>(7);
  check<BoundedGate<-5>, DeltaRule>(8);
  check<LogDecay<>, Dplr>(9);
  check<PerHead<BoundedGate<-5>>, Dplr>(10);
  check<SoftplusGate, Longhorn>(11);
}

TEST_CASE("one token by hand") {
  LinearAttentionProblem<double> p;
  p.tokens = 1, p.key_dim = 2, p.value_dim = 1, p.scale = 2;
  p.q = {1, 3}, p.k = {0.6, 0.8}, p.v = {10}, p.gate = {std::log(0.5), std::log(0.25)}, p.beta = {0.5}, p.initial_state = {4, 8};
  LinearAttentionResults<double> r(p);
  reference::linear_attention<LogDecay<>, DeltaRule>(p.inputs(), r.outputs());
  // A S = (2, 2); k^T A S = 2.8; S = (2, 2) + 0.5 (10 - 2.8) k = (4.16, 4.88); o = 2 (4.16 + 3 * 4.88)
  CHECK(r.final_state[0] == doctest::Approx(4.16));
  CHECK(r.final_state[1] == doctest::Approx(4.88));
  CHECK(r.o[0] == doctest::Approx(37.6));
}
