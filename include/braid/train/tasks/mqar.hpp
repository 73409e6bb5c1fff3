// Multi-query associative recall (section 5.1; Arora et al. 2023): key-value pairs, then queries of the keys at varied places.
#pragma once

#include <braid/train/data.hpp>

#include <algorithm>

namespace braid::tasks {

/// `k1 v1 ... kP vP  . . k3 . k1 k7 . k3 ...`: the keys of one sequence are distinct, its values are drawn freely; each query is
/// a key at a random place after the pairs, the others are blanks, and the loss counts the value due at each query. An answer is
/// never shown. Token 0 is the blank, then come the keys (half of the vocabulary), then the values.
struct Mqar {
  Index vocab = 128;
  Index pairs = 16;
  double density = 0.5;  ///< share of the places after the pairs that hold a query

  Index keys() const { return (vocab - 1) / 2; }
  Index values() const { return vocab - 1 - keys(); }

  /// Fills one sequence of any length >= 2 pairs.
  void fill(Random& random, std::span<Token> tokens, std::span<Token> targets) const {
    require(pairs >= 1 && pairs <= keys(), "Mqar", detail::text("between 1 pair and as many as there are keys, ", keys()), pairs);
    const std::size_t context = 2 * static_cast<std::size_t>(pairs);
    require(tokens.size() >= context, "Mqar", detail::text("a length of at least two tokens for each of ", pairs, " pairs"),
            tokens.size());
    std::fill(targets.begin(), targets.end(), ignored);
    for (std::size_t i = 0; i < context; i += 2) {
      do tokens[i] = 1 + draw(random, keys());
      while (shown(tokens, i));
      tokens[i + 1] = static_cast<Token>(1 + keys()) + draw(random, values());
    }
    for (std::size_t i = context; i < tokens.size(); ++i) {
      tokens[i] = 0;
      if (random.uniform() >= density) continue;
      const std::size_t pair = 2 * static_cast<std::size_t>(draw(random, pairs));
      tokens[i] = tokens[pair];
      targets[i] = tokens[pair + 1];
    }
  }

 private:
  static Token draw(Random& random, Index n) { return static_cast<Token>(random.below(static_cast<std::uint64_t>(n))); }
  static bool shown(std::span<const Token> tokens, std::size_t at) {
    for (std::size_t i = 0; i < at; i += 2)
      if (tokens[i] == tokens[at]) return true;
    return false;
  }
};

}  // namespace braid::tasks
