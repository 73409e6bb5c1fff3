// What a chunk of the parallel form needs before it meets the state: decayed rows and columns, and the products between its tokens.
//
// With D_ij = prod_{j < t <= i} alpha_t, the chunk's matrices are M_ij = sum_d row_id col_jd D_ijd for rows q and (if the update reads
// the state) k or b, and columns k and (Dplr) a. The paper writes D_ij = Gamma_i / Gamma_j (Eqs. 6-9); that division overflows for
// strong decays, so D is built from products alone: directly between the 16 tokens of a block, and by binary splitting between
// blocks: at a boundary m, D_ij = (prod_{m <= t <= i} alpha_t) (prod_{j < t < m} alpha_t), both at most 1, for any gate <= 0.
#pragma once

#include <braid/cpu/block_product.hpp>
#include <braid/cpu/linear_attention_tile.hpp>

namespace braid::cpu::detail {

inline constexpr Index block = 16;  // tokens whose decays are applied pair by pair

/// The pairwise part of one chunk. `n` tokens, a multiple of `block`; tokens beyond the sequence's end are zero rows with alpha = 1.
/// Row kinds: 0 is q; 1 is what reads the state: k, decayed up to and with its own alpha, or b (Dplr), without it ("exclusive").
/// Column kinds: 0 is k, 1 is a (Dplr).
template <class Gate, class Update, class T> class IntraChunk {
 public:
  static constexpr bool dplr = update_is_dplr<Update>;
  static constexpr bool reads = [] {
    if constexpr (dplr) return true;
    else return Update::erases;
  }();
  static constexpr bool exclusive = dplr;
  static constexpr bool decays = Gate::decay != Decay::none;
  static constexpr bool channels = Gate::decay == Decay::per_channel;
  static constexpr int row_kinds = reads ? 2 : 1, column_kinds = dplr ? 2 : 1;
  using P = Pack<T>;
  using TileT = Tile<Gate, Update, T>;

  /// `keep_levels`: the arrays of every level of the splitting are kept, as `backward` needs them.
  IntraChunk(Carve<T>& carve, const TileT& tile, Index chunk, bool keep_levels)
      : tile_(tile), K_(tile.K), chunk_(chunk), keep_(keep_levels) {
    Index levels = 1;
    for (Index span = block; keep_levels && span < chunk; span *= 2) ++levels;
    rows_ = carve.take(levels * row_kinds * chunk * K_);
    columns_ = carve.take(levels * column_kinds * chunk * K_);
    totals_ = carve.take(levels * chunk / block * K_);
    matrices_ = carve.take(row_kinds * column_kinds * chunk * chunk);
  }

  Index tokens() const { return n_; }
  /// [row_kinds * n, K]: rows times the decay from the chunk's start; the kinds are stacked.
  T* rows(int kind) const { return rows_at(top_, kind); }
  /// [n, K]: columns times the decay to the chunk's end.
  T* columns(int kind) const { return columns_at(top_, kind); }
  /// [K]: decay over the whole chunk.
  const T* total() const { return total_at(top_, 0); }
  /// [n, n], lower triangular; strictly for row kind 1. Only blocks on and below the diagonal are defined.
  T* matrix(int row, int column) const { return matrices_ + (row * column_kinds + column) * chunk_ * chunk_; }
  static const T* source_row(const TileT& tile, int kind) {
    if constexpr (dplr) return kind == 0 ? tile.q : tile.b;
    else return kind == 0 ? tile.q : tile.k;
  }
  static const T* source_column(const TileT& tile, int kind) { return kind == 0 ? tile.k : tile.a; }
  /// Decay of row i at channels d.. as a pack.
  P decay(Index i, Index d) const {
    if constexpr (channels) return P::load(tile_.alpha + i * K_ + d);
    else if constexpr (decays) return (void)d, P(tile_.alpha[i]);
    else return (void)i, (void)d, P(T(1));
  }

  /// Computes everything for the first `n` rows of the tile.
  void prepare(Index n) {
    n_ = n, top_ = 0;
    for (Index b = 0; b < n; b += block) {
      decay_block(b);
      for (int c = 0; c < column_kinds; ++c) diagonal_block(b, c);
    }
    for (Index span = block; span < n; span *= 2) {
      if (keep_) copy_level();
      for (Index low = 0; low + span < n; low += 2 * span) join(low, low + span, std::min(low + 2 * span, n));
      if (keep_) ++top_;
    }
  }

 private:
  template <class, class, class> friend class IntraChunkBackward;

  T* rows_at(Index level, int kind) const { return rows_ + (level * row_kinds * chunk_ + kind * n_) * K_; }
  T* columns_at(Index level, int kind) const { return columns_ + (level * column_kinds * chunk_ + kind * n_) * K_; }
  T* total_at(Index level, Index first) const { return totals_ + (level * chunk_ + first) / block * K_; }

  /// Level 0: decays within one block.
  void decay_block(Index b) {
    for_packs<T>(K_, [&](Index d) {
      P prefix(T(1)), suffix(T(1));
      for (Index i = b; i < b + block; ++i) {
        if constexpr (reads && exclusive) put(rows_at(0, 1), i, d, get(source_row(tile_, 1), i, d) * prefix);
        prefix *= decay(i, d);
        put(rows_at(0, 0), i, d, get(source_row(tile_, 0), i, d) * prefix);
        if constexpr (reads && !exclusive) put(rows_at(0, 1), i, d, get(source_row(tile_, 1), i, d) * prefix);
      }
      for (Index i = b + block; i-- > b;) {
        for (int c = 0; c < column_kinds; ++c) put(columns_at(0, c), i, d, get(source_column(tile_, c), i, d) * suffix);
        suffix *= decay(i, d);
      }
      prefix.store(total_at(0, b) + d);
    });
  }
  P get(const T* x, Index i, Index d) const { return P::load(x + i * K_ + d); }
  void put(T* x, Index i, Index d, P value) const { value.store(x + i * K_ + d); }

  /// The 16 x 16 blocks on the diagonal, for column kind c: token j's column, decayed step by step, meets the later rows.
  void diagonal_block(Index b, int c) {
    T* const M0 = matrix(0, c) + b * n_ + b;
    T* const M1 = reads ? matrix(1, c) + b * n_ + b : nullptr;
    unrolled<int(block)>([&](auto j) { diagonal_column<decltype(j)::value>(b, source_column(tile_, c), M0, M1); });
    if constexpr (decays && !channels) {  // one decay per head factors out of the sums over channels
      for (Index j = 0; j < block; ++j) {
        T D(1);
        for (Index i = j + 1; i < block; ++i) {
          if constexpr (reads) M1[i * n_ + j] *= exclusive ? D : D * tile_.alpha[b + i];
          D *= tile_.alpha[b + i];
          M0[i * n_ + j] *= D;
        }
      }
    }
  }
  template <int J> void diagonal_column(Index b, const T* column, T* M0, T* M1) const {
    constexpr int later = int(block) - 1 - J;
    const T *q = source_row(tile_, 0) + b * K_, *read = source_row(tile_, 1) + b * K_;
    P own(T(0)), s0[later + 1], s1[later + 1];
    for (int i = 0; i <= later; ++i) s0[i] = s1[i] = P(T(0));
    for_packs<T>(K_, [&](Index d) {
      P w = P::load(column + (b + J) * K_ + d);
      own = fma(w, P::load(q + J * K_ + d), own);
      unrolled<later>([&](auto i) {
        constexpr int row = J + 1 + decltype(i)::value;
        if constexpr (reads && exclusive) s1[i] = fma(w, P::load(read + row * K_ + d), s1[i]);
        if constexpr (channels) w *= P::load(tile_.alpha + (b + row) * K_ + d);
        s0[i] = fma(w, P::load(q + row * K_ + d), s0[i]);
        if constexpr (reads && !exclusive) s1[i] = fma(w, P::load(read + row * K_ + d), s1[i]);
      });
    });
    for (int i = 0; i < J; ++i) M0[i * n_ + J] = T(0);
    M0[J * n_ + J] = sum(own);
    for (int i = 0; i < later; ++i) M0[(J + 1 + i) * n_ + J] = sum(s0[i]);
    if constexpr (reads) {
      for (int i = 0; i <= J; ++i) M1[i * n_ + J] = T(0);
      for (int i = 0; i < later; ++i) M1[(J + 1 + i) * n_ + J] = sum(s1[i]);
    }
  }

  /// One step of the splitting: rows of [middle, high) meet columns of [low, middle), both decayed to the boundary.
  void join(Index low, Index middle, Index high) {
    for (int r = 0; r < row_kinds; ++r)
      for (int c = 0; c < column_kinds; ++c)
        product_nt<T>(high - middle, middle - low, K_, T(1), rows(r) + middle * K_, K_, columns(c) + low * K_, K_,
                   matrix(r, c) + middle * n_ + low, n_, false);
    T *left = total_at(top_, low), *right = total_at(top_, middle);
    if constexpr (decays) {
      const Index to = keep_ ? top_ + 1 : top_;
      for (int r = 0; r < row_kinds; ++r) scale_rows(rows_at(top_, r), middle, high, left, rows_at(to, r));
      for (int c = 0; c < column_kinds; ++c) scale_rows(columns_at(top_, c), low, middle, right, columns_at(to, c));
      for_packs<T>(K_, [&](Index d) { (P::load(left + d) * P::load(right + d)).store(total_at(to, low) + d); });
    }
  }
  void scale_rows(const T* from, Index first, Index end, const T* factor, T* to) const {
    for (Index i = first; i < end; ++i)
      for_packs<T>(K_, [&](Index d) { put(to, i, d, get(from, i, d) * P::load(factor + d)); });
  }
  void copy_level() {
    for (int r = 0; r < row_kinds; ++r) std::copy(rows_at(top_, r), rows_at(top_, r) + n_ * K_, rows_at(top_ + 1, r));
    for (int c = 0; c < column_kinds; ++c) std::copy(columns_at(top_, c), columns_at(top_, c) + n_ * K_, columns_at(top_ + 1, c));
    std::copy(total_at(top_, 0), total_at(top_, 0) + n_ / block * K_, total_at(top_ + 1, 0));
  }

  const TileT& tile_;
  Index K_, chunk_, n_ = 0, top_ = 0;
  bool keep_;
  T *rows_, *columns_, *totals_, *matrices_;
};

}  // namespace braid::cpu::detail
