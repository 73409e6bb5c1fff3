// Palindrome (section 5.1): random tokens, a separator, the same tokens in reverse.
#pragma once

#include <braid/train/data.hpp>

namespace braid::tasks {

/// `x1 x2 ... xn <sep> xn ... x2 x1`; the loss counts the reversed half. Token 0 is the separator.
struct Palindrome {
  Index vocab = 32;

  /// Fills one sequence of any length L: n = L / 2, every reversed token but the last one is also an input (L even).
  void fill(Random& random, std::span<Token> tokens, std::span<Token> targets) const {
    require(vocab >= 2, "Palindrome", "a vocabulary of at least 2", vocab);
    const std::size_t half = tokens.size() / 2;
    for (std::size_t i = 0; i < half; ++i) tokens[i] = 1 + static_cast<Token>(random.below(static_cast<std::uint64_t>(vocab - 1)));
    for (std::size_t i = half; i < tokens.size(); ++i) tokens[i] = i == half ? 0 : tokens[2 * half - i];
    for (std::size_t i = 0; i < tokens.size(); ++i) targets[i] = i >= half && i < 2 * half ? tokens[2 * half - 1 - i] : ignored;
  }
};

}  // namespace braid::tasks
