#include <braid/cpu/context.hpp>
#include <braid/cpu/optimizer.hpp>
#include <braid/train/optimizer.hpp>
#include <braid/train/schedule.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

using namespace braid;

namespace {

/// A layer with one parameter of each role.
template <class T> struct Toy {
  Param<T> weight, embedding, norm, bias;
  Toy(Index rows, Index cols)
      : weight{.shape = {rows, cols}}, embedding{.shape = {5, 1}, .role = Role::embedding},
        norm{.shape = {5}, .role = Role::vector}, bias{.shape = {4}, .init = Init::zeros, .role = Role::balance} {}
  template <class V> void visit(V&& v) { v("weight", weight), v("embedding", embedding), v("norm", norm), v("bias", bias); }
};

/// Two matrices and an embedding larger than one block of every reduction.
struct Wide {
  using T = float;
  Param<float> a{.shape = {37, 53}}, b{.shape = {64, 8}}, c{.shape = {300, 301}, .role = Role::embedding};
  template <class V> void visit(V&& v) { v("a", a), v("b", b), v("c", c); }
};

template <class T> struct Bound {
  Toy<T> layer;
  ParamStorage<T> storage;
  Bound(Memory& memory, Index rows, Index cols) : layer(rows, cols), storage(memory, layer) {
    storage.allocate_gradients(layer);
    for (Param<T>* p : {&layer.weight, &layer.embedding, &layer.norm})
      for (Index i = 0; i < p->size(); ++i) p->value[i] = T(std::cos(double(i)));
  }
  /// The gradients of tests/reference/optimizer.py, times `scale`.
  void set_gradients(int step, double scale = 1) {
    for (Param<T>* p : {&layer.weight, &layer.embedding, &layer.norm})
      for (Index i = 0; i < p->size(); ++i) p->grad[i] = T(scale * std::sin(0.7 * double(i) + 1.3 * step));
  }
};

// Printed by tests/reference/optimizer.py.
constexpr double adamw_expected[] = {0.97522050001204597, 0.52771867319356458, -0.41169399431435416, -0.9573555628847914,
                                     -0.62644842593364181};
constexpr double muon_wide[] = {0.99585845420263142, 0.54093821219651783, -0.41030536595528794, -0.9822528855454552,
                                -0.64704465847210413, 0.28750135006977379, 0.95982581317635562, 0.75082844003199301};
constexpr double muon_tall[] = {0.99154876399238068, 0.54044349437306916, -0.41520011368550924, -0.98151362639025463,
                                -0.64633255519753929, 0.28292524532691377, 0.95941248558354419, 0.74616942593052493};

double distance(const double* expected, const auto* found, Index n) {
  double worst = 0;
  for (Index i = 0; i < n; ++i) worst = std::max(worst, std::abs(expected[i] - double(found[i])));
  return worst;
}

}  // namespace

TEST_CASE_TEMPLATE("AdamW agrees with torch.optim.AdamW", T, float, double) {
  cpu::Context ctx;
  Bound<T> b(ctx.memory(), 2, 4);
  Optimizer<T> optimizer(ctx.memory(), b.layer, AdamW{});
  for (int t = 1; t <= 4; ++t) {
    b.set_gradients(t, 4);  // as if the gradients were four times too long, and clipped
    optimizer.step(ctx, 0.01, 0.25);
  }
  // Each of 4 steps rounds a handful of operations on numbers below 1.
  CHECK(distance(adamw_expected, b.layer.embedding.value, 5) < 64 * double(std::numeric_limits<T>::epsilon()));
  CHECK(distance(adamw_expected, b.layer.weight.value, 5) < 64 * double(std::numeric_limits<T>::epsilon()));
}

TEST_CASE_TEMPLATE("Muon agrees with its formula in float64, for wide and tall matrices", T, float, double) {
  cpu::Context ctx;
  for (const bool wide : {true, false}) {
    Bound<T> b(ctx.memory(), wide ? 2 : 4, wide ? 4 : 2);
    Optimizer<T> optimizer(ctx.memory(), b.layer, Muon{});
    for (int t = 1; t <= 3; ++t) {
      b.set_gradients(t);
      optimizer.step(ctx, 0.01);
    }
    // The iteration multiplies an error of a small singular value by up to 3.4445 five times (485); the update's scale is 0.004.
    CHECK(distance(wide ? muon_wide : muon_tall, b.layer.weight.value, 8) < 64 * double(std::numeric_limits<T>::epsilon()));
  }
}

TEST_CASE("under Muon the rest is trained by AdamW, vectors do not decay and balance follows the counts") {
  cpu::Context ctx;
  Bound<double> b(ctx.memory(), 2, 4);
  Optimizer<double> optimizer(ctx.memory(), b.layer, Muon{.rest = {.balance_rate = 0.5}});
  const double counts[] = {3, 1, 2, 2};
  std::copy_n(counts, 4, b.layer.bias.grad);
  optimizer.step(ctx, 0.1);  // gradients are zero: what moves, moves by decay
  CHECK(b.layer.embedding.value[0] == doctest::Approx(0.99));
  CHECK(b.layer.weight.value[0] == doctest::Approx(0.99));
  CHECK(b.layer.norm.value[0] == 1);
  CHECK(b.layer.bias.value[0] == -0.5);
  CHECK(b.layer.bias.value[1] == 0.5);
  CHECK(b.layer.bias.value[2] == 0);
  CHECK(optimizer.gradient_norm(ctx) == 0);  // counts are no gradient
  CHECK(optimizer.slots()[0].second.data == nullptr);
  CHECK(optimizer.slots()[3].first.data == nullptr);
}

TEST_CASE("Newton-Schulz brings singular values near 1, whatever the shape") {
  cpu::Context ctx;
  for (auto [rows, cols] : {std::pair<Index, Index>{1, 1}, {1, 7}, {7, 1}, {16, 16}, {5, 33}, {33, 5}}) {
    Tensor<double, 2> x(ctx.memory(), rows, cols);
    Random random(seed(7), std::uint64_t(rows * 100 + cols));
    for (double& e : x.view()) e = random.normal();
    auto scope = ctx.arena.scope();
    auto scratch = ctx.arena.take<double>(cpu::detail::orthogonalize_scratch(rows, cols));
    cpu::detail::orthogonalize(x.view(), 5, scratch.data);
    double squares = 0;  // = sum of the squared singular values, of which there are min(rows, cols)
    for (double e : x.view()) squares += e * e;
    const double mean = std::sqrt(squares / double(std::min(rows, cols)));
    CHECK(mean > 0.65);  // the five-fold polynomial maps [0.01, 1] into [0.65, 1.21]
    CHECK(mean < 1.21);
  }
}

TEST_CASE("results are the same bits for any number of threads") {
  std::vector<float> first;
  double first_norm = 0;
  for (int threads : {1, 2, 3}) {
    cpu::Context ctx(threads);
    Wide layer;
    ParamStorage<float> storage(ctx.memory(), layer);
    storage.allocate_gradients(layer);
    initialize(layer, seed(3));
    Random random(seed(5));
    for (Index i = 0; i < storage.size(); ++i) storage.grads()[i] = float(random.normal());
    Optimizer<float> optimizer(ctx.memory(), layer, Muon{});
    const double norm = optimizer.gradient_norm(ctx);
    optimizer.step(ctx, 0.01, clip_factor(norm, 1));
    std::vector<float> values(storage.values(), storage.values() + storage.size());
    if (first.empty()) first = values, first_norm = norm;
    CHECK(values == first);
    CHECK(norm == first_norm);
  }
}

TEST_CASE("an optimiser without gradients says so") {
  cpu::Context ctx;
  Toy<float> layer(2, 2);
  ParamStorage<float> storage(ctx.memory(), layer);
  CHECK_THROWS_WITH_AS(Optimizer<float>(ctx.memory(), layer, AdamW{}),
                       doctest::Contains("weight without one"), Error);
}

TEST_CASE("a steady step allocates nothing") {
  cpu::Context ctx;
  Bound<float> b(ctx.memory(), 24, 40);
  Optimizer<float> optimizer(ctx.memory(), b.layer, Muon{});
  auto step = [&] {
    b.set_gradients(1);
    optimizer.step(ctx, 0.01, clip_factor(optimizer.gradient_norm(ctx), 1));
  };
  step(), step();
  const std::size_t reserved = ctx.arena.reserved();
  step();
  CHECK(ctx.arena.reserved() == reserved);
}

TEST_CASE("clipping shortens only what is too long") {
  CHECK(clip_factor(4, 1) == 0.25);
  CHECK(clip_factor(0.5, 1) == 1);
  CHECK(clip_factor(0, 1) == 1);
  CHECK(clip_factor(4, 0) == 1);
}

TEST_CASE("schedules") {
  const Wsd wsd{.peak = 2, .warmup = 4, .steps = 20, .decay = 10, .floor = 0.5};
  CHECK(wsd(0) == 0.5);
  CHECK(wsd(3) == 2);
  CHECK(wsd(10) == 2);
  CHECK(wsd(15) == 1.25);
  CHECK(wsd(20) == 0.5);
  CHECK(wsd(1000) == 0.5);
  CHECK(Wsd{.peak = 2}(0) == 0);  // no steps planned: over before it began
  const Cosine cosine{.peak = 2, .warmup = 4, .steps = 14, .floor = 0.5};
  CHECK(cosine(0) == 0.5);
  CHECK(cosine(4) == 2);
  CHECK(cosine(9) == doctest::Approx(1.25));
  CHECK(cosine(14) == doctest::Approx(0.5));
  CHECK(cosine(99) == doctest::Approx(0.5));
  CHECK(Constant{0.1}(7) == 0.1);
}
