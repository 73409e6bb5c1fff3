// KDA on plain arrays: one include, one call, no model and no tensor class. (examples/bare_kernel.cu does the same on the GPU.)
#include <braid/cpu/linear_attention.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

int main() {
  // Two sequences of 100 and 28 tokens lie end to end; 4 heads of size 64.
  const braid::Index tokens = 128, heads = 4, dim = 64, sequences = 2;
  const std::vector<braid::Index> offsets = {0, 100, 128};

  auto wave = [](braid::Index n, float frequency) {
    std::vector<float> x(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = std::sin(frequency * static_cast<float>(i * i % 1009));
    return x;
  };
  const auto q = wave(tokens * heads * dim, 0.3f), k = wave(tokens * heads * dim, 0.7f), v = wave(tokens * heads * dim, 1.1f);
  const auto gate = wave(tokens * heads * dim, 0.5f), beta = wave(tokens * heads, 0.9f);
  const std::vector<float> A_log(static_cast<std::size_t>(heads), 0.f), dt_bias(static_cast<std::size_t>(heads * dim), -2.f);

  std::vector<float> o(static_cast<std::size_t>(tokens * heads * dim)), state(static_cast<std::size_t>(sequences * heads * dim * dim));

  braid::LinearAttentionInputs<float> in;
  in.tokens = tokens;
  in.heads = in.value_heads = heads;
  in.key_dim = in.value_dim = dim;
  in.offsets = offsets;
  in.q = q.data();
  in.k = k.data();
  in.v = v.data();
  in.gate = gate.data();  // raw: the gate below turns it into a log decay
  in.beta = beta.data();
  in.A_log = A_log.data();
  in.dt_bias = dt_bias.data();
  in.normalize = true;   // q and k are L2-normalised inside
  in.beta_logit = true;  // beta = sigmoid(.)
  in.scale = 1 / std::sqrt(static_cast<float>(dim));

  braid::cpu::Context ctx;
  // Kimi Delta Attention: a decay per channel and the delta rule. Any other gate and update fits in the same place.
  braid::cpu::linear_attention<braid::SoftplusGate, braid::DeltaRule>(ctx, in, {o.data(), state.data()});

  double norm = 0;
  for (float x : o) norm += double(x) * x;
  std::printf("o: %zu values, norm %.6f; final state of sequence 1, head 0: %.6f %.6f ...\n", o.size(), std::sqrt(norm),
              static_cast<double>(state[static_cast<std::size_t>(heads * dim * dim)]),
              static_cast<double>(state[static_cast<std::size_t>(heads * dim * dim) + 1]));
}
