// KDA of 4096 tokens, d = 128, float: token by token, chunkwise, backward, and the matrix product that is the measure of both. First one
// head on one thread, then four heads on two.
// `eq13` is FLOP/s by Eq. (13) of the paper; a backward pass counts twice its forward.
#include <braid/core/random.hpp>
#include <braid/cpu/gemm.hpp>
#include <braid/cpu/linear_attention.hpp>

#include <benchmark/benchmark.h>

#include <cmath>
#include <vector>

namespace {

using namespace braid;
constexpr Index T = 4096, d = 128;

struct Problem {
  std::vector<float> q, k, v, g, beta, d_o, o, d_q, d_k, d_v, d_g, d_beta;
  LinearAttentionInputs<float> in;
  LinearAttentionOutputs<float> out;
  LinearAttentionGradients<float> grad;

  explicit Problem(Index heads) {
    Random random(seed(1));
    auto normal = [&](Index n, double scale) {
      std::vector<float> x(static_cast<std::size_t>(n));
      for (float& y : x) y = static_cast<float>(scale * random.normal());
      return x;
    };
    const Index rows = T * heads;
    q = normal(rows * d, 0.09), k = normal(rows * d, 0.09), v = normal(rows * d, 1), g = normal(rows * d, 0.1), beta = normal(rows, 1);
    d_o = normal(rows * d, 1);
    for (float& x : g) x = -std::abs(x);
    for (float& x : beta) x = 1 / (1 + std::exp(-x));
    o = d_q = d_k = d_v = d_g = q, d_beta = beta;
    in.tokens = T, in.heads = in.value_heads = heads, in.key_dim = in.value_dim = d, in.scale = 0.09f;
    in.q = q.data(), in.k = k.data(), in.v = v.data(), in.gate = g.data(), in.beta = beta.data();
    out.o = o.data();
    grad.d_o = d_o.data(), grad.d_q = d_q.data(), grad.d_k = d_k.data(), grad.d_v = d_v.data(), grad.d_gate = d_g.data();
    grad.d_beta = d_beta.data();
  }
};

constexpr double flop(double C, double passes) { return passes * T * (6.0 * d * d + 3 * C * d + C * C); }

/// Tokens and, unless it is 0, floating-point operations of one iteration, per second.
void count(benchmark::State& state, double flops) {
  state.counters["tokens/s"] = benchmark::Counter(double(T) * double(state.iterations()), benchmark::Counter::kIsRate);
  if (flops > 0) state.counters["eq13"] = benchmark::Counter(flops * double(state.iterations()), benchmark::Counter::kIsRate);
}

// Arguments: heads, threads.
void recurrent(benchmark::State& state) {
  cpu::Context ctx(int(state.range(1)));
  Problem p(state.range(0));
  for (auto _ : state) cpu::linear_attention<LogDecay<>, DeltaRule, Recurrent>(ctx, p.in, p.out);
  count(state, 0);
}
template <int C> void forward(benchmark::State& state) {
  cpu::Context ctx(int(state.range(1)));
  Problem p(state.range(0));
  for (auto _ : state) cpu::linear_attention<LogDecay<>, DeltaRule, Chunkwise<C>>(ctx, p.in, p.out);
  count(state, flop(C, 1) * double(state.range(0)));
}
/// `Keeps`: the forward keeps what the backward needs, as training does; else the backward computes it again.
template <int C, bool Keeps> void forward_backward(benchmark::State& state) {
  cpu::Context ctx(int(state.range(1)));
  Problem p(state.range(0));
  std::vector<float> kept(static_cast<std::size_t>(Keeps ? cpu::linear_attention_kept<Chunkwise<C>>(ctx, p.in) : 0));
  if (Keeps) p.out.kept = kept.data(), p.grad.kept = kept.data();
  for (auto _ : state) {
    cpu::linear_attention<LogDecay<>, DeltaRule, Chunkwise<C>>(ctx, p.in, p.out);
    cpu::linear_attention_backward<LogDecay<>, DeltaRule, Chunkwise<C>>(ctx, p.in, p.grad);
  }
  count(state, flop(C, 3) * double(state.range(0)));
}
void eigen_product(benchmark::State& state) {
  const Index C = state.range(0);
  std::vector<float> a(static_cast<std::size_t>(C * d), 0.5f), b(d * d, 0.5f), c(a.size());
  for (auto _ : state) {
    cpu::gemm_nn<float>(C, d, d, 1.0f, a.data(), d, b.data(), d, c.data(), d, false);
    benchmark::DoNotOptimize(c.data());
  }
  state.counters["flop"] = benchmark::Counter(2.0 * double(C) * d * d * double(state.iterations()), benchmark::Counter::kIsRate);
}

void sizes(benchmark::internal::Benchmark* b) { b->Args({1, 1})->Args({4, 2})->Unit(benchmark::kMillisecond)->UseRealTime(); }

BENCHMARK(eigen_product)->Arg(32)->Arg(64);
BENCHMARK(recurrent)->Apply(sizes);
BENCHMARK(forward<32>)->Apply(sizes);
BENCHMARK(forward<64>)->Apply(sizes);
BENCHMARK(forward_backward<32, true>)->Apply(sizes);
BENCHMARK(forward_backward<64, true>)->Apply(sizes);
BENCHMARK(forward_backward<32, false>)->Apply(sizes);
BENCHMARK(forward_backward<64, false>)->Apply(sizes);

}  // namespace

BENCHMARK_MAIN();
