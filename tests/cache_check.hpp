// A layer with a cache gives the same outputs however its tokens are fed. For any mixer: forward(ctx, x, batch, y, cache), Cache.
#pragma once

#include <braid/core/batch.hpp>
#include <braid/core/param.hpp>
#include <braid/cpu/context.hpp>

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

namespace braid_test {

using braid::Batch;
using braid::Index;
using braid::View;

template <class Layer> class CacheCheck {
 public:
  using T = typename Layer::T;
  using Vector = std::vector<T>;

  /// `tolerance` relative to the largest output.
  CacheCheck(Index size, double allowed, int threads = 1) : hidden(size), tolerance(allowed), ctx(threads), storage(ctx.memory(), layer) {
    initialize(layer, braid::seed(5));
  }

  /// Random inputs of one sequence.
  Vector input(Index tokens, std::uint64_t seed) const {
    braid::Random random(braid::seed(seed));
    Vector x(static_cast<std::size_t>(tokens * hidden));
    for (T& v : x) v = static_cast<T>(random.normal());
    return x;
  }

  /// One call for a batch; `rows` lie end to end.
  Vector run(Vector rows, const Batch& batch, typename Layer::Cache* cache = nullptr) {
    Vector y(rows.size(), std::numeric_limits<T>::quiet_NaN());
    auto scope = ctx.arena.scope();
    layer.forward(ctx, View<T, 2>(rows.data(), tokens(rows), hidden), batch, View<T, 2>(y.data(), batch.tokens(), hidden), cache);
    return y;
  }

  /// One sequence into slot 1 of a fresh cache of three, in pieces that end at `cuts`.
  Vector in_pieces(const Vector& x, std::vector<Index> cuts) {
    typename Layer::Cache cache(ctx.memory(), 3, tokens(x));
    Vector y;
    Index at = 0;
    for (Index cut : cuts) {
      const auto part = run(part_of(x, at, cut), Batch({0, cut - at}, {1}), &cache);
      y.insert(y.end(), part.begin(), part.end());
      at = cut;
    }
    return y;
  }

  void same(const Vector& a, const Vector& b, const std::string& what) const {
    double worst = 0, largest = 0;
    REQUIRE(a.size() == b.size());
    for (std::size_t i = 0; i < a.size(); ++i) {
      const double error = std::abs(double(a[i]) - double(b[i]));
      worst = std::isnan(error) ? error : std::max(worst, error);
      largest = std::max(largest, std::abs(double(b[i])));
    }
    CHECK_MESSAGE(worst <= tolerance * largest, what, ": ", worst, " of ", largest);
  }

  /// Two pieces at every cut (also empty ones), token by token, and three pieces shorter than a convolution.
  void every_split(Index length) {
    const auto x = input(length, 7), whole = run(x, Batch(length));
    for (Index cut = 0; cut <= length; ++cut) same(in_pieces(x, {cut, length}), whole, "cut at " + std::to_string(cut));
    std::vector<Index> each;
    for (Index t = 1; t <= length; ++t) each.push_back(t);
    same(in_pieces(x, each), whole, "token by token");
    same(in_pieces(x, {1, 3, 3, 5, length}), whole, "short pieces");
  }

  /// Sequences that prefill, decode, pause and end in one batch, in slots of any order; a slot that is not named stays as it is.
  void mixed_batches() {
    const auto a = input(20, 1), b = input(9, 2), c = input(14, 3);
    const auto ya = run(a, Batch(20)), yb = run(b, Batch(9)), yc = run(c, Batch(14));
    typename Layer::Cache cache(ctx.memory(), 5, 20);
    auto step = [&](std::vector<Vector> parts, std::vector<Index> slots, std::vector<Vector> wanted, const std::string& what) {
      Vector rows, want;
      std::vector<Index> offsets{0};
      for (std::size_t i = 0; i < parts.size(); ++i) {
        rows.insert(rows.end(), parts[i].begin(), parts[i].end());
        want.insert(want.end(), wanted[i].begin(), wanted[i].end());
        offsets.push_back(tokens(rows));
      }
      same(run(rows, Batch(offsets, slots), &cache), want, what);
    };
    step({part_of(b, 0, 5), part_of(a, 0, 13)}, {4, 0}, {part_of(yb, 0, 5), part_of(ya, 0, 13)}, "two prefills");
    step({part_of(a, 13, 14), {}, part_of(c, 0, 11)}, {0, 4, 2}, {part_of(ya, 13, 14), {}, part_of(yc, 0, 11)}, "decode, pause, prefill");
    step({part_of(c, 11, 12), part_of(b, 5, 6), part_of(a, 14, 15)}, {2, 4, 0}, {part_of(yc, 11, 12), part_of(yb, 5, 6), part_of(ya, 14, 15)},
         "decode in any order");
    cache.reset(4);
    step({part_of(b, 0, 9), part_of(a, 15, 20)}, {4, 0}, {yb, part_of(ya, 15, 20)}, "a slot used again");
    step({part_of(c, 12, 14)}, {2}, {part_of(yc, 12, 14)}, "the rest");
  }

  Index tokens(const Vector& x) const { return static_cast<Index>(x.size()) / hidden; }
  Vector part_of(const Vector& x, Index begin, Index end) const { return Vector(x.begin() + begin * hidden, x.begin() + end * hidden); }

  Index hidden;
  double tolerance;
  braid::cpu::Context ctx;
  Layer layer;
  braid::ParamStorage<T> storage;
};

}  // namespace braid_test
