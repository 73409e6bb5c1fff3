// What an optimiser asks of the CPU: AdamW's and Muon's updates, the balance update of a router, and norms.
// Every result is the same for any number of threads.
#pragma once

#include <braid/core/optimizer.hpp>
#include <braid/cpu/gemm.hpp>
#include <braid/cpu/parallel.hpp>

#include <algorithm>
#include <span>

namespace braid::cpu {

/// w, m and v by one step of AdamW (see AdamWStep). All [n].
template <class T>
void adamw_update(Context& ctx, View<T, 1> value, View<const T, 1> grad, View<T, 1> first, View<T, 1> second,
                  const AdamWStep& step) {
  require_shape(grad, value.shape, "adamw_update: grad");
  require_shape(first, value.shape, "adamw_update: first moment");
  require_shape(second, value.shape, "adamw_update: second moment");
  const T beta1 = T(step.beta1), beta2 = T(step.beta2), epsilon = T(step.epsilon), scale = T(step.gradient_scale);
  const T keep = T(1 - step.rate * step.weight_decay), rate = T(step.rate / step.correction1());
  const T bias = T(1 / std::sqrt(step.correction2()));
  parallel_ranges(ctx, value.size(), 1 << 14, [&](Index begin, Index end) {
    T *w = value.data, *m = first.data, *v = second.data;
    for (Index i = begin; i < end; ++i) {
      const T g = scale * grad.data[i];
      m[i] = beta1 * m[i] + (T(1) - beta1) * g;
      v[i] = beta2 * v[i] + (T(1) - beta2) * g * g;
      w[i] = keep * w[i] - rate * m[i] / (bias * std::sqrt(v[i]) + epsilon);
    }
  });
}

/// Sum of x^2 in double. The order of the additions depends on the size alone.
template <class T> double sum_of_squares(Context& ctx, View<const T, 1> x) {
  constexpr Index block = 4096;
  const Index blocks = (x.size() + block - 1) / block;
  auto scope = ctx.arena.scope();
  auto partial = ctx.arena.take<double>(blocks);
  parallel_ranges(ctx, blocks, 4, [&](Index begin, Index end) {
    for (Index b = begin; b < end; ++b) {
      double sum = 0;
      for (Index i = b * block, stop = std::min(x.size(), i + block); i < stop; ++i) sum += double(x.data[i]) * double(x.data[i]);
      partial(b) = sum;
    }
  });
  double total = 0;
  for (Index b = 0; b < blocks; ++b) total += partial(b);
  return total;
}

namespace detail {
/// Elements of scratch that `orthogonalize` needs for a rows x cols matrix.
inline Index orthogonalize_scratch(Index rows, Index cols) {
  const Index small = std::min(rows, cols);
  return rows * cols + 2 * small * small;
}

/// x = NewtonSchulz(x / |x|_F), serial; `scratch` as long as orthogonalize_scratch says. The Gram matrix is of the shorter side:
/// a tall x is multiplied from the right (A = X^T X, X = a X + X (b A + c A^2)), which is the same polynomial of X.
template <class T> void orthogonalize(View<T, 2> x, int iterations, T* scratch) {
  const Index m = x.rows(), n = x.cols(), small = std::min(m, n);
  T *next = scratch, *gram = next + m * n, *poly = gram + small * small;
  double sum = 0;
  for (T e : x) sum += double(e) * double(e);
  const T inverse = T(1 / (std::sqrt(sum) + 1e-7));
  for (T& e : x) e *= inverse;
  for (int i = 0; i < iterations; ++i) {
    if (m <= n)
      gemm_nt<T>(m, m, n, T(1), x.data, n, x.data, n, gram, m, false);
    else
      gemm_tn<T>(n, n, m, T(1), x.data, n, x.data, n, gram, n, false);
    gemm_nn<T>(small, small, small, T(NewtonSchulz::c), gram, small, gram, small, poly, small, false);
    for (Index j = 0; j < small * small; ++j) poly[j] += T(NewtonSchulz::b) * gram[j];
    for (Index j = 0; j < small; ++j) poly[j * small + j] += T(NewtonSchulz::a);
    if (m <= n)
      gemm_nn<T>(m, n, m, T(1), poly, m, x.data, n, next, n, false);
    else
      gemm_nn<T>(m, n, n, T(1), x.data, n, poly, n, next, n, false);
    std::copy_n(next, m * n, x.data);
  }
}
}  // namespace detail

/// One step of Muon (see MuonStep) on each of `matrices`, which are split over the threads.
template <class T> BRAID_NOINLINE void muon_update(Context& ctx, std::span<const MuonMatrix<T>> matrices, const MuonStep& step) {
  Index scratch = 0;
  for (const auto& p : matrices) {
    require_shape(p.grad, p.value.shape, "muon_update: grad");
    require_shape(p.momentum, p.value.shape, "muon_update: momentum");
    scratch = std::max(scratch, p.value.size() + detail::orthogonalize_scratch(p.value.rows(), p.value.cols()));
  }
  auto scope = ctx.arena.scope();
  auto room = ctx.arena.take<T>(ctx.threads(), scratch);
  parallel_for(ctx, static_cast<Index>(matrices.size()), [&](Index i) {
    const MuonMatrix<T>& p = matrices[static_cast<std::size_t>(i)];
    const View<T, 2> update(room.row(thread_number()), p.value.shape);
    const T mu = T(step.momentum), scale = T(step.gradient_scale);
    for (Index j = 0; j < update.size(); ++j) {
      const T g = scale * p.grad.data[j];
      p.momentum.data[j] = mu * p.momentum.data[j] + g;
      update.data[j] = g + mu * p.momentum.data[j];
    }
    detail::orthogonalize(update, step.iterations, update.data + update.size());
    const T keep = T(1 - step.rate * step.weight_decay);
    const T rate = T(step.rate * step.rms * std::sqrt(double(std::max(update.rows(), update.cols()))));
    for (Index j = 0; j < update.size(); ++j) p.value.data[j] = keep * p.value.data[j] - rate * update.data[j];
  });
}

/// Load balancing without a loss (Wang et al. 2024): bias += rate * sign(mean count - count). Both [experts].
template <class T> void balance_update(Context&, View<T, 1> bias, View<const T, 1> counts, double rate) {
  require_shape(counts, bias.shape, "balance_update: counts");
  double mean = 0;
  for (T c : counts) mean += double(c) / double(counts.size());
  for (Index e = 0; e < bias.size(); ++e) {
    const double gap = mean - double(counts.data[e]);
    bias.data[e] += T(rate * ((gap > 0) - (gap < 0)));
  }
}

}  // namespace braid::cpu
