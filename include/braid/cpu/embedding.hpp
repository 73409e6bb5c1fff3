// Token embedding: a table lookup, and the scattered sum that is its gradient.
#pragma once

#include <braid/core/batch.hpp>
#include <braid/core/view.hpp>
#include <braid/cpu/parallel.hpp>

#include <algorithm>
#include <span>
#include <type_traits>

namespace braid::cpu {

/// Throws Error naming the first token id outside [0, vocab).
inline void check_token_ids(std::span<const Token> tokens, Index vocab, std::string_view where) {
  for (std::size_t i = 0; i < tokens.size(); ++i)
    require(tokens[i] >= 0 && tokens[i] < vocab, where, braid::detail::text("token ids in [0, ", vocab, ")"),
            braid::detail::text("id ", tokens[i], " at position ", i));
}

/// y[t] = table[tokens[t]]. table [vocab, hidden], y [tokens, hidden]. Throws Error for an id outside the vocabulary.
template <class T>
void embed(Context& ctx, std::span<const Token> tokens, View<const std::type_identity_t<T>, 2> table, View<T, 2> y) {
  const Index hidden = table.cols();
  require_shape(y, {static_cast<Index>(tokens.size()), hidden}, "embed: y");
  check_token_ids(tokens, table.rows(), "embed");
  parallel_ranges(ctx, y.rows(), 64, [&](Index begin, Index end) {
    for (Index t = begin; t < end; ++t) std::copy_n(table.row(tokens[static_cast<std::size_t>(t)]), hidden, y.row(t));
  });
}

/// d_table[tokens[t]] += dy[t], always in the order of t: threads share the columns. dy [tokens, hidden], d_table [vocab, hidden].
template <class T>
void embed_backward(Context& ctx, std::span<const Token> tokens, View<const std::type_identity_t<T>, 2> dy, View<T, 2> d_table) {
  const Index hidden = d_table.cols();
  require_shape(dy, {static_cast<Index>(tokens.size()), hidden}, "embed_backward: dy");
  check_token_ids(tokens, d_table.rows(), "embed_backward");
  parallel_ranges(ctx, hidden, 64, [&](Index begin, Index end) {
    for (Index t = 0; t < dy.rows(); ++t) {
      T* sum = d_table.row(tokens[static_cast<std::size_t>(t)]);
      const T* g = dy.row(t);
      for (Index c = begin; c < end; ++c) sum[c] += g[c];
    }
  });
}

/// y[s] = the row of x of sequence s's last token. x [tokens, hidden], y [sequences, hidden]. Throws Error for an empty sequence.
template <class T> void gather_last(Context&, View<const std::type_identity_t<T>, 2> x, const Batch& batch, View<T, 2> y) {
  require_shape(x, {batch.tokens(), y.cols()}, "gather_last: x");
  require_shape(y, {batch.sequences(), x.cols()}, "gather_last: y");
  for (Index s = 0; s < batch.sequences(); ++s) {
    require(batch.length(s) > 0, "gather_last", "sequences that are not empty", braid::detail::text("sequence ", s, " without tokens"));
    std::copy_n(x.row(batch.begin(s + 1) - 1), x.cols(), y.row(s));
  }
}

}  // namespace braid::cpu
