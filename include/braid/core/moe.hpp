// The vocabulary of a mixture of experts, the same for every backend: how tokens choose experts and how rows are grouped.
#pragma once

#include <braid/core/view.hpp>

namespace braid {

/// How a token chooses its experts: by score + bias, within the best `groups_per_token` of `groups` equal groups of experts.
struct Router {
  Index experts = 0;
  Index experts_per_token = 0;
  Index groups = 1, groups_per_token = 1;
  double scale = 1;         ///< multiplies the weights of the chosen
  bool renormalize = true;  ///< the weights of the chosen are divided by their sum first
};

/// What each token chose. Views of the context's arena.
template <class T> struct Routing {
  View<T, 2> score;       ///< [tokens, experts], sigmoid of the router's logits
  View<Index, 2> expert;  ///< [tokens, experts_per_token], best first; equal ones in the order of their index
  View<T, 2> weight;      ///< [tokens, experts_per_token]
};

/// A run of rows that belong to one expert: the unit of work of grouped products.
struct ExpertTile {
  Index expert, row, rows;
};

/// The (token, choice) pairs sorted by expert and, within an expert, by token. Views of the context's arena.
struct Dispatch {
  View<Index, 1> offsets;     ///< [experts + 1]: expert e has rows [offsets(e), offsets(e + 1))
  View<Index, 1> token;       ///< [rows]: the token of a row
  View<Index, 2> row;         ///< [tokens, experts_per_token]: the row of a token's choice
  View<ExpertTile, 1> tiles;  ///< covers every row once; the same for any number of threads
  Index rows() const { return token.size(); }
};

/// `count` row-major matrices [rows, cols], `stride` elements from one to the next.
template <class T> struct MatrixStack {
  T* data = nullptr;
  Index count = 0, rows = 0, cols = 0, stride = 0;
  T* operator[](Index i) const { return data + i * stride; }
  operator MatrixStack<const T>() const
    requires(!std::is_const_v<T>)
  {
    return {data, count, rows, cols, stride};
  }
};

}  // namespace braid
