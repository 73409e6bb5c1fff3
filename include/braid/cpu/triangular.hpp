// Products with and substitution by the lower triangular matrices of a chunk, in blocks of 16 rows. Never an inverse, never powers.
#pragma once

#include <braid/cpu/block_product.hpp>
#include <braid/cpu/intra_chunk.hpp>

namespace braid::cpu::detail {

/// y[n, V] += sign * L x, L [n, n] lower triangular.
template <class T> void add_lower_product(Index n, Index V, T sign, const T* L, const T* x, T* y) {
  for (Index b = 0; b < n; b += block) product_nn<T>(block, V, b + block, sign, L + b * n, n, x, V, y + b * V, V, true);
}
/// y[n, V] = accumulate * y + sign * L^T x.
template <class T> void lower_transposed_product(Index n, Index V, T sign, const T* L, const T* x, T* y, bool accumulate) {
  for (Index b = 0; b < n; b += block)
    product_tn<T>(block, V, n - b, sign, L + b * n + b, n, x + b * V, V, y + b * V, V, accumulate);
}

/// One block of the substitution: x <- (I + L)^-1 x, L strictly lower, 16 x 16 with rows `n` apart. Exact to rounding for any L.
template <class T> void solve_block(Index n, Index V, const T* L, T* x) {
  using P = Pack<T>;
  for_packs<T>(V, [&](Index d) {
    P r[block];
    unrolled<int(block)>([&](auto i) { r[i] = P::load(x + i * V + d); });
    unrolled<int(block)>([&](auto j) {
      unrolled<int(block) - 1 - decltype(j)::value>([&](auto i) {
        constexpr int row = decltype(j)::value + 1 + decltype(i)::value;
        r[row] = fma(P(-L[row * n + j]), r[j], r[row]);
      });
      r[j].store(x + j * V + d);
    });
  });
}
/// As solve_block, with (I + L)^-T.
template <class T> void solve_block_transposed(Index n, Index V, const T* L, T* x) {
  using P = Pack<T>;
  for_packs<T>(V, [&](Index d) {
    P r[block];
    unrolled<int(block)>([&](auto i) { r[i] = P::load(x + i * V + d); });
    unrolled<int(block)>([&](auto down) {
      constexpr int j = int(block) - 1 - decltype(down)::value;
      unrolled<j>([&](auto i) { r[i] = fma(P(-L[j * n + i]), r[j], r[i]); });
      r[j].store(x + j * V + d);
    });
  });
}

/// x[n, V] <- (I + L)^-1 x, L strictly lower: Eq. (6) by forward substitution.
template <class T> BRAID_NOINLINE void solve_lower(Index n, Index V, const T* L, T* x) {
  for (Index b = 0; b < n; b += block) {
    product_nn<T>(block, V, b, T(-1), L + b * n, n, x, V, x + b * V, V, true);
    solve_block(n, V, L + b * n + b, x + b * V);
  }
}
/// x[n, V] <- (I + L)^-T x.
template <class T> BRAID_NOINLINE void solve_lower_transposed(Index n, Index V, const T* L, T* x) {
  for (Index b = n - block; b >= 0; b -= block) {
    const Index below = b + block;
    product_tn<T>(block, V, n - below, T(-1), L + below * n + b, n, x + below * V, V, x + b * V, V, true);
    solve_block_transposed(n, V, L + b * n + b, x + b * V);
  }
}

}  // namespace braid::cpu::detail
