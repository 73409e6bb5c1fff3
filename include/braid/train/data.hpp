// What a training step eats. A data source is anything callable as `TokenBatch(Index step)`: a pure function of the step, so
// that the step alone is the data position, and a run that resumes at step n sees exactly the batches it would have seen.
#pragma once

#include <braid/core/batch.hpp>
#include <braid/core/random.hpp>
#include <braid/core/view.hpp>

#include <concepts>
#include <fstream>
#include <iterator>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace braid {

/// A target that no loss counts.
inline constexpr Token ignored = -1;

/// Packed sequences with what is to be predicted: `targets[t]` is the token that the logits at t should name, or `ignored`.
struct TokenBatch {
  std::vector<Token> tokens, targets;
  Batch batch;
};

template <class S>
concept DataSource = requires(S& source, Index step) {
  { source(step) } -> std::convertible_to<const TokenBatch&>;
};

/// Batches of a task (train/tasks/): `sequences` of `length` tokens, or of any length in [`shortest`, `length`] if that is set.
/// Batch `step` depends on (seed, step) alone. A seed of its own makes a held-out set.
template <class Task> struct TaskBatches {
  Task task;
  Seed seed;
  Index sequences = 1, length = 1;
  Index shortest = 0;

  TokenBatch operator()(Index step) const {
    Random random(seed, static_cast<std::uint64_t>(step));
    std::vector<Index> offsets{0};
    for (Index s = 0; s < sequences; ++s) offsets.push_back(offsets.back() + draw_length(random));
    TokenBatch out{{}, {}, Batch(std::move(offsets))};
    out.tokens.assign(static_cast<std::size_t>(out.batch.tokens()), 0);
    out.targets.assign(out.tokens.size(), ignored);
    for (Index s = 0; s < sequences; ++s) {
      const auto first = static_cast<std::size_t>(out.batch.begin(s)), count = static_cast<std::size_t>(out.batch.length(s));
      task.fill(random, std::span(out.tokens).subspan(first, count), std::span(out.targets).subspan(first, count));
    }
    return out;
  }

 private:
  Index draw_length(Random& random) const {
    if (shortest <= 0 || shortest >= length) return length;
    return shortest + static_cast<Index>(random.below(static_cast<std::uint64_t>(length - shortest + 1)));
  }
};
template <class Task> TaskBatches(Task, Seed, Index, Index) -> TaskBatches<Task>;  // clang deduces aggregates from version 17 on
template <class Task> TaskBatches(Task, Seed, Index, Index, Index) -> TaskBatches<Task>;

/// The bytes of a file as tokens 0 to 255. Throws Error if it cannot be read.
inline std::vector<Token> read_bytes(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  require(file.good(), path, "a text file that can be read", "none");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  require(!file.bad(), path, "a text file that can be read", "an input error");
  std::vector<Token> tokens;
  tokens.reserve(text.size());
  for (char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

/// Windows of a token stream, each predicting its next token: at random places, or (`in_order`) one after another from the start.
struct StreamBatches {
  std::span<const Token> stream;
  Seed seed;
  Index sequences = 1, length = 1;
  bool in_order = false;

  /// Number of whole windows in the stream.
  Index windows() const { return (static_cast<Index>(stream.size()) - 1) / length; }

  TokenBatch operator()(Index step) const {
    require(windows() >= 1, "StreamBatches", detail::text("a stream longer than one window of ", length, " tokens"),
            detail::text(stream.size(), " tokens"));
    Random random(seed, static_cast<std::uint64_t>(step));
    TokenBatch out{{}, {}, Batch(sequences, length)};
    for (Index s = 0; s < sequences; ++s) {
      const auto places = static_cast<std::uint64_t>(static_cast<Index>(stream.size()) - length);
      const Index start = in_order ? (step * sequences + s) % windows() * length : static_cast<Index>(random.below(places));
      const auto window = stream.subspan(static_cast<std::size_t>(start), static_cast<std::size_t>(length) + 1);
      out.tokens.insert(out.tokens.end(), window.begin(), window.end() - 1);
      out.targets.insert(out.targets.end(), window.begin() + 1, window.end());
    }
    return out;
  }
};

/// How many targets a model got right, token by token and as whole sequences.
struct Score {
  Index correct = 0, targets = 0;
  Index sequences_correct = 0, sequences = 0;  ///< of the sequences that have targets

  double accuracy() const { return targets ? static_cast<double>(correct) / static_cast<double>(targets) : 0; }
  double exact() const { return sequences ? static_cast<double>(sequences_correct) / static_cast<double>(sequences) : 0; }
  Score& operator+=(const Score& other) {
    correct += other.correct, targets += other.targets;
    sequences_correct += other.sequences_correct, sequences += other.sequences;
    return *this;
  }
};

/// Compares the largest logit at every target with the target. logits [tokens, vocab], host memory. A tie counts as wrong.
template <class T> Score score(View<const T, 2> logits, std::span<const Token> targets, const Batch& batch) {
  require(logits.rows() == batch.tokens() && static_cast<Index>(targets.size()) == batch.tokens(), "score",
          detail::text(batch.tokens(), " rows of logits and targets"), detail::text(logits.rows(), " and ", targets.size()));
  Score out;
  for (Index s = 0; s < batch.sequences(); ++s) {
    Index correct = 0, count = 0;
    for (Index t = batch.begin(s); t < batch.begin(s + 1); ++t) {
      const Token target = targets[static_cast<std::size_t>(t)];
      if (target < 0) continue;
      require(target < logits.cols(), "score", detail::text("targets below the vocabulary, ", logits.cols()), target);
      const T* row = logits.row(t);
      bool best = row[target] == row[target];
      for (Index v = 0; v < logits.cols() && best; ++v) best = v == target || row[v] < row[target];
      ++count, correct += best;
    }
    out.correct += correct, out.targets += count;
    if (count) ++out.sequences, out.sequences_correct += correct == count;
  }
  return out;
}

}  // namespace braid
