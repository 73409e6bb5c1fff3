// From a row of logits to a token: greedy choice and sampling, exact about the order of operations.
//
//   1. repetition penalty  l <- l / penalty if l > 0, l * penalty otherwise, once for every distinct token seen so far
//   2. temperature         l <- l / temperature; temperature 0 takes the largest l (lowest id among equals) and ends here
//   3. top-k               keeps the tokens whose l is at least the k-th largest; equals of the k-th are all kept
//   4. top-p               p = softmax of what is left; walks p downwards (lower id first among equals) and keeps the shortest
//                          prefix whose sum is at least top_p: never fewer than one token
//   5. min-p               keeps the tokens with p >= min_p * (largest p)
//   6. draw                renormalises and inverts the cumulative sum, in order of token id, at one uniform number
//
// This is the order of the transformers library. All arithmetic is in double. Log-probabilities are those of the model, that is
// of the logits before step 1.
#pragma once

#include <braid/core/error.hpp>
#include <braid/core/random.hpp>
#include <braid/core/types.hpp>

#include <algorithm>
#include <cmath>
#include <concepts>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace braid {

/// How to choose a token. The default samples from the model's own distribution.
struct Sampling {
  double temperature = 1;         ///< >= 0; 0: greedy
  Index top_k = 0;                ///< 0: off
  double top_p = 1;               ///< in (0, 1]; 1: off
  double min_p = 0;               ///< in [0, 1]; 0: off
  double repetition_penalty = 1;  ///< > 0; 1: off, > 1 discourages tokens of the prompt and the output
  Seed seed;                      ///< two runs with one seed draw the same numbers

  /// Always the most probable token.
  static constexpr Sampling greedy() {
    Sampling s;
    s.temperature = 0;
    return s;
  }
};

/// A token and its probability.
struct Candidate {
  Token token;
  double probability;
};

/// A token and the natural logarithm of its probability under the model.
struct LogProbability {
  Token token;
  double value;
};

namespace detail {

/// The largest logit. Throws Error for an empty row, a NaN, +inf, or nothing but -inf.
template <std::floating_point T> double check_logits(std::span<const T> logits, std::string_view where) {
  require(!logits.empty(), where, "a row of logits", "an empty one");
  T largest = -std::numeric_limits<T>::infinity();
  T sum = 0;  // NaN poisons it; so do infinities of both signs, which the slow path tells apart
  for (T l : logits) {
    largest = l > largest ? l : largest;
    sum += l * T(0);
  }
  if (!(sum == T(0)))
    for (std::size_t i = 0; i < logits.size(); ++i)
      require(logits[i] < std::numeric_limits<T>::infinity(), where, "logits below infinity",
              text(std::isnan(logits[i]) ? "NaN" : "+inf", " at token ", i));
  require(largest > -std::numeric_limits<T>::infinity(), where, "at least one logit above -inf", "none");
  return largest;
}

}  // namespace detail

/// log sum exp of a row of logits: what log-probabilities are relative to. Throws Error for NaN, +inf or nothing but -inf.
template <std::floating_point T> double log_sum_exp(std::span<const T> logits) {
  const double largest = detail::check_logits(logits, "log_sum_exp");
  double sum = 0;
  for (T l : logits) sum += std::exp(double(l) - largest);
  return largest + std::log(sum);
}

/// log p(token) under the model. Throws Error for a token outside the row.
template <std::floating_point T> double log_probability(std::span<const T> logits, Token token) {
  require(token >= 0 && static_cast<std::size_t>(token) < logits.size(), "log_probability",
          detail::text("a token below ", logits.size()), token);
  return double(logits[static_cast<std::size_t>(token)]) - log_sum_exp(logits);
}

/// The `count` most probable tokens, best first (lower id first among equals).
template <std::floating_point T> std::vector<LogProbability> top_log_probabilities(std::span<const T> logits, Index count) {
  require(count >= 0, "top_log_probabilities", "count >= 0", count);
  const double total = log_sum_exp(logits);
  std::vector<LogProbability> all(logits.size());
  for (std::size_t i = 0; i < all.size(); ++i) all[i] = {static_cast<Token>(i), double(logits[i]) - total};
  const auto end = all.begin() + std::min<std::ptrdiff_t>(count, std::ssize(all));
  std::partial_sort(all.begin(), end, all.end(), [](const LogProbability& a, const LogProbability& b) {
    return a.value != b.value ? a.value > b.value : a.token < b.token;
  });
  all.erase(end, all.end());
  return all;
}

/// Chooses the tokens of one sequence. Its numbers depend on (seed, stream) and on how many it has drawn, so a sequence gets the
/// same tokens whatever else is in the batch: give each sequence its own stream.
class Sampler {
 public:
  /// Memory that a call needs and that samplers of one thread may share.
  struct Scratch {
    std::vector<double> logits;
    std::vector<double> order;
    std::vector<Candidate> kept;
  };

  /// Throws Error, naming the option, unless every option is in its range.
  explicit Sampler(const Sampling& options = {}, std::uint64_t stream = 0) : options_(options), random_(options.seed, stream) {
    auto check = [](bool ok, const char* name, const char* expected, double found) {
      require(ok, detail::text("Sampling::", name), expected, found);
    };
    check(options.temperature >= 0 && std::isfinite(options.temperature), "temperature", "a finite number >= 0", options.temperature);
    check(options.top_k >= 0, "top_k", "a number >= 0", double(options.top_k));
    check(options.top_p > 0 && options.top_p <= 1, "top_p", "a number in (0, 1]", options.top_p);
    check(options.min_p >= 0 && options.min_p <= 1, "min_p", "a number in [0, 1]", options.min_p);
    check(options.repetition_penalty > 0 && std::isfinite(options.repetition_penalty), "repetition_penalty", "a finite number > 0",
          options.repetition_penalty);
  }

  const Sampling& options() const { return options_; }
  /// How many numbers have been drawn; may be set, to continue a sequence elsewhere.
  std::uint64_t& position() { return random_.position; }

  /// Records tokens for the repetition penalty: the prompt, and tokens chosen by someone else. `next` records its own.
  void observe(std::span<const Token> tokens) {
    if (options_.repetition_penalty == 1) return;
    for (Token token : tokens) {
      require(token >= 0, "Sampler::observe", "tokens >= 0", token);
      const auto index = static_cast<std::size_t>(token);
      if (index >= is_seen_.size()) is_seen_.resize(index + 1, false);
      if (is_seen_[index]) continue;
      is_seen_[index] = true;
      seen_.push_back(token);
    }
  }

  /// Chooses a token. Throws Error for an empty row, NaN, +inf, nothing but -inf, or an observed token outside the row.
  template <std::floating_point T> Token next(std::span<const T> logits, Scratch& scratch) {
    const Token token = options_.temperature == 0 ? most_probable(logits, scratch) : draw(distribution(logits, scratch));
    observe({&token, 1});
    return token;
  }

  /// What `next` draws from: the tokens kept, in order of id, with probabilities that sum to one. For temperature 0 the one token.
  template <std::floating_point T> std::span<const Candidate> distribution(std::span<const T> logits, Scratch& scratch) const {
    if (options_.temperature == 0) {
      scratch.kept.assign(1, Candidate{most_probable(logits, scratch), 1.0});
      return scratch.kept;
    }
    const double largest = penalise(logits, scratch);
    for (double& l : scratch.logits) l = (l - largest) / options_.temperature;  // in this order no temperature overflows
    keep_top_k(scratch);
    keep_top_p(scratch.kept);
    keep_min_p(scratch.kept);
    double sum = 0;
    for (const Candidate& c : scratch.kept) sum += c.probability;
    for (Candidate& c : scratch.kept) c.probability /= sum;
    return scratch.kept;
  }

 private:
  // Step 1. Fills scratch.logits and returns the largest.
  template <std::floating_point T> double penalise(std::span<const T> logits, Scratch& scratch) const {
    double largest = detail::check_logits(logits, "Sampler");
    scratch.logits.assign(logits.begin(), logits.end());
    if (seen_.empty()) return largest;
    for (Token token : seen_) {
      require(static_cast<std::size_t>(token) < logits.size(), "Sampler",
              detail::text("observed tokens below ", logits.size()), token);
      double& l = scratch.logits[static_cast<std::size_t>(token)];
      l = l > 0 ? l / options_.repetition_penalty : l * options_.repetition_penalty;
    }
    return *std::max_element(scratch.logits.begin(), scratch.logits.end());
  }

  // Steps 1 and 2 at temperature 0.
  template <std::floating_point T> Token most_probable(std::span<const T> logits, Scratch& scratch) const {
    if (seen_.empty()) {
      detail::check_logits(logits, "Sampler");
      return static_cast<Token>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    }
    penalise(logits, scratch);
    return static_cast<Token>(std::max_element(scratch.logits.begin(), scratch.logits.end()) - scratch.logits.begin());
  }

  // Step 3. Moves the tokens kept from scratch.logits (relative to the largest) to scratch.kept, unnormalised, in order of id.
  void keep_top_k(Scratch& scratch) const {
    double threshold = -std::numeric_limits<double>::infinity();
    if (options_.top_k > 0 && options_.top_k < std::ssize(scratch.logits)) {
      scratch.order = scratch.logits;
      auto kth = scratch.order.begin() + (options_.top_k - 1);
      std::nth_element(scratch.order.begin(), kth, scratch.order.end(), std::greater<>());
      threshold = *kth;
    }
    scratch.kept.clear();
    for (std::size_t i = 0; i < scratch.logits.size(); ++i)
      if (scratch.logits[i] >= threshold && scratch.logits[i] > -std::numeric_limits<double>::infinity())
        scratch.kept.push_back({static_cast<Token>(i), std::exp(scratch.logits[i])});
  }

  // Step 4. A heap yields the candidates from the top, so the long tail is never sorted; most of it does not even enter the heap:
  // candidates below (1 - top_p) / 2n of the total weigh less than 1 - top_p together, so the prefix ends before the first of them.
  void keep_top_p(std::vector<Candidate>& kept) const {
    if (options_.top_p == 1) return;
    double total = 0;
    for (const Candidate& c : kept) total += c.probability;
    const double tail = total * (1 - options_.top_p) / (2 * static_cast<double>(kept.size()));
    std::erase_if(kept, [&](const Candidate& c) { return c.probability < tail; });
    const auto below = [](const Candidate& a, const Candidate& b) {
      return a.probability != b.probability ? a.probability < b.probability : a.token > b.token;
    };
    std::make_heap(kept.begin(), kept.end(), below);
    auto rest = kept.end();
    for (double sum = 0; rest != kept.begin() && sum < options_.top_p * total; --rest) {
      std::pop_heap(kept.begin(), rest, below);
      sum += (rest - 1)->probability;
    }
    kept.erase(kept.begin(), rest);
    std::sort(kept.begin(), kept.end(), [](const Candidate& a, const Candidate& b) { return a.token < b.token; });
  }

  // Step 5. The largest unnormalised probability is exp(0) = 1.
  void keep_min_p(std::vector<Candidate>& kept) const {
    if (options_.min_p > 0) std::erase_if(kept, [&](const Candidate& c) { return c.probability < options_.min_p; });
  }

  // Step 6.
  Token draw(std::span<const Candidate> kept) {
    const double u = random_.uniform();
    double sum = 0;
    Token last = kept.front().token;
    for (const Candidate& c : kept) {
      if (c.probability == 0) continue;  // too improbable for a double
      sum += c.probability;
      last = c.token;
      if (u < sum) break;  // otherwise rounding left the sum below u: the last one
    }
    return last;
  }

  Sampling options_;
  Random random_;
  std::vector<bool> is_seen_;
  std::vector<Token> seen_;
};

}  // namespace braid
