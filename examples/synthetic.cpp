// The synthetic tasks of the paper's section 5.1 (Fig. 4), small: palindrome, associative recall and stacks, each learned by
// KDA, Gated DeltaNet, Mamba-2 and full attention, with a plot of held-out accuracy against steps.
#include <braid/braid.hpp>
#include <braid/train/tasks/mqar.hpp>
#include <braid/train/tasks/palindrome.hpp>
#include <braid/train/tasks/stack.hpp>
#include <braid/train/trainer.hpp>

#include <tools/chart.hpp>
#include <tools/options.hpp>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

// Two layers with two heads, as in the paper; the heads are 32 wide instead of 128.
constexpr braid::Config linear = [] {
  auto c = braid::kimi_linear_48b;
  c.vocab = 128, c.hidden = 64, c.layers = 2, c.ratio = {1, 0};  // no full attention: the mixer alone must do it
  c.heads = 2, c.key_dim = c.value_dim = 32, c.chunk = 32;
  c.kv_rank = 32, c.nope_dim = 32, c.rope_dim = 16, c.mla_value_dim = 32;
  c.experts = 0, c.dense_layers = 2, c.dense_width = 128;
  c.context = 4096;
  return c;
}();
constexpr braid::Config full = [] {
  auto c = linear;
  c.ratio = {0, 1}, c.position = braid::Position::rope;
  return c;
}();

using Kda = braid::CausalLm<linear, braid::Kda>;
using Gdn = braid::CausalLm<linear, braid::GatedDeltaNet>;
using Mamba2 = braid::CausalLm<linear, braid::Mamba2>;
using Attention = braid::CausalLm<full>;

namespace {

struct Arguments {
  std::vector<std::string> tasks{"palindrome", "mqar", "stack"}, mixers{"kda", "gdn", "mamba2", "mla"};
  braid::Index steps = 400, length = 64, sequences = 32, every = 20, threads = 0;
  double rate = 5e-3;
  std::uint64_t seed = 1;
  std::string folder = ".";
};

/// Trains one model on one task and returns its accuracy on held-out sequences as a curve.
template <class Model, class Task>
braid::plot::Series learn(braid::cpu::Context& cpu, const Arguments& args, const std::string& task_name, const Task& task,
                          const std::string& mixer, braid::JsonLog& log) {
  Model model(cpu, braid::seed(args.seed));
  const braid::TaskBatches train{task, braid::seed(args.seed + 1), args.sequences, args.length};
  const braid::TaskBatches held_out{task, braid::seed(args.seed + 2), 64, args.length};
  braid::plot::Series curve{mixer};
  braid::Score last;
  braid::Trainer trainer(cpu, model, braid::Muon{}, {.steps = args.steps});
  trainer.run(train, braid::Wsd{.peak = args.rate, .warmup = args.steps / 20, .steps = args.steps, .decay = args.steps / 4},
              [&](auto&, const braid::StepReport& report) {
                if (report.step % args.every != 0 && report.step != args.steps) return;
                last = braid::evaluate(cpu, model, held_out, 1);
                log.write({{"task", task_name}, {"mixer", mixer}, {"step", report.step}, {"loss", report.loss}, {"accuracy", last.accuracy()}});
                curve.points.push_back({static_cast<double>(report.step), last.accuracy()});
              });
  std::printf("%-10s  %-7s  %6.1f %% of tokens  %6.1f %% of sequences\n", task_name.c_str(), mixer.c_str(), 100 * last.accuracy(),
              100 * last.exact());
  std::fflush(stdout);
  return curve;
}

/// All mixers on one task; draws their curves.
template <class Task> void compare(braid::cpu::Context& cpu, const Arguments& args, const std::string& name, const Task& task, braid::JsonLog& log) {
  if (!braid::chosen(args.tasks, name)) return;
  braid::plot::Chart chart{.title = name + ", " + std::to_string(args.length) + " tokens", .x_label = "step", .y_label = "accuracy"};
  const auto add = [&]<class Model>(std::type_identity<Model>, const std::string& mixer) {
    if (braid::chosen(args.mixers, mixer)) chart.series.push_back(learn<Model>(cpu, args, name, task, mixer, log));
  };
  add(std::type_identity<Kda>{}, "kda");
  add(std::type_identity<Gdn>{}, "gdn");
  add(std::type_identity<Mamba2>{}, "mamba2");
  add(std::type_identity<Attention>{}, "mla");
  const auto picture = std::filesystem::path(args.folder) / ("synthetic-" + name + ".png");
  chart.draw().write(picture);
  std::printf("%s\n", picture.c_str());
}

}  // namespace

int main(int argc, char** argv) try {
  Arguments args;
  braid::Options options("Palindrome, associative recall (mqar) and stacks, learned by KDA, GDN, Mamba-2 and full attention (mla).");
  options.add("--tasks", args.tasks, args.tasks, "Some of the tasks");
  options.add("--mixers", args.mixers, args.mixers, "Some of the token mixers");
  options.add("--steps", args.steps, braid::counts, "Training steps of each model");
  options.add("--length", args.length, braid::Range<braid::Index>{32, 1 << 20}, "Tokens per sequence");
  options.add("--sequences", args.sequences, braid::counts, "Sequences per step");
  options.add("--every", args.every, braid::counts, "Steps between evaluations");
  options.add("--rate", args.rate, braid::rates, "Peak learning rate (Muon)");
  options.add("--seed", args.seed, "Of the models and the data");
  options.add("--threads", args.threads, braid::counts_or_zero, "Threads; 0: all");
  options.add("-o,--out", args.folder, braid::Existing::folder, "Folder for synthetic.jsonl and the plots");
  options.parse(argc, argv);

  braid::cpu::Context cpu(static_cast<int>(args.threads));
  braid::JsonLog log((std::filesystem::path(args.folder) / "synthetic.jsonl").string(), false);
  compare(cpu, args, "palindrome", braid::tasks::Palindrome{.vocab = 32}, log);
  compare(cpu, args, "mqar", braid::tasks::Mqar{.vocab = linear.vocab, .pairs = std::min<braid::Index>(args.length / 4, 32)}, log);
  compare(cpu, args, "stack", braid::tasks::Stack{.vocab = linear.vocab, .stacks = 64}, log);
} catch (const braid::Error& error) {
  std::fprintf(stderr, "synthetic: %s\n", error.what());
  return 1;
}
