// The product of a few rows with a large matrix, as decoding has it. Reading the matrix is the whole cost, so it is read once and in the
// order of memory, one row after the other: with several rows at a time a core's prefetcher reaches less than half the speed.
#pragma once

#include <braid/core/macros.hpp>
#include <braid/cpu/map.hpp>

namespace braid::cpu::detail {

/// Up to so many rows this product is faster than one in blocks.
inline constexpr Index few_rows = 8;
/// Elements of the matrix that a thread takes at a time. More pieces than threads: cores do not get equal shares of the memory's speed.
inline constexpr Index few_rows_piece = 1 << 15;

/// sums[r] = x_r . w for R rows x_r of k elements, `ldx` apart. The order of summation depends on k and R alone.
template <int R, class T> inline void dots(Index k, const T* x, Index ldx, const T* w, T* sums) {
  using P = Pack<T>;
  constexpr int chains = 8 / R;  // sums under way at once for a row: they hide the latency of the addition
  P sum_of[R * chains];
  unrolled<R * chains>([&](auto i) { sum_of[i] = P(T(0)); });
  auto step = [&](Index at, auto chain, Index count) {
    const P from = load_part(w + at, count);
    unrolled<R>([&](auto r) { sum_of[r * chains + chain] = fma(load_part(x + r * ldx + at, count), from, sum_of[r * chains + chain]); });
  };
  Index i = 0;
  for (; i + chains * P::lanes <= k; i += chains * P::lanes)
    unrolled<chains>([&](auto chain) { step(i + chain * P::lanes, chain, P::lanes); });
  for (; i < k; i += P::lanes) step(i, std::integral_constant<int, 0>{}, k - i);
  unrolled<R>([&](auto r) {
    P total = sum_of[r * chains];
    unrolled<chains - 1>([&](auto chain) { total += sum_of[r * chains + chain + 1]; });
    sums[r] = sum(total);
  });
}

/// c[m,n] = accumulate * c + alpha * a[m,k] b[n,k]^T, m <= few_rows.
template <class T>
BRAID_NOINLINE void few_rows_nt(Index m, Index n, Index k, T alpha, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc,
                                bool accumulate) {
  T sums[few_rows];
  for (Index j = 0; j < n; ++j) {
    const T* w = b + j * ldb;
    Index i = 0;
    for (; i + 4 <= m; i += 4) dots<4>(k, a + i * lda, lda, w, sums + i);
    for (; i < m; ++i) dots<1>(k, a + i * lda, lda, w, sums + i);
    for (i = 0; i < m; ++i) {
      T& to = c[i * ldc + j];
      to = accumulate ? to + alpha * sums[i] : alpha * sums[i];
    }
  }
}

}  // namespace braid::cpu::detail
