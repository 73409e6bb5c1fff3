// Generation, against a model whose next logits are a known function of everything it has seen.
#include <braid/cpu/context.hpp>
#include <braid/infer/generate.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <vector>

using namespace braid;

namespace {

constexpr int vocab = 11;

/// The logits after a history: pseudo-random, and different after every different history.
std::vector<float> logits_after(const std::vector<Token>& history) {
  std::uint64_t h = 17;
  for (Token t : history) h = (h ^ static_cast<std::uint64_t>(t + 1)) * 0x100000001B3ull;
  Random random(seed(h));
  std::vector<float> out;
  for (Index v = 0; v < vocab; ++v) out.push_back(static_cast<float>(random.normal()));
  return out;
}

/// Remembers the tokens of every slot; refuses what a real model refuses.
struct Parrot {
  using T = float;
  struct Sizes {
    int vocab;
  };
  static constexpr Sizes config{vocab};

  struct Cache {
    Index limit;
    std::vector<std::vector<Token>> seen;
    Index slots() const { return static_cast<Index>(seen.size()); }
    Index capacity() const { return limit; }
    Index length(Index slot) const { return static_cast<Index>(seen[static_cast<std::size_t>(slot)].size()); }
    void reset(Index slot) { seen[static_cast<std::size_t>(slot)].clear(); }
    std::size_t bytes() const { return 0; }
  };
  Cache cache(cpu::Context&, Index slots, Index capacity) const { return {capacity, std::vector<std::vector<Token>>(static_cast<std::size_t>(slots))}; }

  mutable Index longest_call = 0, tokens_fed = 0;

  void forward(cpu::Context&, std::span<const Token> tokens, const Batch& batch, View<float, 2> logits, Cache* cache) const {
    require_shape(logits, {batch.tokens(), vocab}, "Parrot");
    longest_call = std::max(longest_call, batch.longest());
    tokens_fed += batch.tokens();
    for (Index s = 0; s < batch.sequences(); ++s) {
      auto& seen = cache->seen[static_cast<std::size_t>(batch.slot(s))];
      for (Index t = batch.begin(s); t < batch.begin(s + 1); ++t) {
        seen.push_back(tokens[static_cast<std::size_t>(t)]);
        REQUIRE(static_cast<Index>(seen.size()) <= cache->limit);
        const auto row = logits_after(seen);
        std::copy(row.begin(), row.end(), logits.row(t));
      }
    }
  }
  void next_logits(cpu::Context& ctx, std::span<const Token> tokens, const Batch& batch, Cache& cache, View<float, 2> logits) const {
    Tensor<float, 2> all(ctx.memory(), batch.tokens(), vocab);
    forward(ctx, tokens, batch, all.view(), &cache);
    for (Index s = 0; s < batch.sequences(); ++s) std::copy_n(all.row(batch.begin(s + 1) - 1), vocab, logits.row(s));
  }
};

/// What greedy generation must give.
std::vector<Token> greedy(std::vector<Token> history, Index count, Token stop = -1) {
  std::vector<Token> out;
  while (static_cast<Index>(out.size()) < count) {
    const auto l = logits_after(history);
    const auto token = static_cast<Token>(std::max_element(l.begin(), l.end()) - l.begin());
    if (token == stop) break;
    out.push_back(token);
    history.push_back(token);
  }
  return out;
}

GenerateOptions greedy_options(Index max_tokens) {
  GenerateOptions o;
  o.sampling = Sampling::greedy();
  o.max_tokens = max_tokens;
  return o;
}

}  // namespace

TEST_CASE("a batch of unequal prompts continues as each would alone, in chunks of any size") {
  cpu::Context ctx;
  const std::vector<std::vector<Token>> prompts = {{1, 2, 3, 4, 5, 6, 7}, {8}, {3, 3}};
  for (Index chunk : {1, 2, 3, 512}) {
    Parrot model;
    Generator generator(ctx, model, 3, 40);
    for (Index s = 0; s < 3; ++s) generator.append(s, prompts[static_cast<std::size_t>(s)]);
    auto options = greedy_options(20);
    options.prefill_chunk = chunk;
    const auto results = generator.generate(options);
    REQUIRE(results.size() == 3);
    for (std::size_t s = 0; s < 3; ++s) {
      CHECK(results[s].tokens == greedy(prompts[s], 20));
      CHECK(results[s].finish == Finish::length);
    }
    CHECK(model.longest_call == std::min<Index>(chunk, 7));
  }
}

TEST_CASE("stop tokens end a sequence and are not part of it; a callback ends one; the others go on") {
  cpu::Context ctx;
  Parrot model;
  const std::vector<Token> a = {1, 2}, b = {5};
  const Token stop = greedy(a, 6)[4];
  Generator generator(ctx, model, 2, 64);
  generator.append(0, a);
  generator.append(1, b);
  auto options = greedy_options(30);
  options.stop_tokens = {stop};
  Index calls = 0;
  const auto results = generator.generate(options, [&](const GeneratedToken& t) { return t.sequence != 1 || ++calls < 3; });
  CHECK(results[0].tokens == greedy(a, 30, stop));
  CHECK(results[0].finish == Finish::stop);
  const auto expected = greedy(b, 3, stop);
  CHECK(results[1].tokens == expected);
  CHECK(results[1].finish == (expected.size() == 3 ? Finish::caller : Finish::stop));
}

TEST_CASE("a conversation goes on where it stopped") {
  cpu::Context ctx;
  Parrot model;
  Generator generator(ctx, model, 1, 64);
  std::vector<Token> history = {4, 7};
  generator.append(0, history);
  for (int turn = 0; turn < 3; ++turn) {
    const auto expected = greedy(history, 5);
    CHECK(generator.generate(greedy_options(5)).front().tokens == expected);
    history.insert(history.end(), expected.begin(), expected.end());
    const std::vector<Token> more = {9, 0, static_cast<Token>(turn)};
    generator.append(0, more);
    history.insert(history.end(), more.begin(), more.end());
    CHECK(generator.length(0) == static_cast<Index>(history.size()));
  }
  generator.reset(0);
  generator.append(0, std::vector<Token>{4, 7});
  CHECK(generator.generate(greedy_options(5)).front().tokens == greedy({4, 7}, 5));
}

TEST_CASE("log-probabilities of prompt and output are the model's, whatever the chunks") {
  cpu::Context ctx;
  const std::vector<Token> prompt = {1, 2, 3, 4, 5};
  for (Index chunk : {1, 2, 512}) {
    Parrot model;
    Generator generator(ctx, model, 1, 64);
    generator.append(0, prompt);
    auto options = greedy_options(4);
    options.sampling.temperature = 1.5;  // changes what is drawn, not what is reported
    options.sampling.top_k = 3;
    options.prefill_chunk = chunk;
    options.log_probabilities = options.prompt_log_probabilities = true;
    const auto result = generator.generate(options).front();
    REQUIRE(result.prompt_log_probabilities.size() == 4);
    REQUIRE(result.log_probabilities.size() == 4);
    std::vector<Token> history = {1};
    auto check_next = [&](Token token, double value) {
      const auto l = logits_after(history);
      CHECK(value == log_probability(std::span<const float>(l), token));
      history.push_back(token);
    };
    for (std::size_t i = 0; i < 4; ++i) check_next(prompt[i + 1], result.prompt_log_probabilities[i]);
    for (std::size_t i = 0; i < 4; ++i) check_next(result.tokens[i], result.log_probabilities[i]);
  }
}

TEST_CASE("samples do not depend on what else is in the batch") {
  cpu::Context ctx;
  Parrot model;
  GenerateOptions options;
  options.max_tokens = 12;
  options.sampling.seed = seed(5);
  Generator both(ctx, model, 2, 64), alone(ctx, model, 2, 64);
  both.append(0, std::vector<Token>{1});
  both.append(1, std::vector<Token>{2, 3});
  alone.append(1, std::vector<Token>{2, 3});
  CHECK(both.generate(options)[1].tokens == alone.generate(options)[0].tokens);
}

TEST_CASE("the model sees no token that nobody asked for, and a turn's last token waits for the next turn") {
  cpu::Context ctx;
  Parrot model;
  Generator generator(ctx, model, 1, 64);
  generator.append(0, std::vector<Token>{1, 2});
  const auto first = generator.generate(greedy_options(3)).front().tokens;
  CHECK(model.tokens_fed == 4);  // the prompt and two of the three
  CHECK(generator.generate(greedy_options(3)).front().tokens == greedy({1, 2, first[0], first[1], first[2]}, 3));
  CHECK(model.tokens_fed == 7);
  CHECK(generator.generate(greedy_options(0)).front().tokens.empty());  // feeds what waits
  CHECK(model.tokens_fed == 8);
  CHECK_THROWS_AS(generator.generate(greedy_options(1)), Error);
}

TEST_CASE("a prompt that is broken off between chunks goes on later") {
  cpu::Context ctx;
  Parrot model;
  Generator generator(ctx, model, 2, 64);
  generator.append(0, std::vector<Token>{1, 2, 3, 4, 5, 6, 7});
  generator.append(1, std::vector<Token>{8, 9});
  auto options = greedy_options(4);
  options.prefill_chunk = 3;
  std::vector<Index> left;
  const auto first = generator.generate(options, {}, [&](Index n) { return left.push_back(n), left.size() < 2; });
  CHECK(left == std::vector<Index>{4, 1});
  for (const Generated& g : first) {
    CHECK(g.tokens.empty());
    CHECK(g.finish == Finish::caller);
  }
  left.clear();
  const auto second = generator.generate(options, {}, [&](Index n) { return left.push_back(n), true; });
  REQUIRE(second.size() == 1);  // the other has nothing waiting
  CHECK(second[0].tokens == greedy({1, 2, 3, 4, 5, 6, 7}, 4));
  CHECK(left == std::vector<Index>{0});
}

TEST_CASE("later turns: the repetition penalty knows the whole sequence, and the draws are new") {
  cpu::Context ctx;
  Parrot model;
  Generator generator(ctx, model, 1, 64);
  const std::vector<Token> start = {0, 1, 2, 3, 4};
  auto options = greedy_options(1);
  options.sampling.repetition_penalty = 3;
  std::vector<Token> seen = start;
  generator.append(0, start);
  for (int turn = 0; turn < 20; ++turn) {
    auto l = logits_after(seen);
    for (std::size_t v = 0; v < l.size(); ++v)
      if (std::find(seen.begin(), seen.end(), static_cast<Token>(v)) != seen.end()) l[v] *= l[v] > 0 ? 1 / 3.f : 3.f;
    seen.push_back(static_cast<Token>(std::max_element(l.begin(), l.end()) - l.begin()));
    CHECK(generator.generate(options).front().tokens[0] == seen.back());
  }
  // Turns of one token each draw what one turn of them all draws.
  GenerateOptions all;
  all.max_tokens = 12;
  Generator once(ctx, model, 1, 64), often(ctx, model, 1, 64);
  once.append(0, start);
  often.append(0, start);
  std::vector<Token> tokens;
  GenerateOptions one = all;
  one.max_tokens = 1;
  for (int i = 0; i < 12; ++i) tokens.push_back(often.generate(one).front().tokens[0]);
  CHECK(once.generate(all).front().tokens == tokens);
}

TEST_CASE("the cache's capacity ends generation; what does not fit is refused") {
  cpu::Context ctx;
  Parrot model;
  Generator generator(ctx, model, 1, 8);
  generator.append(0, std::vector<Token>{1, 2, 3, 4, 5});
  CHECK(generator.generate(greedy_options(50)).front().tokens == greedy({1, 2, 3, 4, 5}, 3));
  CHECK(generator.length(0) == 8);
  CHECK_THROWS_AS(generator.append(0, std::vector<Token>{1}), Error);
  CHECK_THROWS_AS(Generator(ctx, model, 1, 8).append(0, std::vector<Token>(9, 1)), Error);
  CHECK_THROWS_AS(Generator(ctx, model, 1, 8).append(0, std::vector<Token>{11}), Error);
  CHECK_THROWS_AS(Generator(ctx, model, 1, 8).append(1, std::vector<Token>{1}), Error);
  CHECK_THROWS_AS(Generator(ctx, model, 1, 8).reset(-1), Error);
  CHECK_THROWS_AS(Generator(ctx, model, 1, 8).generate(greedy_options(1)), Error);
}
