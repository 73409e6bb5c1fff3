#include <braid/cpu/backend.hpp>

#include <doctest/doctest.h>
#include <gradient_check.hpp>

using namespace braid;
using braid_test::gradient_error;
using braid_test::gradient_tolerance;
using braid_test::normal;

TEST_CASE("rms_norm: value, gradients, any width") {
  cpu::Context ctx(2);
  for (Index n : {1, 7, 16, 33}) {
    const Index rows = 70;
    auto x = normal(rows * n, 1), w = normal(n, 2), r = normal(rows * n, 3);
    std::vector<double> y(x.size(), NAN), dx(x.size(), NAN), dw(w.size(), 0);
    const View<double, 2> vx(x.data(), rows, n), vy(y.data(), rows, n), vr(r.data(), rows, n), vdx(dx.data(), rows, n);
    const View<double, 1> vw(w.data(), n), vdw(dw.data(), n);
    auto loss = [&] {
      cpu::rms_norm<double>(ctx, vx, vw, 1e-5, vy);
      double sum = 0;
      for (std::size_t i = 0; i < y.size(); ++i) sum += y[i] * r[i];
      return sum;
    };
    loss();
    double mean = 0;
    for (Index i = 0; i < n; ++i) mean += x[size_t(i)] * x[size_t(i)] / double(n);
    CHECK(y[0] == doctest::Approx(w[0] * x[0] / std::sqrt(mean + 1e-5)).epsilon(1e-12));
    cpu::rms_norm_backward<double>(ctx, vx, vw, 1e-5, vr, vdx, vdw);
    if (n > 1) CHECK(gradient_error(loss, x.data(), dx.data(), rows * n) < gradient_tolerance);
    CHECK(gradient_error(loss, w.data(), dw.data(), n) < gradient_tolerance);
  }
}

TEST_CASE("short_conv: zeros before the first token, the tail afterwards") {
  cpu::Context ctx(2);
  const Index channels = 67, width = 4;
  auto x = normal(9 * channels, 1), w = normal(channels * width, 2);
  std::vector<double> y(x.size(), NAN), tail(2 * 3 * std::size_t(channels), 0), pieces(x.size(), NAN);
  const View<double, 2> vx(x.data(), 9, channels), vy(y.data(), 9, channels), vw(w.data(), channels, width);
  cpu::short_conv<double>(ctx, vx, vw, Batch(9), vy);
  auto z = [&](Index t, Index c) {
    double sum = 0;
    for (Index j = 0; j < width; ++j)
      if (t - 3 + j >= 0) sum += vw(c, j) * vx(t - 3 + j, c);
    return sum / (1 + std::exp(-sum));
  };
  for (Index t = 0; t < 9; ++t)
    for (Index c = 0; c < channels; ++c) CHECK(vy(t, c) == doctest::Approx(z(t, c)).epsilon(1e-10));
  const View<double, 3> memory(tail.data(), 2, 3, channels);
  Index at = 0;
  for (Index part : {1, 2, 0, 5, 1}) {
    cpu::short_conv<double>(ctx, vx.slice(at, part), vw, Batch({0, part}, {1}), View<double, 2>(pieces.data(), 9, channels).slice(at, part),
                            memory);
    at += part;
  }
  CHECK(pieces == y);  // to the bit
  for (Index i = 0; i < 3 * channels; ++i) CHECK(tail[std::size_t(i)] == 0);  // slot 0 was not named
}
