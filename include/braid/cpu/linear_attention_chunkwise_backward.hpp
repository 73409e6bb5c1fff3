// The reverse of the chunkwise form: unless the forward kept them, a forward sweep for each chunk's starting state and pseudo values; then
// the chunks in reverse.
#pragma once

#include <braid/cpu/intra_chunk_backward.hpp>
#include <braid/cpu/linear_attention_chunkwise.hpp>

namespace braid::cpu::detail {

/// Scratch of one thread for the reverse.
template <class Gate, class Update, class T> struct ChunkBackwardScratch {
  ChunkScratch<Gate, Update, T> forward;
  IntraChunkBackward<Gate, Update, T> intra;
  TileGradients<Gate, Update, T> gradients;
  KeptChunks<T> sweep;       // of the longest sequence; room for none if the forward has kept them
  T *d_state, *d_rows, *d_R; // [K, V], [2 chunk, V], [chunk, V]

  ChunkBackwardScratch(Carve<T>& carve, const LinearAttentionInputs<T>& in, Index width, Index chunk, Index chunks)
      : forward(carve, in, width, chunk, true), intra(carve, forward.intra),
        gradients(carve, chunk, forward.tile.K, forward.tile.V) {
    const Index K = forward.tile.K, V = forward.tile.V, values = KeptChunks<T>::values(K, V, chunk);
    sweep = {carve.take(chunks * values), K, V, chunk, values};
    d_state = carve.take(K * V), d_rows = carve.take(2 * chunk * V), d_R = carve.take(chunk * V);
  }
};

/// last_d = total_d * sum_j S_dj dS_dj, what the chunk's total decay receives through the state; then dS <- diag(total) dS.
template <class Intra, class T> void decay_state_gradient(const Intra& intra, Index K, Index V, const T* S, T* dS, T* last) {
  if constexpr (Intra::decays)
    for (Index d = 0; d < K; ++d) last[d] = intra.total()[d] * dot(S + d * V, dS + d * V, V);
  decay_state(intra, K, V, dS);
}

/// One chunk of a rank-one update in reverse: dS is the gradient of the state after the chunk and becomes that of S, the state before it.
/// s.d_rows holds d_o [n, V] on entry. y and R are those of `chunk_forward`.
template <class Gate, class Update, class T>
void chunk_backward(const ChunkBackwardScratch<Gate, Update, T>& s, const T* S, const T* y, const T* R, T* dS) {
  using Intra = IntraChunk<Gate, Update, T>;
  const Intra& intra = s.forward.intra;
  const auto& tile = s.forward.tile;
  const auto& g = s.gradients;
  const Index n = intra.tokens(), K = tile.K, V = tile.V;
  T *d_o = s.d_rows, *d_y = s.d_rows + n * V, *d_R = s.d_R;

  lower_transposed_product(n, V, T(1), intra.matrix(0, 0), d_o, d_R, false);               // Eq. (9)
  product_nn<T>(n, V, K, T(1), intra.columns(0), K, dS, V, d_R, V, true);                     // Eq. (8)
  product_nt<T>(n, K, V, T(1), R, V, dS, V, s.intra.columns(0), K, false);
  if constexpr (Intra::reads) {
    erase_matrix(n, tile.erase, intra.matrix(1, 0), s.forward.solve);
    solve_lower_transposed(n, V, s.forward.solve, d_R);  // d_R is now the gradient of diag(write) V - diag(erase) y
    for (Index i = 0; i < n * V; i += Pack<T>::lanes) (-Pack<T>::load(d_R + i)).store(d_y + i);
  }
  product_nt<T>(Intra::row_kinds * n, n, V, T(1), d_o, V, R, V, s.intra.matrix(0, 0), n, false);
  for (Index i = 0; i < n; ++i) g.write[i] = dot(d_R + i * V, tile.v + i * V, V), g.erase[i] = T(0);
  scale_each_row(n, V, tile.write, d_R, g.v);
  if constexpr (Intra::reads) {  // so far per unit of erase
    const T* A = intra.matrix(1, 0);
    T* dA = s.intra.matrix(1, 0);
    for (Index i = 0; i < n; ++i) {
      T sum = dot(d_y + i * V, y + i * V, V);
      for (Index j = 0; j < i; ++j) sum += A[i * n + j] * dA[i * n + j];
      g.erase[i] = sum;
    }
    erase_matrix(n, tile.erase, dA, dA);
    scale_each_row(n, V, tile.erase, d_y, d_y);
  }
  product_nt<T>(Intra::row_kinds * n, K, V, T(1), d_o, V, S, V, s.intra.rows(0), K, false);
  decay_state_gradient(intra, K, V, S, dS, s.intra.last());
  product_tn<T>(K, V, Intra::row_kinds * n, T(1), intra.rows(0), K, d_o, V, dS, V, true);
  s.intra.run(g);
}

/// The forward of one task as far as its reverse needs it.
template <class Gate, class Update, class T>
void forward_sweep(const LinearAttentionInputs<T>& in, const HeadTask& task, const Activation<Gate, Update, T>& activation,
                   ChunkScratch<Gate, Update, T>& s, Index chunk, const KeptChunks<T>& kept) {
  const Index K = s.tile.K, V = s.tile.V;
  load_state(in, task, in.initial_state, K, V, s.state);
  for (Index first = 0, c = 0; first < task.tokens; first += chunk, ++c) {
    load_chunk(activation, s, task.begin + first, std::min(chunk, task.tokens - first));
    const KeptChunk<T> to = kept[c];
    std::copy(s.state, s.state + K * V, to.start);
    if constexpr (update_is_dplr<Update>) dplr_chunk_forward(s, s.state, static_cast<T*>(nullptr), to.y);
    else chunk_forward(s, s.state, static_cast<T*>(nullptr), to.y, to.R);
  }
}

/// The backward of one task, chunk by chunk. `kept` is what the forward kept; if nothing, a sweep does, of at most `chunks` chunks (else 0).
template <class Gate, class Update, class T>
BRAID_NOINLINE void chunkwise_backward(const LinearAttentionInputs<T>& in, const LinearAttentionGradients<T>& out, const HeadTask& task,
                                       const GradientSink<T>& sink, Index chunk, KeptChunks<const T> kept, Index chunks, T* scratch) {
  Carve<T> carve(scratch);
  ChunkBackwardScratch<Gate, Update, T> s(carve, in, task.width, chunk, chunks);
  const Activation<Gate, Update, T> activation(in, task, s.forward.tile);
  const Index K = s.forward.tile.K, V = s.forward.tile.V;
  if (!kept.first) {
    forward_sweep(in, task, activation, s.forward, chunk, s.sweep);
    kept = {s.sweep.first, K, V, chunk, s.sweep.stride};
  }
  load_state(in, task, out.d_final_state, K, V, s.d_state);
  for (Index c = (task.tokens + chunk - 1) / chunk; c-- > 0;) {
    const Index first = c * chunk, rows = std::min(chunk, task.tokens - first);
    load_chunk(activation, s.forward, task.begin + first, rows);
    load_values(in, task, out.d_o, task.begin + first, rows, V, s.d_rows);
    std::fill(s.d_rows + rows * V, s.d_rows + s.forward.intra.tokens() * V, T(0));
    const KeptChunk<const T> at = kept[c];
    if constexpr (update_is_dplr<Update>) dplr_chunk_backward(s, at.start, at.y, s.d_state);
    else chunk_backward(s, at.start, at.y, at.R, s.d_state);
    activation.store(s.gradients, task.begin + first, rows, sink, out.d_v);
  }
  store_state(in, task, s.d_state, V, out.d_initial_state);
}

template <class Gate, class Update, class T>
Index chunkwise_backward_scratch(const LinearAttentionInputs<T>& in, Index width, Index chunk, Index chunks) {
  Carve<T> carve;
  ChunkBackwardScratch<Gate, Update, T>(carve, in, width, chunk, chunks);
  return carve.used();
}

}  // namespace braid::cpu::detail
