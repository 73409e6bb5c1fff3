// Stack (section 5.1): pushes to and pops from many stacks, interleaved; each pop must name the token that comes out.
#pragma once

#include <braid/train/data.hpp>

namespace braid::tasks {

/// `<push> id token` and `<pop> id token`; the loss counts the popped tokens. Token 0 is <push>, 1 is <pop>, then come the
/// stacks' ids, then the tokens that are pushed. A pop never meets an empty stack; the last operation may be cut short.
struct Stack {
  Index vocab = 128;
  Index stacks = 64;
  double pops = 0.5;  ///< share of the operations that pop, as far as something is there to pop

  Index symbols() const { return vocab - 2 - stacks; }

  /// Fills one sequence of any length.
  void fill(Random& random, std::span<Token> tokens, std::span<Token> targets) const {
    require(stacks >= 1 && symbols() >= 1, "Stack", detail::text("a vocabulary above 2 + ", stacks, " stacks"), vocab);
    std::vector<std::vector<Token>> held(static_cast<std::size_t>(stacks));
    std::vector<std::size_t> filled;  // the stacks that hold something
    const auto below = [&](std::size_t n) { return static_cast<std::size_t>(random.below(n)); };
    for (std::size_t i = 0; i < tokens.size(); i += 3) {
      const bool pop = !filled.empty() && random.uniform() < pops;
      const std::size_t at = pop ? below(filled.size()) : 0;
      const std::size_t id = pop ? filled[at] : below(held.size());
      auto& stack = held[id];
      if (!pop) {
        stack.push_back(static_cast<Token>(2 + stacks) + static_cast<Token>(below(static_cast<std::size_t>(symbols()))));
        if (stack.size() == 1) filled.push_back(id);
      }
      const Token operation[3] = {pop ? 1 : 0, static_cast<Token>(2 + id), stack.back()};
      for (std::size_t j = 0; j < 3 && i + j < tokens.size(); ++j) {
        tokens[i + j] = operation[j];
        targets[i + j] = pop && j == 1 ? operation[2] : ignored;
      }
      if (pop) stack.pop_back();
      if (pop && stack.empty()) filled.erase(filled.begin() + static_cast<std::ptrdiff_t>(at));
    }
  }
};

}  // namespace braid::tasks
