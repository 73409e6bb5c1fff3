// The token-by-token form of linear attention (Eq. 1; section 6.2 for Dplr) and its reverse. This is the form of decoding: it
// reads the state twice and writes it once per token, in place when the caller gave memory for the final state.
#pragma once

#include <braid/cpu/activate.hpp>

namespace braid::cpu::detail {

/// Scratch of one thread for the token-by-token form.
template <class Gate, class Update, class T> struct RecurrentScratch {
  static constexpr Index rows = 16;
  Tile<Gate, Update, T> tile;
  T *state, *key;  // [K, V], [K]
  T* o;            // [V]

  RecurrentScratch(Carve<T>& carve, const LinearAttentionInputs<T>& in, Index width)
      : tile(carve, rows, in.key_dim, width), state(carve.take(tile.K * tile.V)), key(carve.take(tile.K)), o(carve.take(tile.V)) {}
};

/// One token on `Packs` packs of value columns: S is advanced in place, o = S^T q. `before[d]` is what y = S^T before reads.
template <int Packs, class Gate, class Update, class T>
inline void step_columns(const Tile<Gate, Update, T>& tile, Index i, Index key_dim, const T* before, T* S, Index stride, Index column, T* o) {
  using P = Pack<T>;
  const T *q = tile.q + i * tile.K, *k = tile.k + i * tile.K, *v = tile.v + i * tile.V + column;
  P y[Packs], r[Packs], out[Packs];
  for (int p = 0; p < Packs; ++p) y[p] = out[p] = P(T(0)), r[p] = P::load(v + p * P::lanes);
  if constexpr (!update_is_dplr<Update>) {
    if constexpr (Update::erases)
      for (Index d = 0; d < key_dim; ++d)
        for (int p = 0; p < Packs; ++p) y[p] = fma(P(before[d]), P::load(S + d * stride + column + p * P::lanes), y[p]);
    for (int p = 0; p < Packs; ++p) r[p] = P(tile.write[i]) * r[p] - P(tile.erase[i]) * y[p];
  } else {
    for (Index d = 0; d < key_dim; ++d)
      for (int p = 0; p < Packs; ++p) y[p] = fma(P(before[d]), P::load(S + d * stride + column + p * P::lanes), y[p]);
  }
  for (Index d = 0; d < key_dim; ++d) {
    T* row = S + d * stride + column;
    for (int p = 0; p < Packs; ++p) {
      P s = P::load(row + p * P::lanes);
      if constexpr (Gate::decay != Decay::none) s *= P(tile.decay(i, d));
      if constexpr (update_is_dplr<Update>) s = fma(P(-tile.a[i * tile.K + d]), y[p], s);
      s = fma(P(k[d]), r[p], s);
      s.store(row + p * P::lanes);
      out[p] = fma(P(q[d]), s, out[p]);
    }
  }
  for (int p = 0; p < Packs; ++p) out[p].store(o + column + p * P::lanes);
}

/// One token: S <- Eq. (1), o = scale S^T q. `width` is padded.
template <class Gate, class Update, class T>
inline void step(const Tile<Gate, Update, T>& tile, Index i, Index key_dim, Index width, T* before, T* S, Index stride, T* o) {
  if constexpr (update_is_dplr<Update>)
    std::copy(tile.b + i * tile.K, tile.b + i * tile.K + key_dim, before);
  else
    for (Index d = 0; d < key_dim; ++d) before[d] = tile.decay(i, d) * tile.k[i * tile.K + d];
  constexpr int wide = register_bytes == 64 ? 8 : 4;
  Index column = 0;
  for (; column + wide * Pack<T>::lanes <= width; column += wide * Pack<T>::lanes)
    step_columns<wide, Gate, Update>(tile, i, key_dim, before, S, stride, column, o);
  for (; column < width; column += Pack<T>::lanes)
    step_columns<1, Gate, Update>(tile, i, key_dim, before, S, stride, column, o);
}

/// The forward of one task, token by token.
template <class Gate, class Update, class T>
BRAID_NOINLINE void recurrent_forward(const LinearAttentionInputs<T>& in, const LinearAttentionOutputs<T>& out, const HeadTask& task,
                                      T* scratch) {
  Carve<T> carve(scratch);
  using Scratch = RecurrentScratch<Gate, Update, T>;
  const Scratch s(carve, in, task.width);
  const Activation<Gate, Update, T> activation(in, task, s.tile);
  const Index K = in.key_dim, V = s.tile.V;

  const bool in_place = out.final_state && task.width == V;
  T* S = in_place ? out.final_state + (task.sequence * in.value_heads + task.head) * K * in.value_dim + task.column : s.state;
  const Index stride = in_place ? in.value_dim : V;
  if (!in_place || in.initial_state != out.final_state) {
    if (in_place && !in.initial_state)
      for (Index d = 0; d < K; ++d) std::fill(S + d * stride, S + d * stride + V, T(0));
    else if (in_place)
      copy_rows(K, V, in.initial_state + (S - out.final_state), stride, S, stride);
    else
      load_state(in, task, in.initial_state, K, stride, S);
  }
  for (Index first = 0; first < task.tokens; first += Scratch::rows) {
    const Index rows = std::min(Scratch::rows, task.tokens - first);
    activation.load(task.begin + first, rows);
    for (Index i = 0; i < rows; ++i) {
      step<Gate, Update>(s.tile, i, K, V, s.key, S, stride, s.o);
      store_values(in, task, s.o, task.begin + first + i, 1, V, out.o);
    }
  }
  if (!in_place) store_state(in, task, S, stride, out.final_state);
}

template <class Gate, class Update, class T> Index recurrent_scratch(const LinearAttentionInputs<T>& in, Index width) {
  Carve<T> carve;
  RecurrentScratch<Gate, Update, T>(carve, in, width);
  return carve.used();
}

/// Scratch of one thread for the reverse: the states at the tiles' starts, and those after every token of one tile.
template <class Gate, class Update, class T> struct RecurrentBackwardScratch {
  static constexpr Index rows = 16;
  Tile<Gate, Update, T> tile;
  TileGradients<Gate, Update, T> gradients;
  T *starts, *states;  // [tiles, K, V], [rows + 1, K, V]
  T *d_state;          // [K, V]
  T *y, *r, *d_o;      // [rows, V]
  T *dy, *dr, *row;    // [V]
  T *key, *o;          // [K], [V]

  RecurrentBackwardScratch(Carve<T>& carve, const LinearAttentionInputs<T>& in, Index width, Index longest)
      : tile(carve, rows, in.key_dim, width), gradients(carve, rows, tile.K, tile.V) {
    const Index size = tile.K * tile.V;
    starts = carve.take((longest + rows - 1) / rows * size), states = carve.take((rows + 1) * size);
    d_state = carve.take(size);
    y = carve.take(rows * tile.V), r = carve.take(rows * tile.V), d_o = carve.take(rows * tile.V);
    dy = carve.take(tile.V), dr = carve.take(tile.V), row = carve.take(tile.V);
    key = carve.take(tile.K), o = carve.take(tile.V);
  }
};

template <class Gate, class Update, class T>
Index recurrent_backward_scratch(const LinearAttentionInputs<T>& in, Index width, Index longest) {
  Carve<T> carve;
  RecurrentBackwardScratch<Gate, Update, T>(carve, in, width, longest);
  return carve.used();
}

/// to += x * from over a padded row.
template <class T> inline void add_scaled(T x, const T* from, Index n, T* to) {
  for_packs<T>(n, [&](Index j) { fma(Pack<T>(x), Pack<T>::load(from + j), Pack<T>::load(to + j)).store(to + j); });
}

/// y and r of row i from the state before it (recomputed for the reverse).
template <class Gate, class Update, class Scratch, class T>
void recall(const Scratch& s, Index i, Index key_dim, const T* before) {
  const auto& tile = s.tile;
  const Index K = tile.K, V = tile.V;
  T *y = s.y + i * V, *r = s.r + i * V;
  std::fill(y, y + V, T(0));
  if constexpr (update_is_dplr<Update>) {
    for (Index d = 0; d < key_dim; ++d) add_scaled(tile.b[i * K + d], before + d * V, V, y);
  } else {
    if constexpr (Update::erases)
      for (Index d = 0; d < key_dim; ++d) add_scaled(tile.decay(i, d) * tile.k[i * K + d], before + d * V, V, y);
    for (Index j = 0; j < V; ++j) r[j] = tile.write[i] * tile.v[i * V + j] - tile.erase[i] * y[j];
  }
}

/// Gradient of a decay: per channel it is stored, per head it is summed.
template <class Gate, class T> inline void put_log_decay(T value, Index i, Index d, Index K, T* log_decay) {
  if constexpr (Gate::decay == Decay::per_channel) log_decay[i * K + d] = value;
  else if constexpr (Gate::decay == Decay::per_head) log_decay[i] = d ? log_decay[i] + value : value;
}

/// Row i in reverse, rank-one updates: takes dS of the state after the token to that of the state before it.
template <class Gate, class Update, class Scratch, class T>
void reverse_step(const Scratch& s, Index i, Index key_dim, const T* before, const T* after) {
  const auto& tile = s.tile;
  const auto& g = s.gradients;
  const Index K = tile.K, V = tile.V;
  const T *d_o = s.d_o + i * V, *r = s.r + i * V, *y = s.y + i * V, *v = tile.v + i * V;
  std::fill(s.dr, s.dr + V, T(0));
  for (Index d = 0; d < key_dim; ++d) {
    T* dS = s.d_state + d * V;
    g.q[i * K + d] = dot(after + d * V, d_o, V);
    add_scaled(tile.q[i * K + d], d_o, V, dS);
    g.k[i * K + d] = dot(dS, r, V);
    add_scaled(tile.k[i * K + d], dS, V, s.dr);
  }
  g.write[i] = dot(s.dr, v, V);
  g.erase[i] = -dot(s.dr, y, V);
  for (Index j = 0; j < V; ++j) {
    g.v[i * V + j] = tile.write[i] * s.dr[j];
    s.dy[j] = -tile.erase[i] * s.dr[j];
  }
  for (Index d = 0; d < key_dim; ++d) {
    T* dS = s.d_state + d * V;
    const T decay = tile.decay(i, d);
    if constexpr (Update::erases) {
      g.k[i * K + d] += decay * dot(before + d * V, s.dy, V);
      add_scaled(tile.k[i * K + d], s.dy, V, dS);
    }
    if constexpr (Gate::decay != Decay::none) {
      put_log_decay<Gate>(decay * dot(before + d * V, dS, V), i, d, K, g.log_decay);
      for (Index j = 0; j < V; ++j) dS[j] *= decay;
    }
  }
}

/// Row i in reverse, Dplr.
template <class Gate, class Scratch, class T>
void reverse_step_dplr(const Scratch& s, Index i, Index key_dim, const T* before, const T* after) {
  const auto& tile = s.tile;
  const auto& g = s.gradients;
  const Index K = tile.K, V = tile.V;
  const T *d_o = s.d_o + i * V, *y = s.y + i * V, *v = tile.v + i * V;
  T* dv = g.v + i * V;
  std::fill(dv, dv + V, T(0));
  std::fill(s.dy, s.dy + V, T(0));
  for (Index d = 0; d < key_dim; ++d) {
    T* dS = s.d_state + d * V;
    g.q[i * K + d] = dot(after + d * V, d_o, V);
    add_scaled(tile.q[i * K + d], d_o, V, dS);
    g.k[i * K + d] = dot(dS, v, V);
    add_scaled(tile.k[i * K + d], dS, V, dv);
    g.a[i * K + d] = -dot(dS, y, V);
    add_scaled(-tile.a[i * K + d], dS, V, s.dy);
  }
  for (Index d = 0; d < key_dim; ++d) {
    T* dS = s.d_state + d * V;
    const T decay = tile.decay(i, d);
    g.b[i * K + d] = dot(before + d * V, s.dy, V);
    if constexpr (Gate::decay != Decay::none) put_log_decay<Gate>(decay * dot(before + d * V, dS, V), i, d, K, g.log_decay);
    const T b = tile.b[i * K + d];
    for (Index j = 0; j < V; ++j) dS[j] = decay * dS[j] + b * s.dy[j];
  }
}

/// The backward of one task, token by token.
template <class Gate, class Update, class T>
BRAID_NOINLINE void recurrent_backward(const LinearAttentionInputs<T>& in, const LinearAttentionGradients<T>& out, const HeadTask& task,
                                       const GradientSink<T>& sink, Index longest, T* scratch) {
  Carve<T> carve(scratch);
  using Scratch = RecurrentBackwardScratch<Gate, Update, T>;
  const Scratch s(carve, in, task.width, longest);
  const Activation<Gate, Update, T> activation(in, task, s.tile);
  const Index K = in.key_dim, V = s.tile.V, size = s.tile.K * V;

  load_state(in, task, in.initial_state, K, V, s.states);
  for (Index first = 0; first < task.tokens; first += Scratch::rows) {
    std::copy(s.states, s.states + K * V, s.starts + first / Scratch::rows * size);
    const Index rows = std::min(Scratch::rows, task.tokens - first);
    activation.load(task.begin + first, rows);
    for (Index i = 0; i < rows; ++i) step<Gate, Update>(s.tile, i, K, V, s.key, s.states, V, s.o);
  }
  load_state(in, task, out.d_final_state, K, V, s.d_state);
  for (Index first = (task.tokens - 1) / Scratch::rows * Scratch::rows; first >= 0 && task.tokens > 0; first -= Scratch::rows) {
    const Index rows = std::min(Scratch::rows, task.tokens - first);
    activation.load(task.begin + first, rows);
    load_values(in, task, out.d_o, task.begin + first, rows, V, s.d_o);
    std::copy(s.starts + first / Scratch::rows * size, s.starts + first / Scratch::rows * size + K * V, s.states);
    for (Index i = 0; i < rows; ++i) {
      T* after = s.states + (i + 1) * size;
      recall<Gate, Update>(s, i, K, s.states + i * size);
      std::copy(s.states + i * size, s.states + i * size + K * V, after);
      step<Gate, Update>(s.tile, i, K, V, s.key, after, V, s.o);
    }
    for (Index i = rows; i-- > 0;) {
      const T *before = s.states + i * size, *after = before + size;
      if constexpr (update_is_dplr<Update>) reverse_step_dplr<Gate>(s, i, K, before, after);
      else reverse_step<Gate, Update>(s, i, K, before, after);
    }
    activation.store(s.gradients, task.begin + first, rows, sink, out.d_v);
  }
  store_state(in, task, s.d_state, V, out.d_initial_state);
}

}  // namespace braid::cpu::detail
