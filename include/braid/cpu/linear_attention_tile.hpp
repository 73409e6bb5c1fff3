// What one task of linear attention works on: some value columns of one value head of one sequence, a tile of tokens at a time.
#pragma once

#include <braid/core/linear_attention.hpp>
#include <braid/cpu/pack.hpp>

#include <algorithm>

namespace braid::cpu::detail {

/// The columns [column, column + width) of value head `head` of one sequence: what one thread computes alone.
struct HeadTask {
  Index sequence, begin, tokens;   // tokens [begin, begin + tokens) of the batch
  Index head, key_head;            // value head, and the key head it reads
  Index column, width;             // value columns
  Index lane;                      // head * panels + panel: where partial gradients go
};

/// Hands out parts of one block, each aligned to a cache line. With a null block it only counts.
template <class T> class Carve {
 public:
  explicit Carve(T* block = nullptr) : block_(block) {}
  T* take(Index count) {
    constexpr Index line = 64 / sizeof(T) ? 64 / sizeof(T) : 1;
    T* part = block_ ? block_ + used_ : nullptr;
    used_ += (count + line - 1) / line * line;
    return part;
  }
  Index used() const { return used_; }

 private:
  T* block_;
  Index used_ = 0;
};

/// Entries of one token's decay in a tile: K, 1 or 0.
template <class Gate> constexpr Index decay_width(Index K) {
  return Gate::decay == Decay::per_channel ? K : (Gate::decay == Decay::per_head ? 1 : 0);
}

/// Activated inputs of up to `rows` consecutive tokens of one head. K and V are padded to whole packs; padding of q, k, v, a, b is 0.
template <class Gate, class Update, class T> struct Tile {
  Index K, V;
  T *q, *k;                     // [rows, K]; q includes the scale
  T* v;                         // [rows, V]
  T* alpha;                     // [rows, K], [rows] or nothing
  T *erase, *write;             // [rows]
  T *q_inverse, *k_inverse;     // [rows] 1 / ||.||, 1 where not normalised
  T *norm2, *beta;              // [rows] ||k||^2 and beta, for the gradients of the strengths
  T *a, *b;                     // [rows, K], Dplr
  T* bias;                      // [K] dt_bias of this head

  Tile(Carve<T>& carve, Index rows, Index key_dim, Index width) : K(padded<T>(key_dim)), V(padded<T>(width)) {
    q = carve.take(rows * K), k = carve.take(rows * K), v = carve.take(rows * V);
    alpha = carve.take(rows * decay_width<Gate>(K));
    erase = carve.take(rows), write = carve.take(rows), q_inverse = carve.take(rows), k_inverse = carve.take(rows);
    norm2 = carve.take(rows), beta = carve.take(rows);
    constexpr bool dplr = update_is_dplr<Update>;
    a = carve.take(dplr ? rows * K : 0), b = carve.take(dplr ? rows * K : 0);
    bias = carve.take(K);
  }

  /// Makes rows [first, end) tokens that change nothing: zero vectors, no decay.
  void clear(Index first, Index end) const {
    auto fill = [&](T* x, Index width, T value) { std::fill(x + first * width, x + end * width, value); };
    fill(q, K, T(0)), fill(k, K, T(0)), fill(v, V, T(0)), fill(erase, 1, T(0)), fill(write, 1, T(0));
    fill(alpha, decay_width<Gate>(K), T(1));
    if constexpr (update_is_dplr<Update>) fill(a, K, T(0)), fill(b, K, T(0));
  }
  /// Decay of channel d at row i.
  T decay(Index i, Index d) const {
    if constexpr (Gate::decay == Decay::per_channel) return alpha[i * K + d];
    else if constexpr (Gate::decay == Decay::per_head) return alpha[i];
    else return (void)i, (void)d, T(1);
  }
};

/// Gradients with respect to a tile's entries, laid out alike; `log_decay` as alpha.
template <class Gate, class Update, class T> struct TileGradients {
  T *q, *k, *v, *log_decay, *erase, *write, *a, *b;

  TileGradients(Carve<T>& carve, Index rows, Index K, Index V) {
    q = carve.take(rows * K), k = carve.take(rows * K), v = carve.take(rows * V);
    log_decay = carve.take(rows * decay_width<Gate>(K));
    erase = carve.take(rows), write = carve.take(rows);
    constexpr bool dplr = update_is_dplr<Update>;
    a = carve.take(dplr ? rows * K : 0), b = carve.take(dplr ? rows * K : 0);
  }
};

/// Copies `count` elements and clears the rest of the padded row.
template <class T> inline void copy_padded(const T* from, Index count, Index width, T* to) {
  std::copy(from, from + count, to);
  std::fill(to + count, to + width, T(0));
}

/// Copies `rows` rows of `width` columns between matrices of different strides.
template <class T> inline void copy_rows(Index rows, Index width, const T* from, Index from_stride, T* to, Index to_stride) {
  for (Index i = 0; i < rows; ++i) std::copy(from + i * from_stride, from + i * from_stride + width, to + i * to_stride);
}

/// The state of a task as [key_dim, padded width] in `to`: from `from` ([K, V] of the head), or zero. Padding is zero.
template <class T> void load_state(const LinearAttentionInputs<T>& in, const HeadTask& task, const T* from, Index rows, Index stride, T* to) {
  std::fill(to, to + rows * stride, T(0));
  if (!from) return;
  from += (task.sequence * in.value_heads + task.head) * in.key_dim * in.value_dim + task.column;
  copy_rows(in.key_dim, task.width, from, in.value_dim, to, stride);
}
template <class T> void store_state(const LinearAttentionInputs<T>& in, const HeadTask& task, const T* from, Index stride, T* to) {
  if (!to) return;
  to += (task.sequence * in.value_heads + task.head) * in.key_dim * in.value_dim + task.column;
  copy_rows(in.key_dim, task.width, from, stride, to, in.value_dim);
}

/// Rows of v, o or their gradients ([T, HV, V]) as [rows, padded width]; padding is zero.
template <class T>
void load_values(const LinearAttentionInputs<T>& in, const HeadTask& task, const T* from, Index first, Index rows, Index stride, T* to) {
  for (Index i = 0; i < rows; ++i)
    copy_padded(from + ((first + i) * in.value_heads + task.head) * in.value_dim + task.column, task.width, stride, to + i * stride);
}
template <class T>
void store_values(const LinearAttentionInputs<T>& in, const HeadTask& task, const T* from, Index first, Index rows, Index stride, T* to) {
  if (!to) return;
  for (Index i = 0; i < rows; ++i)
    std::copy(from + i * stride, from + i * stride + task.width, to + ((first + i) * in.value_heads + task.head) * in.value_dim + task.column);
}

}  // namespace braid::cpu::detail
