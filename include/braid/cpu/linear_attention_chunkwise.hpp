// The chunkwise form of linear attention: the loop over chunks, and one chunk of the rank-one updates (Eqs. 2-9). Dplr's chunk is in
// linear_attention_dplr.hpp.
//
// Eqs. (6)-(9) are used in the order that meets the state first: with L = diag(erase) A, the pseudo values are
//   R = U - W S = (I + L)^-1 (diag(write) V - diag(erase) (Gamma K) S)
// so that W and U are never formed, and the inverse is a forward substitution.
#pragma once

#include <braid/cpu/activate.hpp>
#include <braid/cpu/linear_attention_dplr.hpp>
#include <braid/cpu/triangular.hpp>

namespace braid::cpu::detail {

/// Scratch of one thread for the chunkwise form.
template <class Gate, class Update, class T> struct ChunkScratch {
  Tile<Gate, Update, T> tile;
  IntraChunk<Gate, Update, T> intra;
  T *state, *values, *solve;  // [K, V], [2 chunk, V], [chunk, chunk]

  ChunkScratch(Carve<T>& carve, const LinearAttentionInputs<T>& in, Index width, Index chunk, bool backward)
      : tile(carve, chunk, in.key_dim, width), intra(carve, tile, chunk, backward) {
    state = carve.take(tile.K * tile.V), values = carve.take(2 * chunk * tile.V), solve = carve.take(chunk * chunk);
  }
};

/// What the reverse of a chunk needs of its forward: the state before it [K, V], and y and R of `chunk_forward`, [chunk, V] each.
template <class T> struct KeptChunk {
  T *start, *y, *R;
};

/// That of each chunk of a task. K and V are padded to whole packs.
template <class T> struct KeptChunks {
  T* first = nullptr;  ///< null: nothing is kept
  Index K, V, chunk, stride;

  static Index values(Index K, Index V, Index chunk) { return K * V + 2 * chunk * V; }
  KeptChunk<T> operator[](Index c) const {
    T* at = first + c * stride;
    return {at, at + K * V, at + K * V + chunk * V};
  }
};

/// Tokens of a chunk with the padding to whole blocks.
inline Index whole_blocks(Index rows) { return (rows + block - 1) / block * block; }

/// S <- diag(total) S + columns^T x (the two terms of Eq. 8).
template <class Intra, class T> void decay_state(const Intra& intra, Index K, Index V, T* S) {
  if constexpr (Intra::decays)
    for (Index d = 0; d < K; ++d) {
      const Pack<T> a(intra.total()[d]);
      for_packs<T>(V, [&](Index j) { (Pack<T>::load(S + d * V + j) * a).store(S + d * V + j); });
    }
}

/// to_i = x_i * from_i over n rows of V.
template <class T> void scale_each_row(Index n, Index V, const T* x, const T* from, T* to) {
  for (Index i = 0; i < n; ++i)
    for_packs<T>(V, [&](Index j) { (Pack<T>(x[i]) * Pack<T>::load(from + i * V + j)).store(to + i * V + j); });
}

/// solve = diag(erase) A.
template <class T> void erase_matrix(Index n, const T* erase, const T* A, T* solve) {
  for (Index i = 0; i < n; ++i)
    for (Index j = 0; j < n; ++j) solve[i * n + j] = erase[i] * A[i * n + j];
}

/// One chunk of a rank-one update: S becomes the state after it. `o` [n, V], or null if only the state is wanted; y [n, V] is what the
/// decayed state at the chunk's start says about each key and must be o + n V when o is given; R [n, V] are the pseudo values.
template <class Gate, class Update, class T>
void chunk_forward(const ChunkScratch<Gate, Update, T>& s, T* S, T* o, T* y, T* R) {
  using Intra = IntraChunk<Gate, Update, T>;
  const Intra& intra = s.intra;
  const Index n = intra.tokens(), K = s.tile.K, V = s.tile.V;
  if (o)
    product_nn<T>(Intra::row_kinds * n, V, K, T(1), intra.rows(0), K, S, V, o, V, false);  // o = (Gamma Q) S; y = (Gamma K) S
  else if constexpr (Intra::reads)
    product_nn<T>(n, V, K, T(1), intra.rows(1), K, S, V, y, V, false);
  scale_each_row(n, V, s.tile.write, s.tile.v, R);
  if constexpr (Intra::reads) {
    for (Index i = 0; i < n; ++i)
      for_packs<T>(V, [&](Index j) {
        fma(Pack<T>(-s.tile.erase[i]), Pack<T>::load(y + i * V + j), Pack<T>::load(R + i * V + j)).store(R + i * V + j);
      });
    erase_matrix(n, s.tile.erase, intra.matrix(1, 0), s.solve);
    solve_lower(n, V, s.solve, R);  // Eq. (6), applied to the right-hand side
  }
  if (o) add_lower_product(n, V, T(1), intra.matrix(0, 0), R, o);  // Eq. (9)
  decay_state(intra, K, V, S);                                     // Eq. (8)
  product_tn<T>(K, V, n, T(1), intra.columns(0), K, R, V, S, V, true);
}

/// Loads and prepares the chunk of tokens [first, first + rows) of a task.
template <class Gate, class Update, class T>
void load_chunk(const Activation<Gate, Update, T>& activation, ChunkScratch<Gate, Update, T>& s, Index first, Index rows) {
  activation.load(first, rows);
  s.tile.clear(rows, whole_blocks(rows));
  s.intra.prepare(whole_blocks(rows));
}

/// The forward of one task, chunk by chunk.
template <class Gate, class Update, class T>
BRAID_NOINLINE void chunkwise_forward(const LinearAttentionInputs<T>& in, const LinearAttentionOutputs<T>& out, const HeadTask& task,
                                      Index chunk, const KeptChunks<T>& kept, T* scratch) {
  Carve<T> carve(scratch);
  ChunkScratch<Gate, Update, T> s(carve, in, task.width, chunk, false);
  T* R = carve.take(chunk * s.tile.V);
  const Activation<Gate, Update, T> activation(in, task, s.tile);
  const Index K = s.tile.K, V = s.tile.V;
  load_state(in, task, in.initial_state, K, V, s.state);
  for (Index first = 0, c = 0; first < task.tokens; first += chunk, ++c) {
    const Index rows = std::min(chunk, task.tokens - first);
    load_chunk(activation, s, task.begin + first, rows);
    const Index n = s.intra.tokens();
    T* y = s.values + n * V;
    const KeptChunk<T> keep = kept.first ? kept[c] : KeptChunk<T>{nullptr, nullptr, R};
    if (keep.start) std::copy_n(s.state, K * V, keep.start);
    if constexpr (update_is_dplr<Update>) dplr_chunk_forward(s, s.state, s.values, y);
    else chunk_forward(s, s.state, s.values, y, keep.R);
    if (keep.y) std::copy_n(y, n * V, keep.y);
    store_values(in, task, s.values, task.begin + first, rows, V, out.o);
  }
  store_state(in, task, s.state, V, out.final_state);
}

template <class Gate, class Update, class T>
Index chunkwise_scratch(const LinearAttentionInputs<T>& in, Index width, Index chunk) {
  Carve<T> carve;
  const ChunkScratch<Gate, Update, T> s(carve, in, width, chunk, false);
  carve.take(chunk * s.tile.V);
  return carve.used();
}

}  // namespace braid::cpu::detail
