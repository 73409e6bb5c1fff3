// A hybrid of hidden size 512 and 8 layers: prefill and decoding. bench/peers/kimi_linear.sh runs it beside PyTorch.
//
//   bench.model dense|moe FOLDER
//
// writes the model to FOLDER as a published checkpoint, with the logits of 100 tokens, and prints `prefill` and `decode` in tokens/s:
// median, least and most of five runs on all threads. `read` is what decoding would reach if a token cost no more than a plain sum over
// as many weights as it uses.
#include <braid/braid.hpp>
#include <braid/io/checkpoint.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>

namespace {

using namespace braid;
constexpr Index prompt = 2048, decoded = 64, checked = 100, runs = 5;

constexpr Config dense = [] {
  Config c;
  c.vocab = 8192, c.hidden = 512, c.layers = 8, c.ratio = {3, 1};
  c.heads = 4, c.kv_rank = 128, c.nope_dim = 128, c.rope_dim = 64, c.mla_value_dim = 128;
  c.experts = 0, c.dense_layers = 8, c.dense_width = 1536;
  c.context = 4096;
  return c;
}();
constexpr Config moe = [] {
  Config c = dense;
  c.experts = 16, c.experts_per_token = 4, c.expert_width = 384, c.dense_layers = 1;
  return c;
}();

std::vector<Token> tokens_of(Index n) {
  Random random(seed(5));
  std::vector<Token> tokens(static_cast<std::size_t>(n));
  for (auto& t : tokens) t = static_cast<Token>(random.below(dense.vocab));
  return tokens;
}

/// Calls f once to warm up, then five times; prints `count` / seconds.
template <class F> void measure(const char* name, Index count, F&& f) {
  std::vector<double> speeds;
  for (Index i = 0; i <= runs; ++i) {
    const auto start = std::chrono::steady_clock::now();
    f();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (i) speeds.push_back(static_cast<double>(count) / seconds.count());
  }
  std::sort(speeds.begin(), speeds.end());
  std::printf("%s %.1f %.1f %.1f\n", name, speeds[runs / 2], speeds.front(), speeds.back());
}

/// The greatest sum of a MiB among n weights, which the threads take MiB by MiB.
float greatest_sum(cpu::Context& ctx, const float* weights, Index n, View<float, 1> sums) {
  using P = cpu::Pack<float>;
  constexpr Index piece = 1 << 18, chains = 8, step = chains * P::lanes;
  cpu::parallel_for(ctx, n / piece, [&](Index i) {
    P sum[chains] = {};
    for (Index at = i * piece; at < (i + 1) * piece; at += step)
      cpu::unrolled<chains>([&](auto c) { sum[c] += P::load(weights + at + c * P::lanes); });
    sums(i) = cpu::sum(((sum[0] + sum[1]) + (sum[2] + sum[3])) + ((sum[4] + sum[5]) + (sum[6] + sum[7])));
  });
  return *std::max_element(sums.data, sums.data + n / piece);
}

template <Config C> void run(const char* folder) {
  using Model = CausalLm<C>;
  cpu::Context cpu;
  Model model(cpu, seed(1));
  const auto tokens = tokens_of(prompt);
  const auto ids = std::span<const Token>(tokens);

  save_checkpoint(model, folder);
  const auto logits = model.forward(cpu, ids.first(checked));
  io::write_safetensors(std::filesystem::path(folder) / "braid.safetensors",
                        std::vector{io::tensor_source("logits", {1, checked, C.vocab}, logits.data()),
                                    io::tensor_source("input_ids", {1, prompt}, tokens.data())});

  auto cache = model.cache(cpu, 1, prompt + decoded);
  Tensor<float, 2> next(cpu.memory(), 1, C.vocab);
  measure("prefill", prompt, [&] {
    cache.reset(0);
    model.next_logits(cpu, ids, Batch(prompt), cache, next.view());
  });
  Tensor<float, 1> sums(cpu.memory(), Model::activated_count >> 18);
  measure("read", decoded, [&] {
    for (Index t = 0; t < decoded; ++t) next.data()[t] = greatest_sum(cpu, model.parameters().values(), Model::activated_count, sums);
  });
  const Batch one(1);
  cache.reset(0);
  model.next_logits(cpu, ids.first(512), Batch(512), cache, next.view());
  measure("decode", decoded, [&] {
    for (Index t = 0; t < decoded; ++t) {
      const Token best = static_cast<Token>(std::max_element(next.data(), next.data() + C.vocab) - next.data());
      model.next_logits(cpu, std::span(&best, 1), one, cache, next.view());
    }
  });
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3 || (std::strcmp(argv[1], "dense") != 0 && std::strcmp(argv[1], "moe") != 0)) {
    std::fprintf(stderr, "usage: bench.model dense|moe FOLDER\n");
    return 2;
  }
  if (std::strcmp(argv[1], "dense") == 0) run<dense>(argv[2]);
  else run<moe>(argv[2]);
} catch (const braid::Error& error) {
  std::fprintf(stderr, "bench.model: %s\n", error.what());
  return 1;
}
