#include <braid/cpu/context.hpp>
#include <braid/train/tasks/mqar.hpp>
#include <braid/train/tasks/palindrome.hpp>
#include <braid/train/tasks/stack.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <cstdio>
#include <map>
#include <set>

using namespace braid;
using tasks::Mqar, tasks::Palindrome, tasks::Stack;

namespace {
template <class Task> TokenBatch one(Task task, Index length, std::uint64_t s = 1) {
  return TaskBatches<Task>{task, seed(s), 1, length}(0);
}
auto at(const auto& v, Index i) { return v[static_cast<std::size_t>(i)]; }
}  // namespace

TEST_CASE("palindrome: the loss counts the reversed half, and each target is the next token") {
  for (Index length : {0, 1, 2, 3, 8, 9, 256}) {
    const auto b = one(Palindrome{.vocab = 10}, length);
    const Index half = length / 2;
    Index counted = 0;
    for (Index i = 0; i < length; ++i) {
      CHECK((at(b.tokens, i) == 0) == (i == half));
      if (at(b.targets, i) == ignored) continue;
      ++counted;
      CHECK(at(b.targets, i) == at(b.tokens, 2 * half - 1 - i));
      if (i + 1 < length) CHECK(at(b.targets, i) == at(b.tokens, i + 1));
    }
    CHECK(counted == half);
  }
}

TEST_CASE("MQAR: every query asks for a pair that was shown, and its value is never an input") {
  const Mqar task{.vocab = 41, .pairs = 20, .density = 0.5};
  const auto b = one(task, 400);
  std::map<Token, Token> pairs;
  for (Index i = 0; i < 40; i += 2) {
    CHECK(at(b.tokens, i) >= 1);
    CHECK(at(b.tokens, i) <= task.keys());
    CHECK(at(b.tokens, i + 1) > task.keys());
    CHECK(at(b.tokens, i + 1) < task.vocab);
    pairs[at(b.tokens, i)] = at(b.tokens, i + 1);
  }
  CHECK(pairs.size() == 20);
  std::set<Token> asked;
  Index queries = 0;
  for (Index i = 40; i < 400; ++i) {
    if (at(b.tokens, i) == 0) {
      CHECK(at(b.targets, i) == ignored);
      continue;
    }
    ++queries;
    asked.insert(at(b.tokens, i));
    CHECK(at(b.targets, i) == pairs.at(at(b.tokens, i)));
  }
  CHECK(asked.size() == 20);
  CHECK(std::abs(double(queries) - 180) < 4 * std::sqrt(360 * 0.25));  // four standard deviations of 360 coins
  CHECK(one(Mqar{.vocab = 9, .pairs = 4, .density = 0}, 8).targets == std::vector<Token>(8, ignored));
}

TEST_CASE("Stack: what is popped is what lies on top") {
  for (Index length : {0, 1, 2, 3, 100, 3000}) {
    const Stack task{.vocab = 80, .stacks = 64};
    const auto b = one(task, length);
    std::vector<std::vector<Token>> held(64);
    Index pops = 0, counted = 0;
    for (Index i = 0; i + 2 < length; i += 3) {
      auto& stack = held.at(static_cast<std::size_t>(at(b.tokens, i + 1) - 2));
      const Token token = at(b.tokens, i + 2);
      CHECK(token >= 66);
      CHECK(token < 80);
      if (at(b.tokens, i) == 0) {
        stack.push_back(token);
      } else {
        REQUIRE(!stack.empty());
        CHECK(stack.back() == token);
        CHECK(at(b.targets, i + 1) == token);
        stack.pop_back(), ++pops;
      }
    }
    for (Index i = 0; i < length - length % 3; ++i) counted += at(b.targets, i) != ignored;
    CHECK(counted == pops);
    if (length == 3000) CHECK(pops > 400);
  }
}

TEST_CASE("batches depend on seed and step alone, and lengths may differ") {
  const TaskBatches<Mqar> source{{.vocab = 32, .pairs = 4}, seed(1), 5, 40, 20};
  const auto a = source(3), again = source(3), other = source(4);
  CHECK(a.tokens == again.tokens);
  CHECK(a.targets == again.targets);
  CHECK(a.tokens != other.tokens);
  CHECK(a.batch.sequences() == 5);
  std::set<Index> lengths;
  for (Index s = 0; s < 5; ++s) {
    lengths.insert(a.batch.length(s));
    CHECK(a.batch.length(s) >= 20);
    CHECK(a.batch.length(s) <= 40);
  }
  CHECK(lengths.size() > 1);
  const TaskBatches<Mqar> held_out{{.vocab = 32, .pairs = 4}, seed(2), 5, 40, 20};
  CHECK(held_out(3).tokens != a.tokens);
}

TEST_CASE("tasks that cannot be made are refused") {
  CHECK_THROWS_WITH_AS(one(Mqar{.vocab = 9, .pairs = 5}, 64), doctest::Contains("as many as there are keys, 4"), Error);
  CHECK_THROWS_WITH_AS(one(Mqar{.vocab = 64, .pairs = 8}, 15), doctest::Contains("8 pairs"), Error);
  CHECK_THROWS_AS(one(Stack{.vocab = 66, .stacks = 64}, 3), Error);
  CHECK_THROWS_AS(one(Palindrome{.vocab = 1}, 3), Error);
}

TEST_CASE("score counts tokens and whole sequences; ties and NaN are wrong") {
  const float nan = std::nanf("");
  // Sequences of 2, 1, 2 and 0 tokens.
  float logits[5][3] = {{0, 1, 0}, {2, 0, 1}, {1, 1, 0}, {nan, 1, 0}, {0, 0, 3}};
  const std::vector<Token> targets{1, 0, 1, 1, 2};
  const auto all = score(View<const float, 2>(&logits[0][0], 5, 3), targets, Batch({0, 2, 3, 5, 5}));
  CHECK(all.targets == 5);
  CHECK(all.correct == 3);  // not the tie, not the row with a NaN
  CHECK(all.sequences == 3);
  CHECK(all.sequences_correct == 1);
  CHECK(all.accuracy() == doctest::Approx(0.6));
  CHECK(Score{}.accuracy() == 0);
  CHECK_THROWS_AS(score(View<const float, 2>(&logits[0][0], 5, 3), std::vector<Token>{3, 0, 0, 0, 0}, Batch(5)), Error);
  CHECK_THROWS_AS(score(View<const float, 2>(&logits[0][0], 5, 3), std::vector<Token>{0}, Batch(1)), Error);
}

TEST_CASE("windows of a stream predict the next token") {
  std::vector<Token> stream;
  for (Token i = 0; i < 101; ++i) stream.push_back(i);
  const StreamBatches random{stream, seed(1), 4, 10};
  const auto b = random(0);
  for (std::size_t i = 0; i < 40; ++i) CHECK(b.targets[i] == b.tokens[i] + 1);
  CHECK(random(0).tokens == b.tokens);
  const StreamBatches ordered{stream, seed(1), 1, 10, true};
  CHECK(ordered.windows() == 10);
  CHECK(ordered(9).tokens.front() == 90);
  CHECK(ordered(9).targets.back() == 100);
  CHECK_THROWS_AS((StreamBatches{stream, seed(1), 1, 101}(0)), Error);
  CHECK_THROWS_WITH_AS(read_bytes("no/such/file"), doctest::Contains("no/such/file"), Error);
}
