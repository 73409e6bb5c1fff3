#include <braid/cpu/embedding.hpp>
#include <doctest/doctest.h>
#include <fixtures.hpp>

#include <vector>

using namespace braid;

TEST_CASE("rows of the table, and their scattered sum") {
  for (int threads : {1, 3}) {
    cpu::Context ctx(threads);
    for (Index hidden : {1, 5, 130}) {
      auto table = fixtures::normal<double>(1, 1, 6, hidden);
      const std::vector<Token> tokens{5, 0, 5, 3, 5};
      auto y = fixtures::poison<double>(5, hidden);
      cpu::embed(ctx, tokens, table.view(), y.view());
      for (Index t = 0; t < 5; ++t)
        for (Index c = 0; c < hidden; ++c) CHECK(y(t, c) == table(tokens[std::size_t(t)], c));

      Tensor<double, 2> sum(ctx.memory(), 6, hidden);
      sum(1, 0) = 7;  // added to, not overwritten
      cpu::embed_backward(ctx, tokens, y.view(), sum.view());
      for (Index c = 0; c < hidden; ++c) {
        CHECK(sum(5, c) == table(5, c) + table(5, c) + table(5, c));
        CHECK(sum(3, c) == table(3, c));
        CHECK(sum(1, c) == (c == 0 ? 7 : 0));
      }
    }
  }
}

TEST_CASE("the last token of every sequence") {
  cpu::Context ctx;
  auto x = fixtures::normal<float>(1, 1, 6, 3), y = fixtures::poison<float>(3, 3);
  cpu::gather_last(ctx, x.view(), Batch({0, 1, 5, 6}), y.view());
  const Index rows[3] = {0, 4, 5};
  for (Index s = 0; s < 3; ++s)
    for (Index c = 0; c < 3; ++c) CHECK(y(s, c) == x(rows[s], c));
  auto empty = fixtures::poison<float>(2, 3);
  CHECK_THROWS_WITH_AS(cpu::gather_last(ctx, x.view(), Batch({0, 0, 6}), empty.view()),
                       "gather_last: expected sequences that are not empty, found sequence 0 without tokens", Error);
}

TEST_CASE("no tokens, and ids outside the vocabulary") {
  cpu::Context ctx;
  auto table = fixtures::normal<float>(1, 1, 4, 3);
  Tensor<float, 2> none(ctx.memory(), 0, 3), two(ctx.memory(), 2, 3);
  cpu::embed(ctx, {}, table.view(), none.view());
  cpu::embed_backward(ctx, {}, none.view(), table.view());
  CHECK_THROWS_WITH_AS(cpu::embed(ctx, std::vector<Token>{3, 4}, table.view(), two.view()),
                       "embed: expected token ids in [0, 4), found id 4 at position 1", Error);
  CHECK_THROWS_WITH_AS(cpu::embed_backward(ctx, std::vector<Token>{-1, 3}, two.view(), table.view()),
                       "embed_backward: expected token ids in [0, 4), found id -1 at position 0", Error);
}
