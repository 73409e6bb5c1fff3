// The training loop: model, optimiser, schedule, data, log, checkpoints.
#pragma once

#include <braid/train/checkpoint.hpp>
#include <braid/train/data.hpp>
#include <braid/train/evaluate.hpp>
#include <braid/train/log.hpp>
#include <braid/train/optimizer.hpp>
#include <braid/train/progress.hpp>
#include <braid/train/schedule.hpp>

#include <cmath>

namespace braid {

struct TrainOptions {
  Index steps = 1000;
  double clip = 1;                         ///< limit of the gradients' 2-norm; 0: none
  Index log_every = 10;                    ///< steps between lines of the log
  Index save_every = 0;                    ///< steps between checkpoints; 0: only at the end
  std::filesystem::path checkpoint = {};   ///< empty: none
  std::string log = {};                    ///< JSONL, appended to; empty: none
  bool progress = true;                    ///< shown on standard error
};

/// What one step did. `step` counts the steps done, this one included.
struct StepReport {
  Index step = 0, tokens = 0;
  double loss = 0, gradient_norm = 0, rate = 0;
};

/// Trains `model`:
///
///   Trainer trainer(ctx, model, Muon{}, {.steps = 500, .checkpoint = "run.safetensors"});
///   trainer.resume();                                                              // goes on where the checkpoint ends
///   trainer.run(TaskBatches{tasks::Mqar{}, seed(2), 32, 64}, Wsd{.peak = 3e-3, .warmup = 20, .steps = 500, .decay = 100});
///
/// The same seeds, options and number of steps give the same bits, whether a run was interrupted or not.
template <class Ctx, class Model> class Trainer {
 public:
  using T = typename Model::T;

  /// `recipe` is AdamW{} or Muon{}.
  template <class Recipe> Trainer(Ctx& ctx, Model& model, const Recipe& recipe, TrainOptions options)
      : ctx_(ctx), model_(model), options_(std::move(options)), optimizer_(ctx.memory(), with_gradients(model), recipe) {}

  /// Loads the checkpoint of the options if there is one. Returns whether there was. Throws Error if it is of something else.
  bool resume() {
    if (options_.checkpoint.empty() || !std::filesystem::exists(options_.checkpoint)) return false;
    load_checkpoint(options_.checkpoint, optimizer_);
    return true;
  }

  /// Trains until the options' number of steps is done or `stop` was called; then saves. `source(step)` is a TokenBatch,
  /// `schedule(step)` a learning rate; `after(trainer, report)` is called after every step, to evaluate or to stop.
  /// Throws Error at a loss or gradient that is not finite; parameters and checkpoint are then those of the last good step.
  template <DataSource Source, class Schedule, class After>
  void run(Source&& source, Schedule&& schedule, After&& after) {
    Progress progress(options_.steps, steps(), options_.progress);
    progress_ = &progress;
    const struct Reset {
      Progress*& pointer;
      ~Reset() { pointer = nullptr; }
    } reset{progress_};
    JsonLog log(options_.log);
    stopped_ = false;
    while (steps() < options_.steps && !stopped_) {
      const StepReport report = step(source(steps()), schedule(steps()));
      progress.update(report.step, report.loss, report.tokens);
      if (due(options_.log_every))
        log.write({{"step", report.step}, {"loss", report.loss}, {"gradient_norm", report.gradient_norm}, {"rate", report.rate}});
      after(*this, report);
      if (due(options_.save_every)) save();
    }
    if (!due(options_.save_every)) save();
  }
  template <DataSource Source, class Schedule> void run(Source&& source, Schedule&& schedule) {
    run(source, schedule, [](Trainer&, const StepReport&) {});
  }

  /// One step: forward, backward, clip, update.
  StepReport step(const TokenBatch& data, double rate) {
    model_.parameters().zero_gradients();
    StepReport report{.step = steps() + 1, .tokens = data.batch.tokens(), .rate = rate};
    report.loss = model_.gradients(ctx_, data.tokens, data.targets, data.batch);
    report.gradient_norm = optimizer_.gradient_norm(ctx_);
    require(std::isfinite(report.loss) && std::isfinite(report.gradient_norm), detail::text("training step ", report.step),
            "a finite loss and gradient", detail::text("loss ", report.loss, ", gradient norm ", report.gradient_norm));
    optimizer_.step(ctx_, rate, clip_factor(report.gradient_norm, options_.clip));
    return report;
  }

  void save() const {
    if (!options_.checkpoint.empty()) save_checkpoint(options_.checkpoint, optimizer_);
  }
  void stop() { stopped_ = true; }  ///< ends `run` after this step

  /// Prints a line without disturbing the progress bar.
  void note(std::string_view message) const {
    if (progress_) progress_->note(message);
  }

  Index steps() const { return optimizer_.steps; }  ///< done so far, earlier runs included
  Model& model() const { return model_; }
  Ctx& context() const { return ctx_; }

 private:
  static Model& with_gradients(Model& model) {
    model.parameters().allocate_gradients(model);
    return model;
  }
  bool due(Index every) const { return every > 0 && steps() % every == 0; }

  Ctx& ctx_;
  Model& model_;
  TrainOptions options_;
  Optimizer<T> optimizer_;
  Progress* progress_ = nullptr;
  bool stopped_ = false;
};

}  // namespace braid
