#include <braid/cpu/cross_entropy.hpp>
#include <doctest/doctest.h>
#include <finite_difference.hpp>
#include <fixtures.hpp>

#include <vector>

using namespace braid;

namespace {
/// Every third target is not counted.
std::vector<Token> some_targets(Index tokens, Index vocab) {
  std::vector<Token> targets;
  for (Index t = 0; t < tokens; ++t) targets.push_back(t % 3 == 1 ? ignored_target : Token((7 * t + 2) % vocab));
  return targets;
}
}  // namespace

TEST_CASE("value and gradient, odd sizes") {
  cpu::Context ctx;
  for (Index vocab : {1, 2, 17, 33})
    for (Index tokens : {1, 5, 8}) {
      const auto targets = some_targets(tokens, vocab);
      auto x = fixtures::normal<double>(std::uint64_t(vocab), 3, tokens, vocab), dx = fixtures::poison<double>(tokens, vocab);
      const CrossEntropy result = cpu::cross_entropy<double>(ctx, x, targets, dx);
      double sum = 0;
      Index counted = 0, correct = 0;
      for (Index t = 0; t < tokens; ++t) {
        const Token target = targets[std::size_t(t)];
        if (target < 0) continue;
        double partition = 0;
        for (Index v = 0; v < vocab; ++v) partition += std::exp(x(t, v));
        sum += std::log(partition) - x(t, target);
        correct += std::max_element(x.row(t), x.row(t) + vocab) == x.row(t) + target;
        ++counted;
      }
      CHECK(result.counted == counted);
      CHECK(result.correct == correct);
      CHECK(std::abs(result.mean - sum / double(counted)) <= 1e-14 * (1 + sum));
      finite_difference::check("logits", x.data(), dx.data(), x.size(), [&] { return double(cpu::cross_entropy<double>(ctx, x, targets)); });
    }
}

TEST_CASE("in place, and the same for any number of threads") {
  cpu::Context one(1), three(3);
  const auto targets = some_targets(50, 37);
  auto x = fixtures::normal<float>(1, 3, 50, 37), dx = fixtures::poison<float>(50, 37);
  const double mean = cpu::cross_entropy<float>(one, x, targets, dx);
  CHECK(double(cpu::cross_entropy<float>(three, x, targets, x)) == mean);
  for (Index i = 0; i < x.size(); ++i) CHECK(x.data()[i] == dx.data()[i]);
}

TEST_CASE("hostile logits") {
  cpu::Context ctx;
  Tensor<float, 2> x(ctx.memory(), 4, 19), dx(ctx.memory(), 4, 19);
  for (Index v = 0; v < 19; ++v) {
    x(0, v) = 1e4f;                    // equal: log 19, whatever the level
    x(1, v) = v == 3 ? 1e4f : -1e4f;   // certain and right: 0
    x(2, v) = v == 3 ? 1e4f : -1e4f;   // certain and wrong: 2e4
    x(3, v) = -1e4f;
  }
  const std::vector<Token> targets{18, 3, 4, 0};
  const CrossEntropy result = cpu::cross_entropy<float>(ctx, x, targets, dx);
  CHECK(result.mean == doctest::Approx((2 * std::log(19.0) + 2e4) / 4).epsilon(1e-7));
  CHECK(result.correct == 2);  // token 1; token 3, whose target is the first of equals; not token 0
  CHECK(dx(0, 0) == doctest::Approx(0.25 / 19));
  CHECK(dx(0, 18) == doctest::Approx(0.25 / 19 - 0.25));
  CHECK(dx(1, 3) == 0);
  CHECK(dx(2, 3) == 0.25f);
  CHECK(dx(2, 4) == -0.25f);

  x(1, 5) = std::numeric_limits<float>::quiet_NaN();
  CHECK(std::isnan(double(cpu::cross_entropy<float>(ctx, x, targets))));
}

TEST_CASE("nothing counted, no tokens, targets outside the vocabulary") {
  cpu::Context ctx;
  auto x = fixtures::normal<float>(1, 1, 2, 5), dx = fixtures::poison<float>(2, 5);
  const CrossEntropy none = cpu::cross_entropy<float>(ctx, x, std::vector<Token>{-1, -100}, dx);
  CHECK(none.mean == 0);
  CHECK(none.counted == 0);
  for (Index i = 0; i < dx.size(); ++i) CHECK(dx.data()[i] == 0);
  Tensor<float, 2> empty(ctx.memory(), 0, 5);
  CHECK(double(cpu::cross_entropy<float>(ctx, empty, {})) == 0);
  CHECK_THROWS_WITH_AS(cpu::cross_entropy<float>(ctx, x, std::vector<Token>{0, 5}),
                       "cross_entropy: expected targets below 5, found target 5 at position 1", Error);
  CHECK_THROWS_WITH_AS(cpu::cross_entropy<float>(ctx, x, std::vector<Token>{0}),
                       "cross_entropy: expected a target for each of 2 tokens, found 1", Error);
}

TEST_CASE("fused with the head: value and gradients") {
  cpu::Context ctx;
  for (Index tokens : {1, 7, 200}) {  // 200: more than one block of 64
    constexpr Index hidden = 5, vocab = 11;
    const auto targets = some_targets(tokens, vocab);
    auto x = fixtures::normal<double>(1, 1, tokens, hidden), w = fixtures::normal<double>(2, 1, vocab, hidden);
    auto dx = fixtures::poison<double>(tokens, hidden);
    Tensor<double, 2> dw(ctx.memory(), vocab, hidden), logits(ctx.memory(), tokens, vocab);
    const CrossEntropy fused = cpu::head_loss_backward<double>(ctx, x, w, targets, dx, dw);
    cpu::linear<double>(ctx, x, w, logits);
    const CrossEntropy whole = cpu::cross_entropy<double>(ctx, logits, targets);
    CHECK(fused.mean == doctest::Approx(whole.mean).epsilon(1e-14));
    CHECK(fused.counted == whole.counted);
    CHECK(fused.correct == whole.correct);
    auto loss = [&] { return double(cpu::head_loss<double>(ctx, x, w, targets)); };
    CHECK(loss() == fused.mean);
    finite_difference::check("x", x.data(), dx.data(), x.size(), loss);
    finite_difference::check("w", w.data(), dw.data(), w.size(), loss);
  }
}

TEST_CASE("a large vocabulary is never held whole") {
  cpu::Context ctx;
  constexpr Index tokens = 300, vocab = 1 << 17, hidden = 2;
  auto x = fixtures::normal<float>(1, 1, tokens, hidden), w = fixtures::normal<float>(2, 1, vocab, hidden);
  CHECK(std::isfinite(double(cpu::head_loss<float>(ctx, x, w, std::vector<Token>(tokens, 3)))));
  CHECK(ctx.arena.reserved() < std::size_t(tokens * vocab) * sizeof(float) / 3);
}
