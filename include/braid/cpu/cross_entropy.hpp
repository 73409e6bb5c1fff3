// Cross-entropy of a language model's logits, and its fusion with the output head for large vocabularies.
#pragma once

#include <braid/core/loss.hpp>
#include <braid/cpu/linear.hpp>
#include <braid/cpu/map.hpp>

#include <cmath>
#include <limits>
#include <span>
#include <type_traits>

namespace braid::cpu {

namespace detail {

/// -log softmax(x)[target] and whether `target` is the first maximum of x.
struct RowLoss {
  double loss = 0;
  bool correct = false;
};

template <class T> T row_max(const T* x, Index vocab) {
  constexpr Index lanes = Pack<T>::lanes;
  constexpr T least = -std::numeric_limits<T>::infinity();
  Pack<T> most = least;
  for (Index at = 0; at < vocab; at += lanes) {
    const auto y = load_part(x + at, vocab - at, least);
    most = Pack<T>::of(y.raw > most.raw ? y.raw : most.raw);
  }
  T each[lanes];
  most.store(each);
  return *std::max_element(each, each + lanes);
}

/// The sum of exp(x - max); if `out` is not null (it may be x), the terms are written there.
template <class T> double row_exp(const T* x, Index vocab, T max, T* out) {
  constexpr Index lanes = Pack<T>::lanes, flush = 256 * lanes;  // partial sums this long are added in double
  double total = 0;
  for (Index begin = 0; begin < vocab; begin += flush) {
    Pack<T> partial = T(0);
    for (Index at = begin; at < std::min(vocab, begin + flush); at += lanes) {
      const auto e = exp(load_part(x + at, vocab - at, -std::numeric_limits<T>::infinity()) - Pack<T>(max));
      partial += e;
      if (out) store_part(e, out + at, vocab - at);
    }
    total += static_cast<double>(sum(partial));
  }
  return total;
}

/// With p = softmax(x): the loss -log p[target] and, if `dx` is not null (it may be x), dx = scale (p - onehot(target)).
/// Stable for any finite x: the largest exponent is 0.
template <class T> BRAID_NOINLINE RowLoss cross_entropy_row(const T* x, Index vocab, Token target, double scale, T* dx) {
  const T max = row_max(x, vocab);
  const T chosen = x[target];
  const bool correct = chosen == max && std::find(x, x + target, max) == x + target;
  const double total = row_exp(x, vocab, max, dx);
  if (dx) {
    const T factor = static_cast<T>(scale / total);
    for (Index i = 0; i < vocab; ++i) dx[i] *= factor;
    dx[target] -= static_cast<T>(scale);
  }
  return {std::log(total) - (static_cast<double>(chosen) - static_cast<double>(max)), correct};
}

/// Throws Error unless all targets are below `vocab`; returns how many are counted.
inline Index check_targets(std::span<const Token> targets, Index tokens, Index vocab, std::string_view where) {
  require(vocab > 0, where, "vocab > 0", vocab);
  require(static_cast<Index>(targets.size()) == tokens, where, braid::detail::text("a target for each of ", tokens, " tokens"),
          targets.size());
  Index counted = 0;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    require(targets[i] < vocab, where, braid::detail::text("targets below ", vocab),
            braid::detail::text("target ", targets[i], " at position ", i));
    counted += targets[i] >= 0;
  }
  return counted;
}

/// Adds the losses of rows in their order, so that the mean does not depend on the threads.
inline void add_losses(CrossEntropy& total, View<const RowLoss, 1> rows) {
  for (const RowLoss& row : rows) {
    if (total.counted) total.mean += row.loss / static_cast<double>(total.counted);
    total.correct += row.correct;
  }
}

/// See head_loss and head_loss_backward; dx and dw may be null together.
template <class T>
BRAID_NOINLINE CrossEntropy head_cross_entropy(Context& ctx, View<const T, 2> x, View<const T, 2> w, std::span<const Token> targets,
                                               View<T, 2> dx, View<T, 2> dw) {
  const Index vocab = w.rows(), hidden = w.cols();
  require_shape(x, {x.rows(), hidden}, "head_loss: x");
  CrossEntropy result;
  result.counted = check_targets(targets, x.rows(), vocab, "head_loss");
  auto scope = ctx.arena.scope();
  const Index block = std::min(result.counted, std::max(Index{64}, (Index{1} << 22) / vocab));
  auto token = ctx.arena.template take<Index>(block);
  auto rows = ctx.arena.template take<RowLoss>(block);
  auto inputs = ctx.arena.template take<T>(block, hidden);
  auto logits = ctx.arena.template take<T>(block, vocab);
  if (dx) std::fill(dx.begin(), dx.end(), T(0));
  for (Index next = 0, done = 0; done < result.counted;) {
    Index n = 0;  // the next counted tokens, packed
    for (; n < block && next < x.rows(); ++next) {
      if (targets[static_cast<std::size_t>(next)] < 0) continue;
      token(n) = next;
      std::copy_n(x.row(next), hidden, inputs.row(n++));
    }
    done += n;
    const auto in = inputs.slice(0, n);
    const auto out = logits.slice(0, n);
    linear<T>(ctx, in, w, out);
    parallel_for(ctx, n, [&](Index i) {
      const Token target = targets[static_cast<std::size_t>(token(i))];
      rows(i) = cross_entropy_row(out.row(i), vocab, target, 1 / static_cast<double>(result.counted), dx ? out.row(i) : nullptr);
    });
    add_losses(result, rows.slice(0, n));
    if (!dx) continue;
    linear_backward_weight<T>(ctx, in, out, dw);
    linear_backward_input<T>(ctx, out, w, in);
    for (Index i = 0; i < n; ++i) std::copy_n(in.row(i), hidden, dx.row(token(i)));
  }
  return result;
}
}  // namespace detail

/// Mean of -log softmax(logits[t])[targets[t]] over the targets that are >= 0. logits [tokens, vocab]. Throws Error for a target
/// outside the vocabulary.
template <class T>
BRAID_NOINLINE CrossEntropy cross_entropy(Context& ctx, View<const T, 2> logits, std::span<const Token> targets,
                                          std::type_identity_t<View<T, 2>> d_logits = {}) {
  const Index vocab = logits.cols();
  if (d_logits) require_shape(d_logits, logits.shape, "cross_entropy: d_logits");
  CrossEntropy result;
  result.counted = detail::check_targets(targets, logits.rows(), vocab, "cross_entropy");
  auto scope = ctx.arena.scope();
  auto rows = ctx.arena.template take<detail::RowLoss>(logits.rows());
  parallel_for(ctx, logits.rows(), [&](Index t) {
    const Token target = targets[static_cast<std::size_t>(t)];
    T* d_row = d_logits ? d_logits.row(t) : nullptr;
    rows(t) = {};
    if (target >= 0)
      rows(t) = detail::cross_entropy_row(logits.row(t), vocab, target, 1 / static_cast<double>(result.counted), d_row);
    else if (d_row)
      std::fill_n(d_row, vocab, T(0));
  });
  detail::add_losses(result, rows);
  return result;
}

/// cross_entropy of logits = x w^T, without ever holding [tokens, vocab]: the counted tokens go through the head in blocks.
/// x [tokens, hidden], w [vocab, hidden].
template <class T>
CrossEntropy head_loss(Context& ctx, View<const T, 2> x, std::type_identity_t<View<const T, 2>> w, std::span<const Token> targets) {
  return detail::head_cross_entropy<T>(ctx, x, w, targets, {}, {});
}

/// The same with gradients: dx [tokens, hidden] is overwritten, dw [vocab, hidden] is added to.
template <class T>
CrossEntropy head_loss_backward(Context& ctx, View<const T, 2> x, std::type_identity_t<View<const T, 2>> w,
                                std::span<const Token> targets, std::type_identity_t<View<T, 2>> dx,
                                std::type_identity_t<View<T, 2>> dw) {
  require_shape(dx, x.shape, "head_loss_backward: dx");
  require_shape(dw, w.shape, "head_loss_backward: dw");
  return detail::head_cross_entropy<T>(ctx, x, w, targets, dx, dw);
}

}  // namespace braid::cpu
