// Properties of linear attention that no comparison of numbers shows: states that split, threads, memory, hostile inputs, errors, and
// gates and updates of the user's own.
#include "cpu/linear_attention_support.hpp"

#include <doctest/doctest.h>

#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<long> allocations{0};
}
BRAID_NOINLINE void* operator new(std::size_t size) {
  ++allocations;
  if (void* p = std::malloc(size ? size : 1)) return p;
  throw std::bad_alloc();
}
BRAID_NOINLINE void operator delete(void* p) noexcept { std::free(p); }
BRAID_NOINLINE void operator delete(void* p, std::size_t) noexcept { std::free(p); }

using namespace braid;
using namespace braid::test;

namespace {

using Kda = LogDecay<>;

/// A gate of the user's own, in plain scalar code: log alpha = -rate (x + bias)^2.
struct SquaredGate {
  static constexpr Decay decay = Decay::per_channel;
  template <class T> static T log_decay(T x, T rate, T bias) { return -rate * (x + bias) * (x + bias); }
  template <class T> static GateDerivative<T> derivative(T x, T rate, T bias) {
    const T y = x + bias;
    return {-2 * rate * y, -y * y, -2 * rate * y};
  }
};

/// An update of the user's own whose strengths differ and depend on ||k||^2.
struct Normalized {
  static constexpr bool uses_beta = true, erases = true;
  template <class T> static T erase(T beta, T n) { return beta / (T(1) + beta * n); }
  template <class T> static T write(T beta, T n) { return beta * n; }
  template <class T> static UpdateDerivative<T> derivative(T beta, T n) {
    const T d = T(1) + beta * n;
    return {T(1) / (d * d), -beta * beta / (d * d), n, beta};
  }
};

template <class F> std::string error_of(F&& f) {
  try {
    f();
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

void check_worst(const WorstError& worst) {
  CAPTURE(worst.where);
  CAPTURE(worst.error);
  CHECK(worst.within);
}

}  // namespace

TEST_CASE("a gate and an update of the user's own") {
  cpu::Context ctx;
  const auto p = random_problem<SquaredGate, Normalized>({{40, 0, 21}, 1, 2, 12, 10}, 1);
  const auto expected = reference_results<SquaredGate, Normalized>(p);
  check_worst(cpu_results<SquaredGate, Normalized, Recurrent>(ctx, p).worst(expected, 1e-12));
  check_worst(cpu_results<SquaredGate, Normalized, Chunkwise<32>>(ctx, p).worst(expected, 1e-12));
}

TEST_CASE("KDA written as DPLR gives KDA's numbers and gradients") {
  cpu::Context ctx;
  const auto kda = random_problem<Kda, DeltaRule>({{70, 33}, 1, 1, 16, 24}, 2);
  auto dplr = kda;  // a = beta k, b = alpha k, and beta v for v
  dplr.beta.clear(), dplr.a = kda.k, dplr.b = kda.k;
  const auto K = static_cast<std::size_t>(kda.key_dim), V = static_cast<std::size_t>(kda.value_dim);
  for (std::size_t t = 0; t < kda.beta.size(); ++t) {
    for (std::size_t d = t * K; d < (t + 1) * K; ++d) dplr.a[d] *= kda.beta[t], dplr.b[d] *= std::exp(kda.gate[d]);
    for (std::size_t j = t * V; j < (t + 1) * V; ++j) dplr.v[j] *= kda.beta[t];
  }
  const auto x = cpu_results<Kda, DeltaRule, Chunkwise<32>>(ctx, kda);
  const auto y = cpu_results<Kda, Dplr, Chunkwise<32>>(ctx, dplr);
  LinearAttentionResults<double> z = y;  // the chain rule through a, b and v
  for (std::size_t t = 0; t < kda.beta.size(); ++t) {
    z.d_beta.push_back(0);
    for (std::size_t d = t * K; d < (t + 1) * K; ++d) {
      z.d_k[d] += y.d_a[d] * kda.beta[t] + y.d_b[d] * std::exp(kda.gate[d]);
      z.d_beta[t] += y.d_a[d] * kda.k[d];
      z.d_gate[d] += y.d_b[d] * dplr.b[d];
    }
    for (std::size_t j = t * V; j < (t + 1) * V; ++j) z.d_v[j] *= kda.beta[t], z.d_beta[t] += y.d_v[j] * kda.v[j];
  }
  z.d_a.clear(), z.d_b.clear();
  check_worst(z.worst(x, 1e-12));
}

TEST_CASE("a sequence cut in two and carried on by its state is the whole sequence") {
  cpu::Context ctx;
  auto whole = random_problem<SoftplusGate, DeltaRule>({{101}, 2, 2, 16, 16}, 3);
  LinearAttentionResults<double> r(whole), parts(whole);
  cpu::linear_attention<SoftplusGate, DeltaRule>(ctx, whole.inputs(), r.outputs());
  auto run = [&](Index first, Index tokens, const double* state, auto form) {
    auto in = whole.inputs();
    const Index row = first * 2 * 16;
    in.tokens = tokens, in.offsets = {}, in.initial_state = state;
    in.q += row, in.k += row, in.v += row, in.gate += row, in.beta += first * 2;
    const LinearAttentionOutputs<double> out{parts.o.data() + row, parts.final_state.data()};
    cpu::linear_attention<SoftplusGate, DeltaRule, decltype(form)>(ctx, in, out);
  };
  run(0, 37, whole.initial_state.data(), Chunkwise<64>{});
  for (Index t = 37; t < 50; ++t) run(t, 1, parts.final_state.data(), Recurrent{});  // decoding: the state in place
  run(50, 51, parts.final_state.data(), Chunkwise<16>{});
  CHECK(relative_error(parts.o, r.o) <= 1e-12);
  CHECK(relative_error(parts.final_state, r.final_state) <= 1e-12);
}

TEST_CASE("results do not depend on threads or on neighbours in the batch") {
  cpu::Context one(1), four(4);
  const auto p = random_problem<Kda, DeltaRule>({{65, 20}, 1, 1, 16, 128}, 4).as<float>();
  const auto x = cpu_results<Kda, DeltaRule, Chunkwise<32>>(one, p), y = cpu_results<Kda, DeltaRule, Chunkwise<32>>(four, p);
  CHECK(x.o == y.o);
  CHECK(x.final_state == y.final_state);
  CHECK(x.d_v == y.d_v);  // the others are sums over value columns, which four threads split
  check_worst(x.worst(y, 1e-5));
  CHECK(cpu_results<Kda, DeltaRule, Chunkwise<32>>(four, p).d_k == y.d_k);  // run to run

  auto poisoned = p;  // NaN in the second sequence must not reach the first
  for (std::size_t i = 65 * 128; i < p.v.size(); ++i) poisoned.v[i] = std::numeric_limits<float>::quiet_NaN();
  const auto z = cpu_results<Kda, DeltaRule, Chunkwise<32>>(one, poisoned);
  CHECK(std::equal(z.o.begin(), z.o.begin() + 65 * 128, x.o.begin()));
  CHECK(std::equal(z.d_k.begin(), z.d_k.begin() + 65 * 16, x.d_k.begin()));
}

TEST_CASE("hostile inputs stay finite and right") {
  cpu::Context ctx;
  auto check = [&](const LinearAttentionProblem<double>& p, const char* name) {
    CAPTURE(name);
    const auto expected = reference_results<Kda, DeltaRule>(p);
    check_worst(cpu_results<Kda, DeltaRule, Recurrent>(ctx, p).worst(expected, 1e-9));
    check_worst(cpu_results<Kda, DeltaRule, Chunkwise<64>>(ctx, p).worst(expected, 1e-9));
  };
  const auto base = random_problem<Kda, DeltaRule>({{100}, 1, 1, 16, 16}, 5);
  auto p = base;
  for (std::size_t i = 0; i < p.k.size(); ++i) p.k[i] = i % 16 == 3;  // one key, always
  for (double& b : p.beta) b = 0.9997;
  for (double& g : p.gate) g = 0;
  check(p, "same key");
  for (double& b : p.beta) b = 2;
  check(p, "beta = 2: a reflection");
  p = base;
  for (std::size_t i = 0; i < p.k.size(); i += 3) p.k[i / 16 * 16 + i % 16] = 0;
  for (std::size_t i = 320; i < 640; ++i) p.k[i] = 0;
  check(p, "zero keys");
  p = base;
  for (double& g : p.gate) g = -5;
  check(p, "gates at the floor");
  for (std::size_t i = 0; i < p.gate.size(); ++i) p.gate[i] = i % 7 ? -1e-3 : -40;
  check(p, "cliffs");
  for (std::size_t i = 0; i < p.gate.size(); i += 5) p.gate[i] = -1e4;
  check(p, "alpha = 0");
}

TEST_CASE("an infinite log decay erases a channel") {
  cpu::Context ctx;
  auto p = random_problem<Kda, DeltaRule>({{40}, 1, 1, 8, 8}, 6).as<float>();
  p.gate[20 * 8 + 2] = -std::numeric_limits<float>::infinity();
  for (const auto& r : {cpu_results<Kda, DeltaRule, Recurrent>(ctx, p), cpu_results<Kda, DeltaRule, Chunkwise<64>>(ctx, p)})
    for (const auto* x : r.all())
      for (float value : *x) REQUIRE(std::isfinite(value));
}

/// The results where the forward keeps what the backward needs.
template <class Gate, class Update, class Form> LinearAttentionResults<double> kept_results(cpu::Context& ctx, const LinearAttentionProblem<double>& p) {
  std::vector<double> kept(static_cast<std::size_t>(cpu::linear_attention_kept<Form>(ctx, p.inputs())), std::numeric_limits<double>::quiet_NaN());
  LinearAttentionResults<double> r(p);
  auto out = r.outputs();
  auto gradients = r.gradients(p);
  out.kept = kept.data(), gradients.kept = kept.data();
  cpu::linear_attention<Gate, Update, Form>(ctx, p.inputs(), out);
  cpu::linear_attention_backward<Gate, Update, Form>(ctx, p.inputs(), gradients);
  return r;
}

// The forward multiplies the state by queries and keys at once, the sweep by keys alone: the same sums in another order, so a few units in
// the last place of a sum of 16 to 128 terms.
TEST_CASE_TEMPLATE("the backward of a forward that kept what it needs gives the same gradients", Form, Chunkwise<16>, Chunkwise<64>) {
  for (int threads : {1, 8}) {  // 8: more threads than (sequence, head) pairs, so heads are cut into panels of columns
    cpu::Context ctx(threads);
    const auto compare = [&]<class Gate, class Update>(Gate, Update, const LinearAttentionSizes& shape) {
      const auto p = random_problem<Gate, Update>(shape, 11);
      check_worst(kept_results<Gate, Update, Form>(ctx, p).worst(cpu_results<Gate, Update, Form>(ctx, p), 1e-12));
    };
    for (const LinearAttentionSizes& shape : {LinearAttentionSizes{{63, 0, 1, 64, 65, 130}, 1, 2, 16, 24}, LinearAttentionSizes{{100}, 1, 1, 8, 48}}) {
      compare(Kda{}, DeltaRule{}, shape);
#ifndef BRAID_SANITIZED  // minutes of compilation
      compare(SoftplusGate{}, Normalized{}, shape);
      compare(PerHead<SoftplusGate>{}, Additive{}, shape);
      compare(Kda{}, Dplr{}, shape);
#endif
    }
  }
}

TEST_CASE("token by token nothing is kept") {
  cpu::Context ctx;
  const auto p = random_problem<Kda, DeltaRule>({{20}, 1, 1, 4, 4}, 9);
  LinearAttentionResults<double> r(p);
  CHECK(cpu::linear_attention_kept<Recurrent>(ctx, p.inputs()) == 0);
  auto out = r.outputs();
  auto gradients = r.gradients(p);
  out.kept = r.o.data(), gradients.kept = r.o.data();
  CHECK(error_of([&] { cpu::linear_attention<Kda, DeltaRule, Recurrent>(ctx, p.inputs(), out); }).find("no array `kept`") != std::string::npos);
  CHECK(error_of([&] { cpu::linear_attention_backward<Kda, DeltaRule, Recurrent>(ctx, p.inputs(), gradients); }).find("no array `kept`") !=
        std::string::npos);
}

TEST_CASE("a steady call allocates nothing") {
  cpu::Context ctx(1);
  const auto p = random_problem<SoftplusGate, DeltaRule>({{70, 20}, 1, 2, 16, 32}, 7).as<float>();
  LinearAttentionResults<float> r(p);
  auto step = [&] {
    cpu::linear_attention<SoftplusGate, DeltaRule>(ctx, p.inputs(), r.outputs());
    cpu::linear_attention<SoftplusGate, DeltaRule, Recurrent>(ctx, p.inputs(), r.outputs());
    cpu::linear_attention_backward<SoftplusGate, DeltaRule>(ctx, p.inputs(), r.gradients(p));
  };
  step();
  step();
  const long before = allocations;
  const std::size_t reserved = ctx.arena.reserved();
  step();
  CHECK(allocations == before);
  CHECK(ctx.arena.reserved() == reserved);
}

TEST_CASE("gradients that are not wanted are not computed into null") {
  cpu::Context ctx;
  const auto p = random_problem<SoftplusGate, DeltaRule>({{33}, 1, 1, 16, 64}, 8);
  auto full = cpu_results<SoftplusGate, DeltaRule, Chunkwise<64>>(ctx, p);
  LinearAttentionResults<double> r(p);
  LinearAttentionGradients<double> only;
  only.d_o = p.d_o.data(), only.d_final_state = p.d_final_state.data(), only.d_k = r.d_k.data();
  cpu::linear_attention_backward<SoftplusGate, DeltaRule>(ctx, p.inputs(), only);
  CHECK(r.d_k == full.d_k);
  cpu::linear_attention_backward<SoftplusGate, DeltaRule, Recurrent>(ctx, p.inputs(), only);
  CHECK(relative_error(r.d_k, full.d_k) <= 1e-12);
}

TEST_CASE("errors name the argument") {
  cpu::Context ctx;
  auto p = random_problem<Kda, DeltaRule>({{20}, 1, 1, 4, 4}, 9);
  LinearAttentionResults<double> r(p);
  auto call = [&] { return error_of([&] { cpu::linear_attention<Kda, DeltaRule>(ctx, p.inputs(), r.outputs()); }); };
  CHECK(call() == "no error");
  p.gate[13 * 4 + 1] = 0.5;
  CHECK(call() == "linear_attention: expected log decays <= 0 in `gate`, found 0.5 at token 13, entry 1");
  p.gate[13 * 4 + 1] = std::numeric_limits<double>::quiet_NaN();
  CHECK(call().find("log decays <= 0") != std::string::npos);
  p.gate.clear();
  CHECK(call() == "linear_attention: expected the array `gate`, found a null pointer");
  p = random_problem<Kda, DeltaRule>({{20}, 1, 1, 4, 4}, 9);
  p.offsets = {0, 12, 8, 20};
  CHECK(call().find("do not descend") != std::string::npos);
  p.offsets = {0, 12};
  CHECK(call().find("number of tokens, 20") != std::string::npos);
  p.offsets = {0, 20};
  p.value_heads = 3, p.heads = 2;
  CHECK(call().find("multiple of heads") != std::string::npos);
}
