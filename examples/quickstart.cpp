// A hybrid language model as a type: assembled, trained, decoded and saved.
#include <braid/braid.hpp>
#include <braid/train/tasks/mqar.hpp>
#include <braid/train/trainer.hpp>

#include <tools/options.hpp>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

// 1. The model. Three KDA layers, then one of full attention without positions: the published 3:1 ratio, made small.
constexpr braid::Config small = [] {
  auto c = braid::kimi_linear_48b;
  c.vocab = 128, c.hidden = 64, c.layers = 4, c.ratio = {3, 1};
  c.heads = 2, c.key_dim = c.value_dim = 32, c.chunk = 32;
  c.kv_rank = 32, c.nope_dim = 32, c.rope_dim = 0, c.mla_value_dim = 32;
  c.experts = 8, c.experts_per_token = 2, c.expert_width = 32, c.dense_width = 128;
  c.context = 4096;
  return c;
}();
using Model = braid::CausalLm<small, braid::Kda, braid::Mla>;

// The same sizes with full attention in every layer, to compare caches with.
constexpr braid::Config all_mla = [] {
  auto c = small;
  c.ratio = {0, 1};
  return c;
}();
using AllMla = braid::CausalLm<all_mla, braid::Kda, braid::Mla>;

namespace {

double relative_error(const float* x, const float* reference, braid::Index n) {
  double error = 0, norm = 0;
  for (braid::Index i = 0; i < n; ++i) {
    error += std::pow(double(x[i]) - reference[i], 2);
    norm += std::pow(double(reference[i]), 2);
  }
  return std::sqrt(error / norm);
}

/// Logits of a sequence fed token by token through the recurrent cache.
std::vector<float> decode(braid::cpu::Context& cpu, const Model& model, std::span<const braid::Token> tokens) {
  auto cache = model.cache(cpu, 1, static_cast<braid::Index>(tokens.size()));
  std::vector<float> logits(tokens.size() * small.vocab);
  for (std::size_t t = 0; t < tokens.size(); ++t)
    model.next_logits(cpu, tokens.subspan(t, 1), braid::Batch(1), cache, {logits.data() + t * small.vocab, 1, small.vocab});
  return logits;
}

}  // namespace

int main(int argc, char** argv) try {
  braid::Index steps = 600;
  std::string path = "quickstart.safetensors";
  braid::Options options("Trains a small 3:1 hybrid of KDA and MLA on associative recall, decodes with it and saves it.");
  options.add("--steps", steps, braid::counts, "Training steps");
  options.add("--checkpoint", path, "Where to save the model");
  options.parse(argc, argv);

  braid::cpu::Context cpu;
  Model model(cpu, braid::seed(1));
  std::printf("model: %d layers (%d KDA, %d MLA), %lld parameters, %lld used by each token\n", small.layers, small.linear_layers(),
              small.full_layers(), static_cast<long long>(Model::parameter_count), static_cast<long long>(Model::activated_count));

  // 2. The task: 8 key-value pairs, then queries of the keys. The answer is one of 64 values: chance is 1.6 %.
  const braid::tasks::Mqar task{.vocab = small.vocab, .pairs = 8};
  const braid::TaskBatches train{task, braid::seed(2), 32, 64}, held_out{task, braid::seed(3), 64, 64};

  // 3. Training: Muon on matrices, AdamW on the rest; warm-up, stable, decay.
  braid::Trainer trainer(cpu, model, braid::Muon{}, {.steps = steps, .checkpoint = path});
  trainer.run(train, braid::Wsd{.peak = 5e-3, .warmup = 20, .steps = steps, .decay = steps / 4});
  const auto recall = braid::evaluate(cpu, model, held_out, 4);
  std::printf("recall on held-out sequences: %.1f %% of %lld queries\n", 100 * recall.accuracy(), static_cast<long long>(recall.targets));

  // 4. Decoding from the recurrent cache computes what the parallel form computes.
  const auto sample = held_out(99);
  const auto sequence = std::span(sample.tokens).first(64);
  const auto parallel = model.forward(cpu, sequence);
  const auto stepwise = decode(cpu, model, sequence);
  std::printf("token by token against the parallel form: logits differ by %.1e of their norm\n",
              relative_error(stepwise.data(), parallel.data(), parallel.size()));

  // 5. What a sequence costs to remember.
  for (braid::Index length : {1024, 16384, 131072})
    std::printf("cache of %6lld tokens: %8.2f MB, with MLA in every layer %8.2f MB\n", static_cast<long long>(length),
                1e-6 * static_cast<double>(Model::cache_bytes(length)), 1e-6 * static_cast<double>(AllMla::cache_bytes(length)));

  // 6. The checkpoint holds the model and the optimiser; another model of the type loads it and computes the same.
  Model copy(cpu);
  braid::Trainer(cpu, copy, braid::Muon{}, {.steps = steps, .checkpoint = path}).resume();
  const auto again = copy.forward(cpu, sequence);
  const bool same = relative_error(again.data(), parallel.data(), parallel.size()) == 0;
  std::printf("saved to %s; loaded again, it computes %s\n", path.c_str(), same ? "the same logits" : "OTHER LOGITS");
  return same && (steps < 600 || recall.accuracy() >= 0.95) ? 0 : 1;
} catch (const braid::Error& error) {
  std::fprintf(stderr, "quickstart: %s\n", error.what());
  return 1;
}
