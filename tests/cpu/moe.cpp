#include <braid/cpu/moe.hpp>
#include <doctest/doctest.h>
#include <finite_difference.hpp>
#include <fixtures.hpp>

#include <algorithm>
#include <set>
#include <vector>

using namespace braid;

namespace {
double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

/// The published rule, by sorting: two best of each group, best groups, best experts of those.
std::vector<Index> choose(const std::vector<double>& biased, const Router& r) {
  const Index size = r.experts / r.groups;
  std::vector<double> group;
  for (Index g = 0; g < r.groups; ++g) {
    std::vector<double> of(biased.begin() + g * size, biased.begin() + (g + 1) * size);
    std::sort(of.rbegin(), of.rend());
    group.push_back(of[0] + (size > 1 ? of[1] : 0));
  }
  auto best = [](std::vector<Index> all, const std::vector<double>& score, Index k) {
    std::stable_sort(all.begin(), all.end(), [&](Index a, Index b) { return score[std::size_t(a)] > score[std::size_t(b)]; });
    all.resize(std::size_t(k));
    return all;
  };
  std::vector<Index> groups, experts;
  for (Index g = 0; g < r.groups; ++g) groups.push_back(g);
  groups = best(groups, group, r.groups_per_token);
  for (Index e = 0; e < r.experts; ++e)
    if (std::count(groups.begin(), groups.end(), e / size)) experts.push_back(e);
  return best(experts, biased, r.experts_per_token);
}

Dispatch random_dispatch(cpu::Context& ctx, Index tokens, Index per_token, Index experts) {
  auto expert = ctx.arena.take<Index>(tokens, per_token);
  Random random(seed(4));
  for (Index t = 0; t < tokens; ++t)
    for (Index j = 0; j < per_token; ++j) expert(t, j) = (Index(random.below(std::uint64_t(experts))) / 2 * 2 + j) % experts;
  return cpu::dispatch(ctx, expert, experts);
}
}  // namespace

TEST_CASE("the published rule of choice, with groups, ties and negative biased scores") {
  cpu::Context ctx;
  for (const Router& r : {Router{1, 1}, Router{8, 3}, Router{12, 4, 4, 2, 1.7}, Router{12, 6, 4, 2, 2, false}, Router{6, 3, 6, 3}, Router{8, 8}}) {
    auto scope = ctx.arena.scope();
    auto logits = fixtures::normal<double>(1, 2, 40, r.experts), bias = fixtures::normal<double>(2, 1, 1, r.experts);
    for (double& x : logits.view()) x = std::round(x);  // many ties
    for (double& x : bias.view()) x = std::round(2 * x) / 2 - 1;
    const auto routing = cpu::route<double>(ctx, logits, {bias.data(), r.experts}, r);
    for (Index t = 0; t < 40; ++t) {
      std::vector<double> biased;
      for (Index e = 0; e < r.experts; ++e) biased.push_back(routing.score(t, e) + bias(0, e));
      const auto expected = choose(biased, r);
      CHECK(std::vector<Index>(routing.expert.row(t), routing.expert.row(t) + r.experts_per_token) == expected);
      double sum = 0;
      for (Index e : expected) sum += sigmoid(logits(t, e));
      for (Index j = 0; j < r.experts_per_token; ++j)
        CHECK(routing.weight(t, j) ==
              doctest::Approx(r.scale * sigmoid(logits(t, expected[std::size_t(j)])) / (r.renormalize ? sum : 1)).epsilon(1e-14));
    }
  }
}

TEST_CASE("hostile logits: equal, +-1e4, not a number") {
  cpu::Context ctx;
  const Router r{8, 3, 4, 2};
  Tensor<float, 2> logits(ctx.memory(), 5, 8), bias(ctx.memory(), 1, 8);
  for (Index e = 0; e < 8; ++e) {
    logits(1, e) = 1e4f;
    logits(2, e) = -1e4f;
    logits(3, e) = e % 2 ? 1e4f : -1e4f;
    logits(4, e) = std::numeric_limits<float>::quiet_NaN();
  }
  const auto routing = cpu::route<float>(ctx, logits, {bias.data(), 8}, r);
  for (Index t = 0; t < 5; ++t) {
    const std::set<Index> chosen(routing.expert.row(t), routing.expert.row(t) + 3);
    CHECK(chosen.size() == 3);
    CHECK(*chosen.begin() >= 0);
    CHECK(*chosen.rbegin() < 8);
  }
  for (Index j = 0; j < 3; ++j) {
    CHECK(routing.expert(0, j) == j);
    CHECK(routing.weight(0, j) == doctest::Approx(1. / 3));
    CHECK(routing.weight(1, j) == doctest::Approx(1. / 3));
    CHECK(routing.weight(2, j) == 0);  // scores of 0 over 1e-20
    CHECK(std::isnan(routing.weight(4, j)));
  }
  CHECK(routing.expert(3, 0) == 1);
  CHECK(routing.expert(3, 1) == 3);
}

TEST_CASE("gradient of the weights") {
  cpu::Context ctx;
  for (const Router& r : {Router{12, 4, 4, 2, 1.7}, Router{7, 3, 1, 1, 2, false}, Router{3, 1}}) {
    auto scope = ctx.arena.scope();
    auto logits = fixtures::normal<double>(1, 1, 5, r.experts), bias = fixtures::normal<double>(2, 0.5, 1, r.experts);
    auto d_weight = fixtures::normal<double>(3, 1, 5, r.experts_per_token), d_logits = fixtures::poison<double>(5, r.experts);
    const View<const double, 1> b(bias.data(), r.experts);
    cpu::route_backward<double>(ctx, cpu::route<double>(ctx, logits, b, r), d_weight, r, d_logits);
    finite_difference::check("logits", logits.data(), d_logits.data(), logits.size(), [&] {
      auto inner = ctx.arena.scope();
      const auto w = cpu::route<double>(ctx, logits, b, r).weight;
      double sum = 0;
      for (Index i = 0; i < w.size(); ++i) sum += w.data[i] * d_weight.data()[i];
      return sum;
    });
  }
}

TEST_CASE("dispatch sorts by expert, then by token, and its tiles cover every row") {
  cpu::Context ctx;
  for (Index tokens : {0, 1, 64, 200}) {
    auto scope = ctx.arena.scope();
    const auto d = random_dispatch(ctx, tokens, 2, 6);
    CHECK(d.rows() == 2 * tokens);
    CHECK(d.offsets(0) == 0);
    CHECK(d.offsets(6) == d.rows());
    for (Index e = 0; e < 6; ++e)
      for (Index row = d.offsets(e) + 1; row < d.offsets(e + 1); ++row) CHECK(d.token(row - 1) <= d.token(row));
    for (Index t = 0; t < tokens; ++t)
      for (Index j = 0; j < 2; ++j) CHECK(d.token(d.row(t, j)) == t);
    Index next = 0;
    for (const ExpertTile& tile : d.tiles) {
      CHECK(tile.row == next);
      CHECK(tile.rows > 0);
      CHECK(tile.row >= d.offsets(tile.expert));
      CHECK(tile.row + tile.rows <= d.offsets(tile.expert + 1));
      next += tile.rows;
    }
    CHECK(next == d.rows());
  }
}

TEST_CASE("grouped products: each expert's rows with its own matrix, experts without rows included") {
  constexpr Index experts = 6, in = 5, out = 300;  // out: more than one block of the weight's gradient
  for (int threads : {1, 2}) {
    cpu::Context ctx(threads);
    const auto d = random_dispatch(ctx, 70, 2, 5);  // the last expert receives nothing
    auto x = fixtures::normal<double>(1, 1, d.rows(), in), w = fixtures::normal<double>(2, 1, experts, out * in + 8);
    auto dy = fixtures::normal<double>(3, 1, d.rows(), out), y = fixtures::poison<double>(d.rows(), out);
    auto dx = fixtures::poison<double>(d.rows(), in);
    Tensor<double, 2> dw(ctx.memory(), experts, out * in + 8);
    const MatrixStack<double> stack{w.data(), experts, out, in, out * in + 8}, d_stack{dw.data(), experts, out, in, out * in + 8};
    auto offsets = ctx.arena.take<Index>(experts + 1);
    std::copy(d.offsets.begin(), d.offsets.end(), offsets.data);
    offsets(experts) = offsets(experts - 1);
    const Dispatch six{offsets, d.token, d.row, d.tiles};
    cpu::grouped_linear<double>(ctx, x, six, stack, y);
    cpu::grouped_linear_backward_input<double>(ctx, dy, six, stack, dx);
    cpu::grouped_linear_backward_weight<double>(ctx, x, dy, six, d_stack);
    Tensor<double, 2> expected_dw(ctx.memory(), experts, out * in + 8);
    double worst = 0;
    for (Index e = 0; e < experts; ++e)
      for (Index row = offsets(e); row < offsets(e + 1); ++row) {
        for (Index o = 0; o < out; ++o) {
          double sum = 0;
          for (Index i = 0; i < in; ++i) {
            sum += x(row, i) * w(e, o * in + i);
            expected_dw(e, o * in + i) += x(row, i) * dy(row, o);
          }
          worst = std::max(worst, std::abs(sum - y(row, o)));
        }
        for (Index i = 0; i < in; ++i) {
          double sum = 0;
          for (Index o = 0; o < out; ++o) sum += dy(row, o) * w(e, o * in + i);
          worst = std::max(worst, std::abs(sum - dx(row, i)));
        }
      }
    for (Index i = 0; i < dw.size(); ++i) worst = std::max(worst, std::abs(dw.data()[i] - expected_dw.data()[i]));
    CHECK(worst <= 300 * 2.3e-16 * 50);  // sums of at most 300 terms below 50
  }
}

TEST_CASE("grouped products give the same bits for any number of threads") {
  cpu::Context one(1), three(3);
  const auto d = random_dispatch(one, 150, 3, 4);
  auto x = fixtures::normal<float>(1, 1, d.rows(), 37), w = fixtures::normal<float>(2, 1, 4, 53 * 37), dy = fixtures::normal<float>(3, 1, d.rows(), 53);
  auto y = fixtures::poison<float>(d.rows(), 53), dx = fixtures::poison<float>(d.rows(), 37);
  Tensor<float, 2> dw(one.memory(), 4, 53 * 37);
  std::vector<float> first;
  for (auto* ctx : {&one, &three}) {
    dw.zero();
    cpu::grouped_linear<float>(*ctx, x, d, MatrixStack<const float>{w.data(), 4, 53, 37, 53 * 37}, y);
    cpu::grouped_linear_backward_input<float>(*ctx, dy, d, MatrixStack<const float>{w.data(), 4, 53, 37, 53 * 37}, dx);
    cpu::grouped_linear_backward_weight<float>(*ctx, x, dy, d, MatrixStack<float>{dw.data(), 4, 53, 37, 53 * 37});
    std::vector<float> all;
    for (const auto* result : {&y, &dx, &dw}) all.insert(all.end(), result->data(), result->data() + result->size());
    if (ctx == &one) first = all;
    CHECK(all == first);
  }
}

TEST_CASE("combine is the weighted sum of a token's rows, and its gradients") {
  cpu::Context ctx;
  const auto d = random_dispatch(ctx, 9, 3, 4);
  auto x = fixtures::normal<double>(1, 1, d.rows(), 7), weight = fixtures::normal<double>(2, 1, 9, 3), dy = fixtures::normal<double>(3, 1, 9, 7);
  auto y = fixtures::poison<double>(9, 7), dx = fixtures::poison<double>(d.rows(), 7), d_weight = fixtures::poison<double>(9, 3);
  auto loss = [&] { return cpu::combine_rows<double>(ctx, x, d, weight, y, false), finite_difference::dot(y, dy); };
  cpu::combine_rows_backward<double>(ctx, x, d, weight, dy, dx, d_weight);
  finite_difference::check("x", x.data(), dx.data(), x.size(), loss);
  finite_difference::check("weight", weight.data(), d_weight.data(), weight.size(), loss);

  auto gathered = fixtures::poison<double>(d.rows(), 7), twice = fixtures::normal<double>(3, 1, 9, 7);
  cpu::gather_rows<double>(ctx, dy, d, gathered);
  cpu::combine_rows<double>(ctx, gathered, d, {}, twice, true);  // dy + 3 dy
  for (Index i = 0; i < dy.size(); ++i) CHECK(twice.data()[i] == doctest::Approx(4 * dy.data()[i]).epsilon(1e-15));
}

TEST_CASE("counts are added, wrong shapes refused") {
  cpu::Context ctx;
  const auto d = random_dispatch(ctx, 10, 2, 4);
  Tensor<float, 1> counts(ctx.memory(), 4), few(ctx.memory(), 3);
  cpu::count_dispatched<float>(ctx, d, counts);
  cpu::count_dispatched<float>(ctx, d, counts);
  float sum = 0;
  for (float c : counts.view()) sum += c;
  CHECK(sum == 40);
  CHECK_THROWS_AS(cpu::count_dispatched<float>(ctx, d, few), Error);
  auto logits = fixtures::normal<float>(1, 1, 2, 4);
  CHECK_THROWS_AS(cpu::route<float>(ctx, logits, {counts.data(), 4}, Router{5, 1}), Error);
  CHECK_THROWS_AS(cpu::route<float>(ctx, logits, {counts.data(), 4}, Router{4, 3, 2, 1}), Error);
}
