// Matrix products of the sizes of a chunk (tens to a few hundred rows), on packs. Beside cpu/gemm.hpp for two reasons: no call copies its
// operands into blocks first, which at these sizes is a large share of the time; and each entry of the result is one sum in the order of
// k whatever the shape, so that a result does not depend on how columns were split over threads.
//
// All matrices are row-major with a row stride; n (the columns of the result) is a multiple of Pack<T>::lanes. Serial, no allocation.
#pragma once

#include <braid/cpu/pack.hpp>

namespace braid::cpu::detail {

inline constexpr Index product_depth = 128;  // terms summed in registers before the result is touched
inline constexpr int product_rows = register_bytes == 64 ? 8 : 4, product_packs = register_bytes == 64 ? 3 : 2;

/// c[R, Q packs] = accumulate * c + alpha * sum_k a(r, k) b(k, .), with a(r, k) = a[r * a_row + k * a_k].
template <int R, int Q, class T>
inline void product_tile(Index k, T alpha, const T* a, Index a_row, Index a_k, const T* b, Index ldb, T* c, Index ldc, bool accumulate) {
  using P = Pack<T>;
  P sum[R * Q];
  unrolled<R * Q>([&](auto i) { sum[i] = P(T(0)); });
  for (Index step = 0; step < k; ++step) {
    P row[Q];
    unrolled<Q>([&](auto q) { row[q] = P::load(b + step * ldb + q * P::lanes); });
    unrolled<R>([&](auto r) {
      const P x(a[r * a_row + step * a_k]);
      unrolled<Q>([&](auto q) { sum[r * Q + q] = fma(x, row[q], sum[r * Q + q]); });
    });
  }
  unrolled<R>([&](auto r) {
    unrolled<Q>([&](auto q) {
      T* to = c + r * ldc + q * P::lanes;
      (accumulate ? fma(P(alpha), sum[r * Q + q], P::load(to)) : P(alpha) * sum[r * Q + q]).store(to);
    });
  });
}

/// All rows of Q packs of columns.
template <int Q, class T>
BRAID_NOINLINE void product_columns(Index m, Index k, T alpha, const T* a, Index a_row, Index a_k, const T* b, Index ldb, T* c, Index ldc,
                                    bool accumulate) {
  Index i = 0;
  for (; i + product_rows <= m; i += product_rows)
    product_tile<product_rows, Q>(k, alpha, a + i * a_row, a_row, a_k, b, ldb, c + i * ldc, ldc, accumulate);
  for (; i < m; ++i) product_tile<1, Q>(k, alpha, a + i * a_row, a_row, a_k, b, ldb, c + i * ldc, ldc, accumulate);
}

/// Calls f(integral_constant packs, first column) for groups of at most product_packs packs.
template <class T, class F> inline void for_column_groups(Index n, F&& f) {
  constexpr Index lanes = Pack<T>::lanes;
  Index j = 0;
  for (; j + product_packs * lanes <= n; j += product_packs * lanes) f(std::integral_constant<int, product_packs>{}, j);
  if constexpr (product_packs > 2)
    if (j + 2 * lanes <= n) f(std::integral_constant<int, 2>{}, j), j += 2 * lanes;
  if (j < n) f(std::integral_constant<int, 1>{}, j);
}

template <class T>
void product(Index m, Index n, Index k, T alpha, const T* a, Index a_row, Index a_k, const T* b, Index ldb, T* c, Index ldc, bool accumulate) {
  if (k == 0 && !accumulate)
    for (Index i = 0; i < m; ++i) std::fill(c + i * ldc, c + i * ldc + n, T(0));
  for (Index first = 0; first < k; first += product_depth)
    for_column_groups<T>(n, [&](auto packs, Index j) {
      product_columns<decltype(packs)::value>(m, std::min(product_depth, k - first), alpha, a + first * a_k, a_row, a_k, b + first * ldb + j,
                                              ldb, c + j, ldc, accumulate || first > 0);
    });
}

/// c[m,n] = accumulate * c + alpha * a[m,k] b[k,n].
template <class T>
void product_nn(Index m, Index n, Index k, T alpha, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc, bool accumulate) {
  product(m, n, k, alpha, a, lda, Index(1), b, ldb, c, ldc, accumulate);
}
/// c[m,n] = accumulate * c + alpha * a[k,m]^T b[k,n].
template <class T>
void product_tn(Index m, Index n, Index k, T alpha, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc, bool accumulate) {
  product(m, n, k, alpha, a, Index(1), lda, b, ldb, c, ldc, accumulate);
}

/// to[k, Q packs] = from[Q packs, k]^T, `to` contiguous.
template <int Q, class T> inline void transpose_group(Index k, const T* from, Index stride, T* to) {
  constexpr Index lanes = Pack<T>::lanes;
  for (Index q = 0; q < Q; ++q) {
    Index d = 0;
    for (; d + lanes <= k; d += lanes) {
      Pack<T> tile[lanes];
      unrolled<int(lanes)>([&](auto i) { tile[i] = Pack<T>::load(from + (q * lanes + i) * stride + d); });
      transpose(tile);
      unrolled<int(lanes)>([&](auto i) { tile[i].store(to + (d + i) * Q * lanes + q * lanes); });
    }
    for (; d < k; ++d)
      for (Index i = 0; i < lanes; ++i) to[d * Q * lanes + q * lanes + i] = from[(q * lanes + i) * stride + d];
  }
}

/// c[m,n] = accumulate * c + alpha * a[m,k] b[n,k]^T.
template <class T>
void product_nt(Index m, Index n, Index k, T alpha, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc, bool accumulate) {
  constexpr Index lanes = Pack<T>::lanes;
  alignas(64) T turned[product_depth * product_packs * lanes];
  for (Index first = 0; first < k; first += product_depth) {
    const Index depth = std::min(product_depth, k - first);
    for_column_groups<T>(n, [&](auto packs, Index j) {
      constexpr int Q = decltype(packs)::value;
      transpose_group<Q>(depth, b + j * ldb + first, ldb, turned);
      product_columns<Q>(m, depth, alpha, a + first, lda, Index(1), turned, Q * lanes, c + j, ldc, accumulate || first > 0);
    });
  }
}

}  // namespace braid::cpu::detail
