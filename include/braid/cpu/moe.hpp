// Mixture of experts: routing, grouping of tokens by expert, products of the groups, and the weighted sum back.
#pragma once

#include <braid/core/math.hpp>
#include <braid/core/moe.hpp>
#include <braid/cpu/linear.hpp>
#include <braid/cpu/map.hpp>

#include <limits>

namespace braid::cpu {

namespace detail {

inline constexpr Index tile_rows = 64;  // of a grouped product; a multiple of 16 keeps Eigen's blocking the same for every split

/// Writes the indices of the `k` greatest of x[0, n) to `best`, greatest first, the lower index first among equals. -infinity is
/// never chosen; destroys x.
template <class T> void take_best(T* x, Index n, Index k, Index* best) {
  constexpr T gone = -std::numeric_limits<T>::infinity();
  for (Index j = 0; j < k; ++j) {
    Index at = -1;
    for (Index i = 0; i < n; ++i)
      if (x[i] != gone && (at < 0 || x[i] > x[at])) at = i;
    best[j] = at;
    x[at] = gone;
  }
}

/// Sum of the two best of x[0, n): the score of a group (DeepSeek-V3).
template <class T> T best_two(const T* x, Index n) {
  T first = x[0], second = n > 1 ? std::numeric_limits<T>::lowest() : T(0);
  for (Index i = 1; i < n; ++i) {
    if (x[i] > first) {
      second = first;
      first = x[i];
    } else if (x[i] > second) {
      second = x[i];
    }
  }
  return first + second;
}

/// One token: the experts chosen by score + bias. `room` holds [experts] biased scores, [groups] and [groups_per_token indices].
template <class T>
void choose(const Router& r, const T* score, const T* bias, T* biased, T* group, Index* kept, Index* expert) {
  constexpr T least = std::numeric_limits<T>::lowest();
  for (Index e = 0; e < r.experts; ++e) {
    const T s = score[e] + bias[e];
    biased[e] = s >= least ? s : least;  // not a number: the last choice, so that an index is always valid
  }
  if (r.groups_per_token < r.groups) {
    const Index size = r.experts / r.groups;
    for (Index g = 0; g < r.groups; ++g) group[g] = std::max(best_two(biased + g * size, size), least);
    take_best(group, r.groups, r.groups_per_token, kept);  // leaves -infinity at those it took
    for (Index g = 0; g < r.groups; ++g)
      if (group[g] != -std::numeric_limits<T>::infinity())
        std::fill_n(biased + g * size, size, -std::numeric_limits<T>::infinity());
  }
  take_best(biased, r.experts, r.experts_per_token, expert);
}

/// The divisor of the chosen scores: their sum + 1e-20 (as published), or 1.
template <class T> T weight_divisor(const Router& r, const T* score, const Index* expert) {
  if (!r.renormalize) return T(1);
  T sum = T(1e-20);
  for (Index j = 0; j < r.experts_per_token; ++j) sum += score[expert[j]];
  return sum;
}

/// Calls f(i) for i < count, thread p taking p, p + threads, ...: neighbours may differ much in work.
template <class F> void parallel_strided(const Context& ctx, Index count, F&& f) {
  const Index parts = std::min<Index>(ctx.threads(), count);
  parallel_for(ctx, parts, [&](Index p) {
    for (Index i = p; i < count; i += parts) f(i);
  });
}
}  // namespace detail

/// Sigmoid router. logits [tokens, experts], bias [experts] (it moves the choice, never the weights). The weight of a chosen expert
/// is scale * score / (sum of the chosen scores + 1e-20), without the division if r.renormalize is false.
template <class T> BRAID_NOINLINE Routing<T> route(Context& ctx, View<const T, 2> logits, View<const T, 1> bias, const Router& r) {
  const Index tokens = logits.rows();
  require_shape(logits, {tokens, r.experts}, "route: logits");
  require_shape(bias, {r.experts}, "route: bias");
  require(r.groups > 0 && r.experts % r.groups == 0 && r.groups_per_token > 0 && r.groups_per_token <= r.groups &&
              r.experts_per_token > 0 && r.experts_per_token <= r.experts / r.groups * r.groups_per_token,
          "route", "equal groups of experts and enough experts in the groups of a token",
          braid::detail::text(r.experts, " experts in ", r.groups, " groups, ", r.experts_per_token, " from ", r.groups_per_token));
  Routing<T> out{ctx.arena.template take<T>(tokens, r.experts), ctx.arena.template take<Index>(tokens, r.experts_per_token),
                 ctx.arena.template take<T>(tokens, r.experts_per_token)};
  map<T, 1, 1>(ctx, logits.size(), {logits.data}, {out.score.data},
               [](const std::array<Pack<T>, 1>& x) -> std::array<Pack<T>, 1> { return {math::sigmoid(x[0])}; });
  auto scope = ctx.arena.scope();
  auto room = ctx.arena.template take<T>(ctx.threads(), r.experts + r.groups);
  auto kept = ctx.arena.template take<Index>(ctx.threads(), r.groups_per_token);
  parallel_ranges(ctx, tokens, 16, [&](Index begin, Index end) {
    T* biased = room.row(thread_number());
    for (Index t = begin; t < end; ++t) {
      const T* score = out.score.row(t);
      Index* expert = out.expert.row(t);
      detail::choose(r, score, bias.data, biased, biased + r.experts, kept.row(thread_number()), expert);
      const T factor = T(r.scale) / detail::weight_divisor(r, score, expert);
      for (Index j = 0; j < r.experts_per_token; ++j) out.weight(t, j) = score[expert[j]] * factor;
    }
  });
  return out;
}

/// d_logits [tokens, experts] (overwritten) from d_weight [tokens, experts_per_token]. With s the chosen scores and D their divisor,
/// d s_j = scale / D (d_weight_j - sum_i d_weight_i s_i / D), and d logit = s (1 - s) d s; the choice itself is constant.
template <class T>
BRAID_NOINLINE void route_backward(Context& ctx, const Routing<T>& routing, View<const T, 2> d_weight, const Router& r,
                                   View<T, 2> d_logits) {
  require_shape(d_weight, routing.weight.shape, "route_backward: d_weight");
  require_shape(d_logits, routing.score.shape, "route_backward: d_logits");
  parallel_ranges(ctx, d_logits.rows(), 64, [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t) {
      const T* score = routing.score.row(t);
      const Index* expert = routing.expert.row(t);
      const T divisor = detail::weight_divisor(r, score, expert);
      T mean = 0;
      for (Index j = 0; r.renormalize && j < r.experts_per_token; ++j) mean += d_weight(t, j) * score[expert[j]] / divisor;
      std::fill_n(d_logits.row(t), r.experts, T(0));
      for (Index j = 0; j < r.experts_per_token; ++j) {
        const T s = score[expert[j]];
        d_logits(t, expert[j]) = T(r.scale) / divisor * (d_weight(t, j) - mean) * s * (T(1) - s);
      }
    }
  });
}

/// Sorts the choices [tokens, experts_per_token] by expert (a counting sort).
inline Dispatch dispatch(Context& ctx, View<const Index, 2> expert, Index experts) {
  const Index rows = expert.size(), per_token = expert.cols();
  Dispatch d{ctx.arena.take_zero<Index>(experts + 1), ctx.arena.take<Index>(rows), ctx.arena.take<Index>(expert.rows(), per_token),
             ctx.arena.take<ExpertTile>(experts + rows / detail::tile_rows)};
  for (Index e : expert) ++d.offsets(e + 1);
  Index tiles = 0;
  for (Index e = 0; e < experts; ++e) {
    d.offsets(e + 1) += d.offsets(e);
    for (Index row = d.offsets(e), end = d.offsets(e + 1); row < end; row += detail::tile_rows)
      d.tiles(tiles++) = {e, row, std::min(detail::tile_rows, end - row)};
  }
  d.tiles.shape[0] = tiles;
  auto scope = ctx.arena.scope();
  auto next = ctx.arena.take<Index>(experts);
  std::copy_n(d.offsets.data, experts, next.data);
  for (Index i = 0; i < rows; ++i) {
    const Index row = next(expert.data[i])++;
    d.token(row) = i / per_token;
    d.row.data[i] = row;
  }
  return d;
}

/// counts[e] += number of tokens that expert e received.
template <class T> void count_dispatched(Context&, const Dispatch& d, View<T, 1> counts) {
  require_shape(counts, {d.offsets.size() - 1}, "count_dispatched: counts");
  for (Index e = 0; e < counts.size(); ++e) counts(e) += static_cast<T>(d.offsets(e + 1) - d.offsets(e));
}

/// y[row] = x[token of row]. x [tokens, hidden], y [rows, hidden].
template <class T> void gather_rows(Context& ctx, View<const T, 2> x, const Dispatch& d, View<T, 2> y) {
  require_shape(y, {d.rows(), x.cols()}, "gather_rows: y");
  parallel_ranges(ctx, y.rows(), 64, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) std::copy_n(x.row(d.token(i)), x.cols(), y.row(i));
  });
}

/// y[t] = sum_j weight[t, j] x[row(t, j)], in the order of j; `accumulate` adds to y. A null weight is 1. x [rows, hidden],
/// y [tokens, hidden].
template <class T>
BRAID_NOINLINE void combine_rows(Context& ctx, View<const T, 2> x, const Dispatch& d, View<const T, 2> weight, View<T, 2> y,
                                 bool accumulate) {
  require_shape(x, {d.rows(), y.cols()}, "combine_rows: x");
  require_shape(y, {d.row.rows(), x.cols()}, "combine_rows: y");
  parallel_ranges(ctx, y.rows(), 16, [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t) {
      T* to = y.row(t);
      if (!accumulate) std::fill_n(to, y.cols(), T(0));
      for (Index j = 0; j < d.row.cols(); ++j) {
        const T w = weight ? weight(t, j) : T(1);
        const T* from = x.row(d.row(t, j));
        for (Index c = 0; c < y.cols(); ++c) to[c] += w * from[c];
      }
    }
  });
}

/// dx[row(t, j)] = weight[t, j] dy[t] and d_weight[t, j] = dy[t] . x[row(t, j)]. Shapes as in combine_rows.
template <class T>
BRAID_NOINLINE void combine_rows_backward(Context& ctx, View<const T, 2> x, const Dispatch& d, View<const T, 2> weight,
                                          View<const T, 2> dy, View<T, 2> dx, View<T, 2> d_weight) {
  const Index hidden = dy.cols();
  require_shape(x, {d.rows(), hidden}, "combine_rows_backward: x");
  require_shape(dx, x.shape, "combine_rows_backward: dx");
  require_shape(dy, {d.row.rows(), hidden}, "combine_rows_backward: dy");
  require_shape(weight, d.row.shape, "combine_rows_backward: weight");
  require_shape(d_weight, d.row.shape, "combine_rows_backward: d_weight");
  using Row = Eigen::Map<const Eigen::Array<T, Eigen::Dynamic, 1>>;
  parallel_ranges(ctx, dy.rows(), 16, [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t)
      for (Index j = 0; j < d.row.cols(); ++j) {
        const Index row = d.row(t, j);
        const Row g(dy.row(t), hidden);
        Eigen::Map<Eigen::Array<T, Eigen::Dynamic, 1>>(dx.row(row), hidden) = weight(t, j) * g;
        d_weight(t, j) = (g * Row(x.row(row), hidden)).sum();
      }
  });
}

/// y = x w[e]^T for the rows of every expert e. x [rows, in], w experts x [out, in], y [rows, out].
template <class T>
void grouped_linear(Context& ctx, View<const T, 2> x, const Dispatch& d, MatrixStack<const T> w, View<T, 2> y) {
  require_shape(x, {d.rows(), w.cols}, "grouped_linear: x");
  require_shape(y, {d.rows(), w.rows}, "grouped_linear: y");
  detail::parallel_strided(ctx, d.tiles.size(), [&](Index i) {
    const auto [e, row, rows] = d.tiles(i);
    gemm_nt<T>(rows, w.rows, w.cols, T(1), x.row(row), w.cols, w[e], w.cols, y.row(row), w.rows, false);
  });
}

/// dx = dy w[e]; `accumulate` adds to dx. Shapes as in grouped_linear.
template <class T>
void grouped_linear_backward_input(Context& ctx, View<const T, 2> dy, const Dispatch& d, MatrixStack<const T> w, View<T, 2> dx,
                                   bool accumulate = false) {
  require_shape(dy, {d.rows(), w.rows}, "grouped_linear_backward_input: dy");
  require_shape(dx, {d.rows(), w.cols}, "grouped_linear_backward_input: dx");
  detail::parallel_strided(ctx, d.tiles.size(), [&](Index i) {
    const auto [e, row, rows] = d.tiles(i);
    gemm_nn<T>(rows, w.cols, w.rows, T(1), dy.row(row), w.rows, w[e], w.cols, dx.row(row), w.cols, accumulate);
  });
}

/// dw[e] += dy^T x over the rows of expert e; an expert without rows is left alone. Shapes as in grouped_linear.
template <class T>
void grouped_linear_backward_weight(Context& ctx, View<const T, 2> x, View<const T, 2> dy, const Dispatch& d, MatrixStack<T> dw) {
  constexpr Index block = 256;  // rows of dw that one call computes
  require_shape(x, {d.rows(), dw.cols}, "grouped_linear_backward_weight: x");
  require_shape(dy, {d.rows(), dw.rows}, "grouped_linear_backward_weight: dy");
  const Index blocks = (dw.rows + block - 1) / block;
  detail::parallel_strided(ctx, dw.count * blocks, [&](Index i) {
    const Index e = i / blocks, out = i % blocks * block, outs = std::min(block, dw.rows - out);
    const Index row = d.offsets(e), rows = d.offsets(e + 1) - row;
    if (rows == 0) return;
    gemm_tn<T>(outs, dw.cols, rows, T(1), dy.row(row) + out, dw.rows, x.row(row), dw.cols, dw[e] + out * dw.cols, dw.cols, true);
  });
}

}  // namespace braid::cpu
