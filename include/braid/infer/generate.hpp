// Generation: prefill in chunks, then one token at a time for a batch of unequal prompts.
#pragma once

#include <braid/core/batch.hpp>
#include <braid/core/memory.hpp>
#include <braid/infer/sampling.hpp>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <span>
#include <utility>
#include <vector>

namespace braid {

/// How a sequence ended.
enum class Finish : std::uint8_t {
  length,  ///< `max_tokens` were generated, or the sequence has reached its capacity
  stop,    ///< one of `stop_tokens` was chosen (it is not part of the output)
  caller   ///< a callback said so
};

struct GenerateOptions {
  Sampling sampling{};
  Index max_tokens = 128;              ///< at most, per sequence
  std::vector<Token> stop_tokens;      ///< end a sequence
  Index prefill_chunk = 512;           ///< tokens of a prompt that go through the model at once, per sequence
  bool log_probabilities = false;      ///< of the output's tokens
  bool prompt_log_probabilities = false;  ///< of the tokens that wait, but a sequence's first (takes logits at every position)
};

/// One token as it is generated.
struct GeneratedToken {
  Index sequence;
  Token token;
  double log_probability;  ///< under the model, before any sampling option; 0 unless asked for
};

/// Called for every token; false ends that sequence.
using TokenCallback = std::function<bool(const GeneratedToken&)>;
/// Called after every chunk of the prompts with the number of tokens that still wait; false ends the generation, and they go on
/// waiting.
using PrefillCallback = std::function<bool(Index)>;

/// What became of one sequence.
struct Generated {
  std::vector<Token> tokens;
  std::vector<double> log_probabilities;         ///< one per token if asked for
  std::vector<double> prompt_log_probabilities;  ///< one per prompt token but the first, if asked for
  Finish finish = Finish::length;
};

/// Continues up to `sequences` sequences with one model. It keeps their caches, so a conversation goes on by appending to it.
/// The model and the context must outlive it.
template <class Model, class Ctx> class Generator {
 public:
  using T = typename Model::T;

  /// `capacity`: the longest a sequence can get, prompt and output together.
  Generator(Ctx& ctx, const Model& model, Index sequences, Index capacity)
      : ctx_(ctx), model_(model), cache_(model.cache(ctx, sequences, capacity)), history_(static_cast<std::size_t>(sequences)),
        logits_(ctx.memory(), sequences, Model::config.vocab) {}

  Index sequences() const { return cache_.slots(); }
  /// Tokens of a sequence, prompts and outputs; those that its cache does not hold yet are waiting for it.
  Index length(Index sequence) const {
    check(sequence);
    return std::ssize(history_[static_cast<std::size_t>(sequence)]);
  }
  std::size_t cache_bytes() const { return cache_.bytes(); }

  /// Appends to the prompt of a sequence. Throws Error when it gets longer than the capacity.
  void append(Index sequence, std::span<const Token> tokens) {
    require(length(sequence) + static_cast<Index>(tokens.size()) <= cache_.capacity(), "Generator::append",
            detail::text("at most ", cache_.capacity(), " tokens in a sequence"), length(sequence) + static_cast<Index>(tokens.size()));
    for (Token t : tokens)
      require(t >= 0 && t < Model::config.vocab, "Generator::append", detail::text("token ids below ", Model::config.vocab), t);
    history(sequence).insert(history(sequence).end(), tokens.begin(), tokens.end());
  }
  /// Forgets a sequence.
  void reset(Index sequence) {
    check(sequence);
    cache_.reset(sequence);
    history(sequence).clear();
  }

  /// Generates for every sequence that has tokens waiting; the result has an entry for each of them, in order of sequence.
  /// A generated token waits in turn, so a later `append` and `generate` continue where this one stopped.
  std::vector<Generated> generate(const GenerateOptions& options, const TokenCallback& on_token = {}, const PrefillCallback& on_prefill = {}) {
    require(options.prefill_chunk > 0, "GenerateOptions::prefill_chunk", "a number > 0", options.prefill_chunk);
    require(options.max_tokens >= 0, "GenerateOptions::max_tokens", "a number >= 0", options.max_tokens);
    std::vector<Running> all;
    for (Index s = 0; s < sequences(); ++s)
      if (!waiting(s).empty()) {
        all.push_back({s, Sampler(options.sampling, static_cast<std::uint64_t>(s)), {}, false});
        all.back().sampler.observe(history(s));
        all.back().sampler.position() = static_cast<std::uint64_t>(length(s));  // a later turn draws other numbers
      }
    require(!all.empty(), "Generator::generate", "a sequence with tokens waiting", "none");

    prefill(all, options, on_prefill);
    choose(all, options, on_token);
    while (std::any_of(all.begin(), all.end(), [](const Running& r) { return !r.done; })) {
      step(all);
      choose(all, options, on_token);
    }
    std::vector<Generated> results;
    for (Running& r : all) results.push_back(std::move(r.result));
    return results;
  }

 private:
  struct Running {
    Index sequence;
    Sampler sampler;
    Generated result;
    bool done;
  };

  void check(Index sequence) const {
    require(sequence >= 0 && sequence < sequences(), "Generator", detail::text("a sequence below ", sequences()), sequence);
  }
  std::vector<Token>& history(Index s) { return history_[static_cast<std::size_t>(s)]; }
  std::span<const Token> waiting(Index s) { return std::span<const Token>(history(s)).subspan(static_cast<std::size_t>(cache_.length(s))); }

  /// Feeds every prompt through the model, chunk by chunk; the logits of a sequence's last token end in its row of `logits_`.
  void prefill(std::vector<Running>& all, const GenerateOptions& options, const PrefillCallback& on_prefill) {
    for (Index left = 1; left > 0;) {
      left = 0;
      tokens_.clear();
      std::vector<Index> offsets{0}, slots;
      for (const Running& r : all) {
        const std::span<const Token> rest = waiting(r.sequence);
        const Index count = std::min(options.prefill_chunk, std::ssize(rest));
        if (count == 0) continue;
        tokens_.insert(tokens_.end(), rest.begin(), rest.begin() + count);
        offsets.push_back(offsets.back() + count);
        slots.push_back(r.sequence);
        left += std::ssize(rest) - count;
      }
      const Batch batch(std::move(offsets), std::move(slots));
      if (options.prompt_log_probabilities)
        forward_all(all, batch);
      else
        forward_last(batch);
      if (on_prefill && !on_prefill(left)) {
        for (Running& r : all) {
          r.done = true;
          r.result.finish = Finish::caller;
        }
        return;
      }
    }
  }

  void forward_last(const Batch& batch) {
    auto scope = ctx_.arena.scope();
    auto last = ctx_.arena.template take<T>(batch.sequences(), Index{Model::config.vocab});
    model_.next_logits(ctx_, tokens_, batch, cache_, last);
    for (Index s = 0; s < batch.sequences(); ++s) std::copy_n(last.row(s), last.cols(), logits_.row(batch.slot(s)));
  }

  /// As forward_last, and scores every token by the logits of the one before it.
  void forward_all(std::vector<Running>& all, const Batch& batch) {
    auto scope = ctx_.arena.scope();
    auto every = ctx_.arena.template take<T>(batch.tokens(), Index{Model::config.vocab});
    std::vector<bool> continues;  // the row of `logits_` holds the logits before this chunk
    for (Index s = 0; s < batch.sequences(); ++s) continues.push_back(cache_.length(batch.slot(s)) > 0);
    model_.forward(ctx_, tokens_, batch, every, &cache_);
    for (Index s = 0; s < batch.sequences(); ++s) {
      const Index slot = batch.slot(s);
      auto& out = std::find_if(all.begin(), all.end(), [&](const Running& r) { return r.sequence == slot; })->result;
      for (Index t = batch.begin(s); t < batch.begin(s + 1); ++t) {
        const bool first = t == batch.begin(s);
        if (first && !continues[static_cast<std::size_t>(s)]) continue;
        const T* before = first ? logits_.row(slot) : every.row(t - 1);
        out.prompt_log_probabilities.push_back(log_probability(row(before), tokens_[static_cast<std::size_t>(t)]));
      }
      std::copy_n(every.row(batch.begin(s + 1) - 1), every.cols(), logits_.row(slot));
    }
  }

  /// One token for every sequence that goes on.
  void step(std::vector<Running>& all) {
    tokens_.clear();
    std::vector<Index> offsets{0}, slots;
    for (const Running& r : all) {
      if (r.done) continue;
      tokens_.push_back(history(r.sequence).back());
      offsets.push_back(offsets.back() + 1);
      slots.push_back(r.sequence);
    }
    forward_last(Batch(std::move(offsets), std::move(slots)));
  }

  /// Chooses the next token of every sequence that goes on, from its row of `logits_`.
  void choose(std::vector<Running>& all, const GenerateOptions& options, const TokenCallback& on_token) {
    const auto ended = [&](const Running& r) {
      return static_cast<Index>(r.result.tokens.size()) >= options.max_tokens || length(r.sequence) >= cache_.capacity();
    };
    for (Running& r : all) {
      r.done = r.done || ended(r);
      if (r.done) continue;
      const auto logits = row(logits_.row(r.sequence));
      const Token token = r.sampler.next(logits, scratch_);
      history(r.sequence).push_back(token);
      if (std::find(options.stop_tokens.begin(), options.stop_tokens.end(), token) != options.stop_tokens.end()) {
        r.result.finish = Finish::stop;
        r.done = true;
        continue;
      }
      const double value = options.log_probabilities ? log_probability(logits, token) : 0;
      r.result.tokens.push_back(token);
      if (options.log_probabilities) r.result.log_probabilities.push_back(value);
      const bool goes_on = !on_token || on_token({r.sequence, token, value});
      if (!goes_on) r.result.finish = Finish::caller;
      r.done = !goes_on || ended(r);  // the last token is not fed to the model: it waits for what comes next
    }
  }

  static std::span<const T> row(const T* data) { return {data, static_cast<std::size_t>(Model::config.vocab)}; }

  Ctx& ctx_;
  const Model& model_;
  typename Model::Cache cache_;
  std::vector<std::vector<Token>> history_;  // per sequence; the first cache_.length() tokens have been fed to the model
  Tensor<T, 2> logits_;  // [sequences, vocab], of each sequence's last token
  std::vector<Token> tokens_;
  Sampler::Scratch scratch_;
};

/// The simplest use: one prompt, one continuation.
template <class Model, class Ctx>
std::vector<Token> generate(Ctx& ctx, const Model& model, std::span<const Token> prompt, const GenerateOptions& options = {}) {
  Generator<Model, Ctx> generator(ctx, model, 1, static_cast<Index>(prompt.size()) + options.max_tokens);
  generator.append(0, prompt);
  return std::move(generator.generate(options).front().tokens);
}

}  // namespace braid
