// Matrix products of the CPU backend: the only place where Eigen multiplies matrices, so each variant is compiled once per type.
// x W^T of a few rows x is not Eigen's (cpu/few_rows.hpp).
// All matrices are row-major with a row stride. Serial: callers split the work over threads.
#pragma once

#include <braid/core/macros.hpp>
#include <braid/core/types.hpp>
#include <braid/cpu/few_rows.hpp>

// Products run on the calling thread: Eigen must not start threads of its own.
#ifndef EIGEN_DONT_PARALLELIZE
#define EIGEN_DONT_PARALLELIZE
#endif

// g++ 12 takes the "undefined" operands of its own AVX-512 intrinsics for uninitialised variables (GCC bug 105593).
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <Eigen/Core>
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

namespace braid::cpu {

template <class T> using RowMatrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class T> using MatrixMap = Eigen::Map<RowMatrix<T>, Eigen::Unaligned, Eigen::OuterStride<>>;
template <class T> using ConstMatrixMap = Eigen::Map<const RowMatrix<T>, Eigen::Unaligned, Eigen::OuterStride<>>;

/// Row-major rows x cols elements at `data`, `stride` elements from row to row.
template <class T> MatrixMap<T> matrix(T* data, Index rows, Index cols, Index stride) {
  return MatrixMap<T>(data, rows, cols, Eigen::OuterStride<>(stride));
}
template <class T> ConstMatrixMap<T> matrix(const T* data, Index rows, Index cols, Index stride) {
  return ConstMatrixMap<T>(data, rows, cols, Eigen::OuterStride<>(stride));
}

/// c[m,n] = accumulate * c + alpha * a[m,k] b[k,n].
template <class T>
BRAID_NOINLINE void gemm_nn(Index m, Index n, Index k, T alpha, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc,
                            bool accumulate) {
  if (m == 0 || n == 0) return;
  auto out = matrix(c, m, n, ldc);
  if (!accumulate) out.setZero();
  if (k) out.noalias() += alpha * matrix(a, m, k, lda) * matrix(b, k, n, ldb);
}

/// c[m,n] = accumulate * c + alpha * a[m,k] b[n,k]^T.
template <class T>
BRAID_NOINLINE void gemm_nt(Index m, Index n, Index k, T alpha, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc,
                            bool accumulate) {
  if (m == 0 || n == 0) return;
  if (m <= detail::few_rows) return detail::few_rows_nt(m, n, k, alpha, a, lda, b, ldb, c, ldc, accumulate);
  auto out = matrix(c, m, n, ldc);
  if (!accumulate) out.setZero();
  if (k) out.noalias() += alpha * matrix(a, m, k, lda) * matrix(b, n, k, ldb).transpose();
}

/// c[m,n] = accumulate * c + alpha * a[k,m]^T b[k,n].
template <class T>
BRAID_NOINLINE void gemm_tn(Index m, Index n, Index k, T alpha, const T* a, Index lda, const T* b, Index ldb, T* c, Index ldc,
                            bool accumulate) {
  if (m == 0 || n == 0) return;
  auto out = matrix(c, m, n, ldc);
  if (!accumulate) out.setZero();
  if (k) out.noalias() += alpha * matrix(a, k, m, lda).transpose() * matrix(b, k, n, ldb);
}

}  // namespace braid::cpu
