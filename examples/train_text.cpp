// Trains a small hybrid on the bytes of a text file and lets it write. Ctrl-C stops after the step at hand and saves; the same
// command goes on from there, with the bits that an uninterrupted run would have had.
#include <braid/braid.hpp>
#include <braid/infer/generate.hpp>
#include <braid/train/trainer.hpp>
#include <tools/options.hpp>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <string>

constexpr braid::Config config = [] {
  auto c = braid::kimi_linear_48b;
  c.vocab = 256, c.hidden = 128, c.layers = 4;  // three KDA layers, then one MLA layer
  c.heads = 4, c.key_dim = c.value_dim = 32, c.chunk = 32;
  c.kv_rank = 64, c.nope_dim = 32, c.rope_dim = 16, c.mla_value_dim = 32;
  c.experts = 0, c.dense_layers = 4, c.dense_width = 384;
  c.context = 4096;
  return c;
}();
using Model = braid::CausalLm<config, braid::Kda, braid::Mla>;

namespace {

volatile std::sig_atomic_t interrupted = 0;

/// Continues `prompt` by `bytes` bytes, printed as they come.
void write(braid::cpu::Context& cpu, const Model& model, const std::string& prompt, braid::Index bytes, double temperature, braid::Seed seed) {
  std::vector<braid::Token> tokens;
  for (char c : prompt) tokens.push_back(static_cast<unsigned char>(c));
  braid::Generator generator(cpu, model, 1, static_cast<braid::Index>(tokens.size()) + bytes);
  generator.append(0, tokens);
  braid::GenerateOptions options;
  options.max_tokens = bytes;
  options.sampling.temperature = temperature;
  options.sampling.seed = seed;
  std::printf("%s", prompt.c_str());
  generator.generate(options, [](const braid::GeneratedToken& next) {
    std::putchar(next.token);
    std::fflush(stdout);
    return !interrupted;
  });
  std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) try {
  std::string path, checkpoint = "train_text.safetensors", log = "train_text.jsonl", prompt = "The ";
  braid::Index steps = 300, length = 256, sequences = 8, every = 50, bytes = 400, threads = 0;
  double rate = 5e-3, temperature = 0.8;
  std::uint64_t seed = 1;
  braid::Options options("Trains a small KDA/MLA hybrid on the bytes of a text file and samples from it. Run it again to go on.");
  options.need("text", path, braid::Existing::file, "Any file; its last tenth is held out");
  options.add("--steps", steps, braid::counts_or_zero, "Training steps, those of earlier runs included");
  options.add("--length", length, braid::counts, "Tokens per sequence");
  options.add("--sequences", sequences, braid::counts, "Sequences per step");
  options.add("--every", every, braid::counts, "Steps between evaluations and checkpoints");
  options.add("--rate", rate, braid::rates, "Peak learning rate (Muon)");
  options.add("--checkpoint", checkpoint, "Where to save, and to go on from");
  options.add("--log", log, "JSONL log, for tools/plot");
  options.add("--prompt", prompt, "What the sample begins with");
  options.add("--bytes", bytes, braid::counts_or_zero, "Length of the sample");
  options.add("--temperature", temperature, braid::zero_or_more, "Of the sample; 0: the likeliest byte each time");
  options.add("--seed", seed, "Of the model, the data and the sample");
  options.add("--threads", threads, braid::counts_or_zero, "Threads; 0: all");
  options.parse(argc, argv);
  braid::require(!prompt.empty(), "--prompt", "at least one byte", "none");

  const auto text = braid::read_bytes(path);
  const std::size_t split = text.size() - text.size() / 10;
  const braid::StreamBatches train{std::span(text).first(split), braid::seed(seed + 1), sequences, length};
  const braid::StreamBatches held_out{std::span(text).subspan(split), braid::seed(0), sequences, length, true};
  const braid::Index batches = std::clamp<braid::Index>(held_out.windows() / sequences, 1, 16);

  braid::cpu::Context cpu(static_cast<int>(threads));
  Model model(cpu, braid::seed(seed));
  braid::Trainer trainer(cpu, model, braid::Muon{}, {.steps = steps, .save_every = every, .checkpoint = checkpoint, .log = log});
  if (trainer.resume()) std::printf("going on from %s, step %lld\n", checkpoint.c_str(), static_cast<long long>(trainer.steps()));
  std::signal(SIGINT, [](int) { interrupted = 1; });
  trainer.run(train, braid::Wsd{.peak = rate, .warmup = 20, .steps = steps, .decay = steps / 4},
              [&](auto& t, const braid::StepReport& report) {
                if (report.step % every == 0)
                  t.note("step " + std::to_string(report.step) + ": held-out perplexity " +
                         std::to_string(braid::perplexity(cpu, model, held_out, batches)) + " per byte");
                if (interrupted) t.stop();
              });
  if (interrupted) {
    std::printf("stopped at step %lld and saved to %s; the same command goes on\n", static_cast<long long>(trainer.steps()), checkpoint.c_str());
    return 0;
  }
  std::printf("held-out perplexity %.3f per byte after %lld steps\n\n", braid::perplexity(cpu, model, held_out, batches),
              static_cast<long long>(trainer.steps()));
  write(cpu, model, prompt, bytes, temperature, braid::seed(seed));
} catch (const braid::Error& error) {
  std::fprintf(stderr, "train_text: %s\n", error.what());
  return 1;
}
