// The ablation of the paper's Table 1, small: ratios of linear to full attention and parts of the KDA layer, trained on the bytes
// of any text file and compared by perplexity.
#include <braid/braid.hpp>
#include <braid/train/trainer.hpp>

#include <tools/chart.hpp>
#include <tools/options.hpp>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

// 16 layers, so that 15:1 is a ratio too. Change a copy of a Config, and a layer's options with it.
constexpr braid::Config base = [] {
  auto c = braid::kimi_linear_48b;
  c.vocab = 256, c.hidden = 64, c.layers = 16;
  c.heads = 2, c.key_dim = c.value_dim = 32, c.chunk = 32;
  c.kv_rank = 32, c.nope_dim = 32, c.rope_dim = 16, c.mla_value_dim = 32;
  c.experts = 0, c.dense_layers = 16, c.dense_width = 128;
  c.context = 4096;
  return c;
}();
constexpr braid::Config with_ratio(int linear, int full) {
  auto c = base;
  c.ratio = {linear, full};
  return c;
}
constexpr braid::Config all_full = [] {  // the paper's baseline has rotary positions, which KDA layers make unnecessary
  auto c = with_ratio(0, 1);
  c.position = braid::Position::rope;
  return c;
}();
constexpr braid::Config with_output_gate(braid::OutputGate gate) {
  auto c = base;
  c.output_gate = gate;
  return c;
}
constexpr braid::Config no_convolution = [] {
  auto c = base;
  c.conv = 0;
  return c;
}();

namespace {

struct Arguments {
  std::string text, folder = ".";
  std::vector<std::string> only{"3:1", "0:1", "1:1", "7:1", "15:1", "no-gate", "swish-gate", "no-convolution"};
  braid::Index steps = 200, length = 128, sequences = 8, every = 20, threads = 0;
  double rate = 5e-3;
  std::uint64_t seed = 1;
};

/// The text, split into what is trained on and the last tenth, which is not.
struct Text {
  std::vector<braid::Token> tokens;
  std::span<const braid::Token> train, held_out;

  explicit Text(const std::string& path) : tokens(braid::read_bytes(path)) {
    const std::size_t split = tokens.size() - tokens.size() / 10;
    train = std::span(tokens).first(split), held_out = std::span(tokens).subspan(split);
  }
};

/// Trains one variant, prints its row of the table and adds its curve of validation perplexity.
template <braid::Config C>
void measure(braid::cpu::Context& cpu, const Arguments& args, const Text& text, const std::string& name, braid::JsonLog& log,
             braid::plot::Chart& chart) {
  if (!braid::chosen(args.only, name)) return;
  using Model = braid::CausalLm<C>;
  Model model(cpu, braid::seed(args.seed));
  const braid::StreamBatches train{text.train, braid::seed(args.seed + 1), args.sequences, args.length};
  const braid::StreamBatches held_out{text.held_out, braid::seed(0), args.sequences, args.length, true};
  const braid::Index batches = std::clamp<braid::Index>(held_out.windows() / args.sequences, 1, 16);
  double train_perplexity = 0, perplexity = 0;
  braid::plot::Series curve{name};
  braid::Trainer trainer(cpu, model, braid::Muon{}, {.steps = args.steps});
  trainer.run(train, braid::Wsd{.peak = args.rate, .warmup = args.steps / 20, .steps = args.steps, .decay = args.steps / 4},
              [&](auto&, const braid::StepReport& report) {
                if (report.step % args.every != 0 && report.step != args.steps) return;
                perplexity = braid::perplexity(cpu, model, held_out, batches);
                if (report.step == args.steps) train_perplexity = braid::perplexity(cpu, model, train, batches);
                log.write({{"variant", name}, {"step", report.step}, {"loss", report.loss}, {"perplexity", perplexity}});
                curve.points.push_back({static_cast<double>(report.step), perplexity});
              });
  std::printf("%-15s  %9lld  %8.3f  %10.3f\n", name.c_str(), static_cast<long long>(Model::parameter_count), train_perplexity, perplexity);
  std::fflush(stdout);
  chart.series.push_back(std::move(curve));
}

}  // namespace

int main(int argc, char** argv) try {
  Arguments args;
  braid::Options options("Table 1 on a text file of your own: layer ratios and parts of the KDA layer, compared by perplexity per byte.");
  options.need("text", args.text, braid::Existing::file, "Any file; its bytes are the tokens, its last tenth is held out");
  options.add("--only", args.only, args.only, "Some of the variants");
  options.add("--steps", args.steps, braid::counts, "Training steps of each variant");
  options.add("--length", args.length, braid::counts, "Tokens per sequence");
  options.add("--sequences", args.sequences, braid::counts, "Sequences per step");
  options.add("--every", args.every, braid::counts, "Steps between evaluations");
  options.add("--rate", args.rate, braid::rates, "Peak learning rate (Muon)");
  options.add("--seed", args.seed, "Of the models and the data");
  options.add("--threads", args.threads, braid::counts_or_zero, "Threads; 0: all");
  options.add("-o,--out", args.folder, braid::Existing::folder, "Folder for ratio_sweep.jsonl and .png");
  options.parse(argc, argv);

  braid::cpu::Context cpu(static_cast<int>(args.threads));
  const Text text(args.text);
  const auto out = std::filesystem::path(args.folder) / "ratio_sweep";
  braid::JsonLog log(out.string() + ".jsonl", false);
  braid::plot::Chart chart{.title = "Validation perplexity per byte", .x_label = "step", .y_label = "perplexity", .log_y = true};
  std::printf("%-15s  %9s  %8s  %10s\n", "variant", "params", "training", "validation");
  measure<with_ratio(3, 1)>(cpu, args, text, "3:1", log, chart);
  measure<all_full>(cpu, args, text, "0:1", log, chart);
  measure<with_ratio(1, 1)>(cpu, args, text, "1:1", log, chart);
  measure<with_ratio(7, 1)>(cpu, args, text, "7:1", log, chart);
  measure<with_ratio(15, 1)>(cpu, args, text, "15:1", log, chart);
  measure<with_output_gate(braid::OutputGate::none)>(cpu, args, text, "no-gate", log, chart);
  measure<with_output_gate(braid::OutputGate::swish)>(cpu, args, text, "swish-gate", log, chart);
  measure<no_convolution>(cpu, args, text, "no-convolution", log, chart);
  chart.draw().write(out.string() + ".png");
  std::printf("%s.png\n", out.c_str());
} catch (const braid::Error& error) {
  std::fprintf(stderr, "ratio_sweep: %s\n", error.what());
  return 1;
}
