// Gradients of IntraChunk: from the chunk's matrices and its decayed rows and columns back to q, k (a, b) and the log decays.
//
// The splitting is undone from the widest boundary down to blocks of 16, whose pairs are then taken one by one (Horner's rule over the
// decays, so that again every factor is at most 1). The gradient of log alpha_t collects, over every decay that contains it,
// decay * d_decay: from rows i >= t that meet the chunk's start, from columns j < t that meet its end, and from pairs j < t <= i. The last
// are the suffix sums of row_i * d_row_i - column_j * d_column_j. Columns that meet the end are summed from the start instead: as part of
// the suffix sums they would cancel, and what is left after a strong decay would drown in their rounding.
#pragma once

#include <braid/cpu/intra_chunk.hpp>

namespace braid::cpu::detail {

template <class Gate, class Update, class T> class IntraChunkBackward {
 public:
  using Intra = IntraChunk<Gate, Update, T>;
  using Gradients = TileGradients<Gate, Update, T>;
  using P = Pack<T>;
  static constexpr int row_kinds = Intra::row_kinds, column_kinds = Intra::column_kinds;
  static constexpr bool reads = Intra::reads, exclusive = Intra::exclusive, decays = Intra::decays;

  IntraChunkBackward(Carve<T>& carve, const Intra& intra) : intra_(intra), K_(intra.K_), chunk_(intra.chunk_) {
    rows_ = carve.take(row_kinds * chunk_ * K_), columns_ = carve.take(column_kinds * chunk_ * K_);
    matrices_ = carve.take(row_kinds * column_kinds * chunk_ * chunk_);
    inner_ = carve.take(column_kinds * chunk_ * K_);
    last_ = carve.take(K_), lanes_ = carve.take(chunk_ * P::lanes);
  }

  /// To be filled by the caller before `run`, [row_kinds * n, K]: gradient of rows(kind).
  T* rows(int kind) const { return rows_ + kind * intra_.n_ * K_; }
  /// [n, K]: gradient of columns(kind).
  T* columns(int kind) const { return columns_ + kind * intra_.n_ * K_; }
  /// [n, n]: gradient of matrix(row, column); row kinds are stacked. Entries above the diagonal are not read.
  T* matrix(int row, int column) const { return matrices_ + (column * row_kinds + row) * intra_.n_ * intra_.n_; }
  /// [K]: gradient of the log of the chunk's total decay, besides what comes through the columns.
  T* last() const { return last_; }

  /// Overwrites g.q, g.k, g.log_decay (and g.a, g.b).
  void run(const Gradients& g) const {
    std::fill(inner(0), inner(0) + column_kinds * intra_.n_ * K_, T(0));
    Index span = block;
    while (2 * span < intra_.n_) span *= 2;
    for (Index level = intra_.top_ - 1; level >= 0; --level, span /= 2)
      for (Index low = 0; low + span < intra_.n_; low += 2 * span) part(level, low, low + span, std::min(low + 2 * span, intra_.n_));
    if constexpr (decays && !Intra::channels) std::fill(lanes_, lanes_ + intra_.n_ * P::lanes, T(0));
    for_packs<T>(K_, [&](Index d) {
      if constexpr (decays) meet_end(d, g);
      P running = decays ? P::load(last_ + d) : P(T(0)), beyond(T(1));
      for (Index b = intra_.n_ - block; b >= 0; b -= block) {
        for (int c = 0; c < column_kinds; ++c) column_gradients(b, d, c, g);
        row_gradients(b, d, 0, g);
        if constexpr (reads) row_gradients(b, d, 1, g);
        finish(b, d, g, running, beyond);
      }
    });
    if constexpr (decays && !Intra::channels)
      for (Index i = 0; i < intra_.n_; ++i) g.log_decay[i] = sum(P::load(lanes_ + i * P::lanes));
  }

 private:
  P get(const T* x, Index i, Index d) const { return P::load(x + i * K_ + d); }
  void put(T* x, Index i, Index d, P value) const { value.store(x + i * K_ + d); }

  T* inner(int kind) const { return inner_ + kind * intra_.n_ * K_; }  // gradients of columns(kind) from within the chunk

  /// Log decays of token t from columns j < t that meet the chunk's end.
  void meet_end(Index d, const Gradients& g) const {
    P sum(T(0));
    for (Index t = 0; t < intra_.n_; ++t) {
      if constexpr (Intra::channels) put(g.log_decay, t, d, sum);
      else (P::load(lanes_ + t * P::lanes) + sum).store(lanes_ + t * P::lanes);
      for (int c = 0; c < column_kinds; ++c) sum = fma(get(columns(c), t, d), get(intra_.columns(c), t, d), sum);
    }
  }

  /// Undoes IntraChunk::join at one boundary.
  void part(Index level, Index low, Index middle, Index high) const {
    const Index n = intra_.n_, above = high - middle, below = middle - low;
    if constexpr (decays) {
      for (int r = 0; r < row_kinds; ++r) scale_rows(rows(r), middle, high, intra_.total_at(level, low));
      for (int c = 0; c < column_kinds; ++c) scale_rows(inner(c), low, middle, intra_.total_at(level, middle));
    }
    for (int r = 0; r < row_kinds; ++r)
      for (int c = 0; c < column_kinds; ++c) {
        const T* dM = matrix(r, c) + middle * n + low;
        product_nn<T>(above, K_, below, T(1), dM, n, intra_.columns_at(level, c) + low * K_, K_, rows(r) + middle * K_, K_, true);
        product_tn<T>(below, K_, above, T(1), dM, n, intra_.rows_at(level, r) + middle * K_, K_, inner(c) + low * K_, K_, true);
      }
  }
  void scale_rows(T* x, Index first, Index end, const T* factor) const {
    for (Index i = first; i < end; ++i) for_packs<T>(K_, [&](Index d) { put(x, i, d, get(x, i, d) * P::load(factor + d)); });
  }

  T* row_gradient(int kind, const Gradients& g) const {
    if constexpr (Intra::dplr) return kind == 0 ? g.q : g.b;
    else return kind == 0 ? g.q : rows(1);  // k is a row and a column: `finish` adds the two
  }
  T* column_gradient(int kind, const Gradients& g) const { return kind == 0 ? g.k : g.a; }

  /// Column kind c of one block: s_j = sum_{i > j} (dM0_ij q_i + dM1_ij read_i) D_ij, plus what came from later blocks.
  void column_gradients(Index b, Index d, int c, const Gradients& g) const {
    const Index n = intra_.n_;
    const T *q = Intra::source_row(intra_.tile_, 0), *read = Intra::source_row(intra_.tile_, 1);
    const T* dM0 = matrix(0, c) + b * n + b;
    const T* dM1 = reads ? matrix(1, c) + b * n + b : nullptr;
    P s[block];
    unrolled<int(block)>([&](auto j) { s[j] = P(T(0)); });
    unrolled<int(block)>([&](auto down) {
      constexpr int i = int(block) - 1 - decltype(down)::value;
      const P alpha = intra_.decay(b + i, d), qi = get(q, b + i, d);
      [[maybe_unused]] const P ri = reads ? get(read, b + i, d) : qi;
      unrolled<i>([&](auto j) {
        if constexpr (!exclusive) {
          s[j] = fma(P(dM0[i * n + j]), qi, s[j]);
          if constexpr (reads) s[j] = fma(P(dM1[i * n + j]), ri, s[j]);
          s[j] *= alpha;
        } else {
          s[j] = fma(fma(P(dM0[i * n + j]), qi, s[j]), alpha, P(dM1[i * n + j]) * ri);
        }
      });
    });
    P suffix(T(1));
    unrolled<int(block)>([&](auto down) {
      constexpr int j = int(block) - 1 - decltype(down)::value;
      put(column_gradient(c, g), b + j, d, fma(get(inner(c), b + j, d), suffix, s[j]));
      suffix *= intra_.decay(b + j, d);
    });
  }

  /// Row kind r of one block: s_i = sum_{j < i} dM_ij column_j D_ij, plus what came from before the block.
  void row_gradients(Index b, Index d, int r, const Gradients& g) const {
    const Index n = intra_.n_;
    P s[block];
    unrolled<int(block)>([&](auto i) { s[i] = P(T(0)); });
    unrolled<int(block)>([&](auto j) {
      const P alpha = intra_.decay(b + j, d);
      unrolled<int(block) - 1 - decltype(j)::value>([&](auto later) {
        constexpr int i = decltype(j)::value + 1 + decltype(later)::value;
        s[i] *= alpha;
        for (int c = 0; c < column_kinds; ++c)
          s[i] = fma(P(matrix(r, c)[(b + i) * n + b + j]), get(Intra::source_column(intra_.tile_, c), b + j, d), s[i]);
      });
    });
    P prefix(T(1));
    const bool own = !(exclusive && r == 1);  // does the row decay by its own alpha?
    unrolled<int(block)>([&](auto i) {
      const P alpha = intra_.decay(b + i, d), before = prefix;
      prefix *= alpha;
      const P value = own ? fma(get(rows(r), b + i, d), prefix, s[i] * alpha) : fma(get(rows(r), b + i, d), before, s[i]);
      put(row_gradient(r, g), b + i, d, value);
    });
  }

  /// Adds the diagonal of the q matrices (where D = 1) and forms the gradient of the log decays from the block's end backwards.
  /// `running` is the suffix sum so far, `beyond` the decay from row i to the chunk's end.
  void finish(Index b, Index d, const Gradients& g, P& running, P& beyond) const {
    const Index n = intra_.n_;
    for (Index i = b + block; i-- > b;) {
      const P q = get(intra_.tile_.q, i, d);
      P dq = get(g.q, i, d);
      if constexpr (decays) running = fma(q, dq, running);
      for (int c = 0; c < column_kinds; ++c) {
        const P column = get(Intra::source_column(intra_.tile_, c), i, d), own(matrix(0, c)[i * n + i]);
        P dc = get(column_gradient(c, g), i, d);
        if constexpr (decays) running -= column * dc;
        dc = fma(own, q, fma(get(columns(c), i, d), beyond, dc));
        dq = fma(own, column, dq);
        if constexpr (reads && !exclusive) {
          const P row = get(rows(1), i, d);
          if constexpr (decays) running = fma(column, row, running);
          dc += row;
        }
        put(column_gradient(c, g), i, d, dc);
      }
      put(g.q, i, d, dq);
      beyond *= intra_.decay(i, d);
      if constexpr (Intra::channels) put(g.log_decay, i, d, get(g.log_decay, i, d) + running);
      else if constexpr (decays) (P::load(lanes_ + i * P::lanes) + running).store(lanes_ + i * P::lanes);
      if constexpr (exclusive && decays) running = fma(get(intra_.tile_.b, i, d), get(g.b, i, d), running);  // decays up to i - 1
    }
  }

  const Intra& intra_;
  Index K_, chunk_;
  T *rows_, *columns_, *inner_, *matrices_, *last_, *lanes_;
};

}  // namespace braid::cpu::detail
