// Trains a small hybrid on the bytes of a text file and lets it write. Ctrl-C stops after the step at hand and saves; the same
// command goes on from there, with the bits that an uninterrupted run would have had.
#include <braid/braid.hpp>
#include <braid/infer/generate.hpp>
#include <braid/train/trainer.hpp>

#include <CLI/CLI.hpp>

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
  braid::Index steps = 300, length = 256, sequences = 8, every = 50, bytes = 400;
  double rate = 5e-3, temperature = 0.8;
  std::uint64_t seed = 1;
  int threads = 0;
  CLI::App app("Trains a small KDA/MLA hybrid on the bytes of a text file and samples from it. Run it again to go on.");
  app.add_option("text", path, "Any file; its last tenth is held out")->required()->check(CLI::ExistingFile);
  app.add_option("--steps", steps, "Training steps, those of earlier runs included")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--length", length, "Tokens per sequence")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--sequences", sequences, "Sequences per step")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--every", every, "Steps between evaluations and checkpoints")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--rate", rate, "Peak learning rate (Muon)")->check(CLI::PositiveNumber)->capture_default_str();
  app.add_option("--checkpoint", checkpoint, "Where to save, and to go on from")->capture_default_str();
  app.add_option("--log", log, "JSONL log, for tools/plot")->capture_default_str();
  app.add_option("--prompt", prompt, "What the sample begins with")->check([](const std::string& s) {
    return s.empty() ? std::string("at least one byte is needed") : std::string();
  })->capture_default_str();
  app.add_option("--bytes", bytes, "Length of the sample")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--temperature", temperature, "Of the sample; 0: the likeliest byte each time")->check(CLI::NonNegativeNumber)->capture_default_str();
  app.add_option("--seed", seed, "Of the model, the data and the sample")->capture_default_str();
  app.add_option("--threads", threads, "Threads; 0: all")->check(CLI::NonNegativeNumber)->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  const auto text = braid::read_bytes(path);
  const std::size_t split = text.size() - text.size() / 10;
  const braid::StreamBatches train{std::span(text).first(split), braid::seed(seed + 1), sequences, length};
  const braid::StreamBatches held_out{std::span(text).subspan(split), braid::seed(0), sequences, length, true};
  const braid::Index batches = std::clamp<braid::Index>(held_out.windows() / sequences, 1, 16);

  braid::cpu::Context cpu(threads);
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
