// Causal softmax attention of MLA over packed sequences, in blocks: the scores of all pairs of tokens never exist at once.
//
// A head's key is [its own part | a part that all heads share], as MLA's: `kv` holds per head own key part and value side by side,
// `shared` the rest of the key.
#pragma once

#include <braid/core/batch.hpp>
#include <braid/core/view.hpp>
#include <braid/cpu/elementwise.hpp>
#include <braid/cpu/gemm.hpp>
#include <braid/cpu/online_softmax.hpp>

#include <algorithm>
#include <span>

namespace braid::cpu {

namespace detail {

inline constexpr Index attention_block = 64;  ///< queries, and keys, of one tile of scores

/// Sizes of MLA's attention and products of one head's tile, where rows of q, kv, shared and o begin at a sequence's first token.
template <class T> struct AttentionShape {
  Index heads, key_dim, shared_dim, value_dim;

  Index query_dim() const { return key_dim + shared_dim; }
  Index q_stride() const { return heads * query_dim(); }
  Index kv_stride() const { return heads * (key_dim + value_dim); }
  Index o_stride() const { return heads * value_dim; }
  const T* query(const T* q, Index t, Index h) const { return q + t * q_stride() + h * query_dim(); }
  Index key(Index t, Index h) const { return t * kv_stride() + h * (key_dim + value_dim); }
  Index value(Index t, Index h) const { return key(t, h) + key_dim; }

  /// scores [rows, cols] = scale q k^T of queries from row i and keys from row j of one sequence.
  void scores(const T* q, const T* kv, const T* shared, Index h, Index i, Index rows, Index j, Index cols, T scale, T* out) const {
    gemm_nt<T>(rows, cols, key_dim, scale, query(q, i, h), q_stride(), kv + key(j, h), kv_stride(), out, attention_block, false);
    if (shared_dim)
      gemm_nt<T>(rows, cols, shared_dim, scale, query(q, i, h) + key_dim, q_stride(), shared + j * shared_dim, shared_dim, out,
                 attention_block, true);
  }
};

template <class T>
AttentionShape<T> attention_shape(View<const T, 3> q, View<const T, 3> kv, View<const T, 2> shared, View<const T, 3> o,
                                  const Batch& batch, std::string_view where) {
  const AttentionShape<T> a{q.shape[1], kv.shape[2] - o.shape[2], shared.cols(), o.shape[2]};
  require_shape(q, {batch.tokens(), a.heads, a.query_dim()}, where);
  require_shape(kv, {batch.tokens(), a.heads, a.key_dim + a.value_dim}, where);
  require_shape(shared, {batch.tokens(), a.shared_dim}, where);
  require_shape(o, {batch.tokens(), a.heads, a.value_dim}, where);
  return a;
}

/// Calls f(sequence, block) for the blocks of `size` tokens of every sequence that `wanted` names, in parallel with `inner` more
/// indices each: f(sequence, block, n), 0 <= n < inner.
template <class W, class F> void sequence_blocks(const Context& ctx, const Batch& batch, Index size, Index inner, W&& wanted, F&& f) {
  auto blocks = [&](Index s) { return wanted(s) ? (batch.length(s) + size - 1) / size : Index{0}; };
  Index total = 0;
  for (Index s = 0; s < batch.sequences(); ++s) total += blocks(s);
  parallel_for(ctx, total * inner, [&](Index task) {
    Index b = task % total, s = 0;
    for (; b >= blocks(s); ++s) b -= blocks(s);
    f(s, b, task / total);
  });
}

}  // namespace detail

/// o_t = sum over i <= t of the sequence of softmax_i(scale q_t . [k_i | shared_i]) v_i, per head.
/// q [tokens, heads, key + shared], kv [tokens, heads, key + value] (key first), shared [tokens, shared] (0 columns: none),
/// o [tokens, heads, value]; `log_sum` [heads, tokens], if not null, receives the logarithm of the softmax' denominator.
/// With `starts` (per slot), only sequences that start at 0 are computed, the others' rows of o are left as they are.
template <class T>
void attention(Context& ctx, View<const T, 3> q, View<const T, 3> kv, View<const T, 2> shared, const Batch& batch,
               std::type_identity_t<T> scale, View<T, 3> o, View<T, 2> log_sum = {}, std::span<const Index> starts = {}) {
  constexpr Index block = detail::attention_block;
  const auto a = detail::attention_shape<T>(q, kv, shared, o, batch, "attention");
  if (log_sum) require_shape(log_sum, {a.heads, batch.tokens()}, "attention: log_sum");
  auto scope = ctx.arena.scope();
  auto scratch = ctx.arena.template take<T>(ctx.threads(), block * (block + 2));
  auto fresh = [&](Index s) { return starts.empty() || starts[static_cast<std::size_t>(batch.slot(s))] == 0; };
  detail::sequence_blocks(ctx, batch, block, a.heads, fresh, [&](Index s, Index b, Index h) {
    const Index first = batch.begin(s), i = b * block, rows = std::min(block, batch.length(s) - i);
    T* tile = scratch.row(thread_number());
    detail::OnlineSoftmax<T> softmax{rows, a.value_dim, o.row(first + i) + h * a.value_dim, a.o_stride(), tile + block * block,
                                     tile + block * block + block};
    softmax.start();
    for (Index j = 0; j <= i; j += block) {
      const Index cols = std::min(block, batch.length(s) - j);
      a.scores(q.row(first), kv.row(first), shared.row(first), h, i, rows, j, cols, scale, tile);
      softmax.add(tile, block, cols, [&](Index r) { return i + r - j + 1; }, kv.row(first) + a.value(j, h), a.kv_stride());
    }
    softmax.finish(log_sum ? log_sum.row(h) + first + i : nullptr);
  });
}

/// Gradients of `attention`, overwritten. o and log_sum are its results, d_o [tokens, heads, value] comes in; d_q, d_kv and d_shared have
/// the shapes of q, kv and shared. With P the softmax and D_t = d_o_t . o_t: dV = P^T dO, dS = P (dO V^T - D), dQ = scale dS K,
/// dK = scale dS^T Q. Scores are computed again, block by block.
template <class T>
void attention_backward(Context& ctx, View<const T, 3> q, View<const T, 3> kv, View<const T, 2> shared, const Batch& batch,
                        std::type_identity_t<T> scale, View<const T, 3> o, View<const T, 2> log_sum, View<const T, 3> d_o, View<T, 3> d_q,
                        View<T, 3> d_kv, View<T, 2> d_shared) {
  constexpr Index block = detail::attention_block;
  const auto a = detail::attention_shape<T>(q, kv, shared, o, batch, "attention_backward");
  require_shape(log_sum, {a.heads, batch.tokens()}, "attention_backward: log_sum");
  require_shape(d_o, o.shape, "attention_backward: d_o");
  require_shape(d_q, q.shape, "attention_backward: d_q");
  require_shape(d_kv, kv.shape, "attention_backward: d_kv");
  require_shape(d_shared, shared.shape, "attention_backward: d_shared");
  auto scope = ctx.arena.scope();
  auto scratch = ctx.arena.template take<T>(ctx.threads(), 2 * block * block);
  auto row_dot = ctx.arena.template take<T>(a.heads, batch.tokens());                              // D
  auto d_shared_heads = ctx.arena.template take_zero<T>(a.heads, batch.tokens(), a.shared_dim);  // one per head: summed in order
  std::fill(d_q.begin(), d_q.end(), T(0));
  std::fill(d_kv.begin(), d_kv.end(), T(0));
  parallel_for(ctx, batch.sequences() * a.heads, [&](Index task) {
    const Index s = task % batch.sequences(), h = task / batch.sequences(), first = batch.begin(s), length = batch.length(s);
    const T *qs = q.row(first), *kvs = kv.row(first), *out = o.row(first) + h * a.value_dim, *d_out = d_o.row(first) + h * a.value_dim;
    T *p = scratch.row(thread_number()), *ds = p + block * block, *D = row_dot.row(h) + first;
    for (Index t = 0; t < length; ++t) D[t] = detail::dot_part(out + t * a.o_stride(), d_out + t * a.o_stride(), a.value_dim);
    for (Index j = 0; j < length; j += block)
      for (Index i = j; i < length; i += block) {
        const Index rows = std::min(block, length - i), cols = std::min(block, length - j);
        a.scores(qs, kvs, shared.row(first), h, i, rows, j, cols, scale, p);
        gemm_nt<T>(rows, cols, a.value_dim, T(1), d_out + i * a.o_stride(), a.o_stride(), kvs + a.value(j, h), a.kv_stride(), ds, block,
                   false);
        for (Index r = 0; r < rows; ++r)
          detail::softmax_row_backward(p + r * block, ds + r * block, cols, std::min(cols, i + r - j + 1), log_sum(h, first + i + r),
                                       D[i + r]);
        T *dq = d_q.row(first + i) + h * a.query_dim(), *dkv = d_kv.row(first);
        gemm_tn<T>(cols, a.value_dim, rows, T(1), p, block, d_out + i * a.o_stride(), a.o_stride(), dkv + a.value(j, h), a.kv_stride(), true);
        gemm_nn<T>(rows, a.key_dim, cols, scale, ds, block, kvs + a.key(j, h), a.kv_stride(), dq, a.q_stride(), true);
        gemm_tn<T>(cols, a.key_dim, rows, scale, ds, block, a.query(qs, i, h), a.q_stride(), dkv + a.key(j, h), a.kv_stride(), true);
        if (!a.shared_dim) continue;
        gemm_nn<T>(rows, a.shared_dim, cols, scale, ds, block, shared.row(first + j), a.shared_dim, dq + a.key_dim, a.q_stride(), true);
        gemm_tn<T>(cols, a.shared_dim, rows, scale, ds, block, a.query(qs, i, h) + a.key_dim, a.q_stride(),
                   &d_shared_heads(h, first + j, Index{0}), a.shared_dim, true);
      }
  });
  parallel_ranges(ctx, batch.tokens(), 256, [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t)
      for (Index c = 0; c < a.shared_dim; ++c) {
        T sum = 0;
        for (Index h = 0; h < a.heads; ++h) sum += d_shared_heads(h, t, c);
        d_shared(t, c) = sum;
      }
  });
}

}  // namespace braid::cpu
