// Token embedding and output head.
#pragma once

#include <braid/core/loss.hpp>
#include <braid/core/param.hpp>

#include <span>

namespace braid {

/// A table with one row per token id; also an output head: logits = x weight^T. Tying is using one table for both.
template <class T> struct Embedding {
  Param<T> weight;  // [vocab, hidden]

  Embedding(Index vocab, Index hidden, double init_std = 0.02) : weight{{vocab, hidden}, Init::normal, Role::embedding, init_std} {}

  template <class V> void visit(V&& v) { v("weight", weight); }

  /// y[t] = weight[tokens[t]], y [tokens, hidden]. Throws Error for an id outside the vocabulary.
  template <class Ctx> void forward(Ctx& ctx, std::span<const Token> tokens, View<T, 2> y) const {
    embed<T>(ctx, tokens, weight.matrix(), y);
  }
  /// Adds to the weight's gradient. dy [tokens, hidden].
  template <class Ctx> void backward(Ctx& ctx, std::span<const Token> tokens, View<const T, 2> dy) {
    embed_backward<T>(ctx, tokens, dy, weight.grad_matrix());
  }

  /// logits [tokens, vocab] of x [tokens, hidden].
  template <class Ctx> void logits(Ctx& ctx, View<const T, 2> x, View<T, 2> y) const { linear<T>(ctx, x, weight.matrix(), y); }
  /// Cross-entropy of `targets`, one per row of x (below 0: not counted). Throws Error for a target outside the vocabulary.
  template <class Ctx> CrossEntropy loss(Ctx& ctx, View<const T, 2> x, std::span<const Token> targets) const {
    return head_loss<T>(ctx, x, weight.matrix(), targets);
  }
  /// The same; dx [tokens, hidden] is overwritten, the weight's gradient added to.
  template <class Ctx> CrossEntropy loss_backward(Ctx& ctx, View<const T, 2> x, std::span<const Token> targets, View<T, 2> dx) {
    return head_loss_backward<T>(ctx, x, weight.matrix(), targets, dx, weight.grad_matrix());
  }
};

}  // namespace braid
