#include <braid/cpu/moe.hpp>
#include <braid/cpu/swiglu.hpp>
#include <braid/io/safetensors.hpp>
#include <braid/layers/moe.hpp>
#include <allocations.hpp>
#include <doctest/doctest.h>
#include <finite_difference.hpp>
#include <fixtures.hpp>

#include <span>

using namespace braid;

namespace {
constexpr Config grouped = [] {  // as in tests/reference/moe.py
  Config c;
  c.dtype = DType::f64;
  c.hidden = 7, c.expert_width = 5, c.experts = 12, c.experts_per_token = 5, c.expert_groups = 4, c.groups_per_token = 2;
  c.shared_experts = 2, c.routed_scale = 1.7;
  return c;
}();
constexpr Config plain = [] {
  Config c;
  c.dtype = DType::f64;
  c.hidden = 3, c.expert_width = 2, c.experts = 5, c.experts_per_token = 2, c.renormalize = false;
  return c;
}();
constexpr Config as(DType dtype, Config c) { return c.dtype = dtype, c; }
constexpr Config without_shared = [] { auto c = grouped; return c.shared_experts = 0, c; }();
constexpr Config one_expert = [] { auto c = plain; return c.experts = c.experts_per_token = 1, c; }();

template <Config C> struct Fixture {
  using T = scalar_t<C.dtype>;
  explicit Fixture(int threads = 0) : ctx(threads), storage(ctx.memory(), moe) { storage.allocate_gradients(moe); }
  cpu::Context ctx;
  Moe<C> moe;
  ParamStorage<T> storage;
};

double distance(const auto& a, const auto& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    difference += std::pow(double(a[i]) - double(b[i]), 2);
    norm += std::pow(double(b[i]), 2);
  }
  return std::sqrt(difference / (norm + (norm == 0)));
}

template <Config C> void check_reference(const std::string& name, double tolerance) {
  using T = scalar_t<C.dtype>;
  const io::SafetensorsFile file(BRAID_TEST_DATA "/moe.safetensors");
  Fixture<C> f;
  for_each_param(f.moe, [&](const std::string& p, Param<T>& param) { file.read(name + "/" + p, param.value, param.size()); });
  const auto x = file.read<T>(name + "/x"), dy = file.read<T>(name + "/dy");
  const Index tokens = static_cast<Index>(x.size()) / C.hidden;
  auto y = fixtures::poison<T>(tokens, C.hidden), dx = fixtures::poison<T>(tokens, C.hidden);
  const View<const T, 2> in(x.data(), tokens, C.hidden), d_out(dy.data(), tokens, C.hidden);
  const auto saved = f.moe.forward(f.ctx, in, y);
  f.moe.backward(f.ctx, in, saved, d_out, dx);
  CHECK(distance(y.data(), file.read<double>(name + "/y")) <= tolerance);
  CHECK(distance(dx.data(), file.read<double>(name + "/dx")) <= tolerance);
  for_each_param(f.moe, [&](const std::string& p, Param<T>& param) {
    if (param.role != Role::balance)
      CHECK_MESSAGE(distance(param.grad, file.read<double>(name + "/grad." + p)) <= tolerance, p);
    else
      CHECK(distance(param.grad, file.read<double>(name + "/counts")) == 0);
  });
}

template <Config C> void check_gradients(Index tokens, bool one_for_all = false) {
  Fixture<C> f;
  initialize(f.moe, seed(5));
  for_each_param(f.moe, [](const std::string&, Param<double>& p) {
    for (Index i = 0; i < p.size(); ++i) p.value[i] *= 25;  // a standard deviation of 0.5
  });
  if (one_for_all) f.moe.gate.e_score_correction_bias.value[3] = 10;
  auto x = fixtures::normal<double>(1, 1, tokens, C.hidden), dy = fixtures::normal<double>(2, 1, tokens, C.hidden);
  auto y = fixtures::poison<double>(tokens, C.hidden), dx = fixtures::poison<double>(tokens, C.hidden);
  auto loss = [&] {
    auto scope = f.ctx.arena.scope();
    f.moe.forward(f.ctx, x, y);
    return finite_difference::dot(y, dy);
  };
  const auto saved = f.moe.forward(f.ctx, x, y);
  f.moe.backward(f.ctx, x, saved, dy, dx);
  finite_difference::check("x", x.data(), dx.data(), x.size(), loss);
  finite_difference::check_parameters(f.moe, loss);
  double received = 0;
  for (double n : f.moe.gate.e_score_correction_bias.grad_vector()) received += n;
  CHECK(received == double(tokens * C.experts_per_token));
  if (one_for_all) CHECK(f.moe.gate.e_score_correction_bias.grad[3] == double(tokens));
}
}  // namespace

// Tolerances: products of at most 55 terms and six of them in a row; the sum of roundings stays below 100 units in the last place.
TEST_CASE("outputs and gradients against PyTorch") {
  check_reference<grouped>("grouped", 100 * 2.3e-16);
  check_reference<plain>("plain", 100 * 2.3e-16);
  check_reference<as(DType::f32, grouped)>("grouped", 100 * 1.2e-7);
  check_reference<as(DType::f32, plain)>("plain", 100 * 1.2e-7);
}

TEST_CASE("gradients by finite differences") {
  check_gradients<grouped>(6);
  check_gradients<plain>(1);
  check_gradients<without_shared>(4);
  check_gradients<one_expert>(5);
  check_gradients<plain>(70, true);  // all tokens to one expert, more than one tile of rows
}

TEST_CASE("names and counts") {
  Fixture<grouped> f;
  Index count = 0, layers = 0;
  std::string first, last;
  for_each_param(f.moe, [&](const std::string& name, Param<double>& p) {
    count += p.size();
    ++layers;
    if (name == "experts.11.w2.weight") CHECK(p.shape == decltype(p.shape){7, 5});
    if (first.empty()) first = name;
    last = name;
  });
  CHECK(first == "gate.weight");
  CHECK(last == "shared_experts.down_proj.weight");
  CHECK(layers == 2 + 3 * 12 + 3);
  CHECK(count == Moe<grouped>::parameter_count);
  CHECK(Moe<grouped>::activated_count == count - (12 - 5) * 3 * 7 * 5);
}

TEST_CASE("no tokens") {
  Fixture<without_shared> f;
  Tensor<double, 2> none(f.ctx.memory(), 0, 7), out(f.ctx.memory(), 0, 7);
  const auto saved = f.moe.forward(f.ctx, none, out);
  f.moe.backward(f.ctx, none, saved, none, out);
  for (Index i = 0; i < f.storage.size(); ++i) CHECK(f.storage.grads()[i] == 0);
}

TEST_CASE("a step again gives the same bits and allocates nothing; more threads change roundings only") {
  constexpr Config config = as(DType::f32, grouped);
  Fixture<config> one(1), three(3);
  auto x = fixtures::normal<float>(1, 1, 150, 7), dy = fixtures::normal<float>(2, 1, 150, 7);
  auto step = [&](auto& f, View<float, 2> out, View<float, 2> d_in) {
    auto scope = f.ctx.arena.scope();
    const auto saved = f.moe.forward(f.ctx, x, out);
    f.moe.backward(f.ctx, x, saved, dy, d_in);
  };
  initialize(one.moe, seed(1));
  initialize(three.moe, seed(1));
  auto y = fixtures::poison<float>(150, 7), dx = fixtures::poison<float>(150, 7);
  step(one, y, dx);
  for (auto* other : {&three, &one}) {
    auto y2 = fixtures::poison<float>(150, 7), dx2 = fixtures::poison<float>(150, 7);
    const std::size_t reserved = one.ctx.arena.reserved();
    const long before = allocations::count;
    step(*other, y2, dx2);
    if (other == &one) CHECK(allocations::count == before);
    CHECK(one.ctx.arena.reserved() == reserved);
    const double tolerance = other == &one ? 0 : 100 * 1.2e-7;
    CHECK(distance(y2.data(), std::span(y.data(), std::size_t(y.size()))) <= tolerance);
    CHECK(distance(dx2.data(), std::span(dx.data(), std::size_t(dx.size()))) <= tolerance);
  }
}

TEST_CASE("experts that are not laid out evenly are refused") {
  Fixture<plain> f;
  f.moe.experts.list[4].w1.value += 1;
  auto x = fixtures::normal<double>(1, 1, 2, 3), y = fixtures::poison<double>(2, 3);
  CHECK_THROWS_AS(f.moe.forward(f.ctx, x, y), Error);
}
