// Judging a model on batches it is not trained on.
#pragma once

#include <braid/train/data.hpp>

#include <cmath>

namespace braid {

/// How often the largest logit is the target, over batches 0 .. `batches` - 1 of a (held-out) source.
template <class Ctx, class Model, DataSource Source> Score evaluate(Ctx& ctx, const Model& model, const Source& source, Index batches) {
  using T = typename Model::T;
  Score total;
  for (Index i = 0; i < batches; ++i) {
    const TokenBatch data = source(i);
    auto scope = ctx.arena.scope();
    auto logits = ctx.arena.template take<T>(data.batch.tokens(), Model::config.vocab);
    model.forward(ctx, data.tokens, data.batch, logits);
    total += score(View<const T, 2>(logits), data.targets, data.batch);
  }
  return total;
}

/// exp(mean cross-entropy) over all targets of batches 0 .. `batches` - 1.
template <class Ctx, class Model, DataSource Source> double perplexity(Ctx& ctx, const Model& model, const Source& source, Index batches) {
  double sum = 0, targets = 0;
  for (Index i = 0; i < batches; ++i) {
    const TokenBatch data = source(i);
    double count = 0;
    for (Token t : data.targets) count += t >= 0;
    if (count == 0) continue;
    sum += count * model.loss(ctx, data.tokens, data.targets, data.batch);
    targets += count;
  }
  return std::exp(targets > 0 ? sum / targets : 0);
}

}  // namespace braid
