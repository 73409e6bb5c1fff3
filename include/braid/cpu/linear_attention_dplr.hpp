// One chunk of the general diagonal-plus-low-rank update S_t = (diag(alpha) - a b^T) S_{t-1} + k v^T (section 6.2), and its reverse.
//
// With y_i = b_i^T S_{i-1} and four intra-chunk matrices (b reads the state before the token's own decay):
//   (I + A_ba) Y = (Gamma' B) S + A_bk V,   O = (Gamma Q) S + A_qk V - A_qa Y,   S <- diag(total) S + K^T V - A^T Y
#pragma once

#include <braid/cpu/intra_chunk_backward.hpp>
#include <braid/cpu/triangular.hpp>

namespace braid::cpu::detail {

template <class Gate, class Update, class T> struct ChunkScratch;
template <class Gate, class Update, class T> struct ChunkBackwardScratch;
template <class Intra, class T> void decay_state(const Intra& intra, Index K, Index V, T* S);
template <class Intra, class T> void decay_state_gradient(const Intra& intra, Index K, Index V, const T* S, T* dS, T* last);

/// One chunk: S becomes the state after it. `o` [n, V], or null; Y [n, V], at o + n V when o is given.
template <class Gate, class Update, class T> void dplr_chunk_forward(const ChunkScratch<Gate, Update, T>& s, T* S, T* o, T* Y) {
  const auto& intra = s.intra;
  const Index n = intra.tokens(), K = s.tile.K, V = s.tile.V;
  const T* v = s.tile.v;
  if (o) product_nn<T>(2 * n, V, K, T(1), intra.rows(0), K, S, V, o, V, false);
  else product_nn<T>(n, V, K, T(1), intra.rows(1), K, S, V, Y, V, false);
  add_lower_product(n, V, T(1), intra.matrix(1, 0), v, Y);
  solve_lower(n, V, intra.matrix(1, 1), Y);
  if (o) {
    add_lower_product(n, V, T(1), intra.matrix(0, 0), v, o);
    add_lower_product(n, V, T(-1), intra.matrix(0, 1), Y, o);
  }
  decay_state(intra, K, V, S);
  product_tn<T>(K, V, n, T(1), intra.columns(0), K, v, V, S, V, true);
  product_tn<T>(K, V, n, T(-1), intra.columns(1), K, Y, V, S, V, true);
}

/// One chunk in reverse: dS is the gradient of the state after the chunk and becomes that of S, the state before it. s.d_rows holds d_o
/// [n, V] on entry.
template <class Gate, class Update, class T>
void dplr_chunk_backward(const ChunkBackwardScratch<Gate, Update, T>& s, const T* S, const T* Y, T* dS) {
  const auto& intra = s.forward.intra;
  const auto& tile = s.forward.tile;
  const Index n = intra.tokens(), K = tile.K, V = tile.V;
  const T* v = tile.v;
  T *d_o = s.d_rows, *d_Y = s.d_rows + n * V, *dv = s.gradients.v;

  lower_transposed_product(n, V, T(-1), intra.matrix(0, 1), d_o, d_Y, false);
  product_nn<T>(n, V, K, T(-1), intra.columns(1), K, dS, V, d_Y, V, true);
  solve_lower_transposed(n, V, intra.matrix(1, 1), d_Y);
  lower_transposed_product(n, V, T(1), intra.matrix(0, 0), d_o, dv, false);
  lower_transposed_product(n, V, T(1), intra.matrix(1, 0), d_Y, dv, true);
  product_nn<T>(n, V, K, T(1), intra.columns(0), K, dS, V, dv, V, true);

  product_nt<T>(2 * n, n, V, T(1), d_o, V, v, V, s.intra.matrix(0, 0), n, false);
  product_nt<T>(2 * n, n, V, T(-1), d_o, V, Y, V, s.intra.matrix(0, 1), n, false);
  product_nt<T>(n, K, V, T(1), v, V, dS, V, s.intra.columns(0), K, false);
  product_nt<T>(n, K, V, T(-1), Y, V, dS, V, s.intra.columns(1), K, false);
  product_nt<T>(2 * n, K, V, T(1), d_o, V, S, V, s.intra.rows(0), K, false);
  decay_state_gradient(intra, K, V, S, dS, s.intra.last());
  product_tn<T>(K, V, 2 * n, T(1), intra.rows(0), K, d_o, V, dS, V, true);
  s.intra.run(s.gradients);
}

}  // namespace braid::cpu::detail
