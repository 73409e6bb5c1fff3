#include <braid/cpu/linear.hpp>
#include <doctest/doctest.h>
#include <fixtures.hpp>

#include <cmath>
#include <cstdint>
#include <utility>

using namespace braid;

namespace {

/// Element (i, j) of c + alpha a b^T is off by at most (k + 2) roundings of the sum of magnitudes, to first order; the test allows twice that.
template <class T> void check_product(Index m, Index n, Index k) {
  constexpr Index gap = 3;  // rows lie further apart than they are long
  const T alpha = T(0.75);
  const auto a = fixtures::normal<T>(1, 1, m, k + gap), b = fixtures::normal<T>(2, 1, n, k + gap), before = fixtures::normal<T>(3, 1, m, n + gap);
  for (bool accumulate : {false, true}) {
    auto c = fixtures::poison<T>(m, n + gap);
    if (accumulate) std::copy_n(before.data(), before.size(), c.data());
    cpu::gemm_nt<T>(m, n, k, alpha, a.data(), k + gap, b.data(), k + gap, c.data(), n + gap, accumulate);
    for (Index i = 0; i < m; ++i)
      for (Index j = 0; j < n; ++j) {
        long double expected = accumulate ? before(i, j) : 0, size = std::abs(expected);
        for (Index l = 0; l < k; ++l) {
          const long double term = static_cast<long double>(alpha) * a(i, l) * b(j, l);
          expected += term, size += std::abs(term);
        }
        CHECK(std::abs(c(i, j) - expected) <= static_cast<long double>(k + 2) * std::numeric_limits<T>::epsilon() * size);
      }
    for (Index i = 0; i < m; ++i)  // nothing is written between the rows
      for (Index j = n; j < n + gap; ++j) CHECK((accumulate ? c(i, j) == before(i, j) : std::isnan(c(i, j))));
  }
}

}  // namespace

TEST_CASE_TEMPLATE("x W^T of few rows and of more, lengths around the packs", T, float, double) {
  for (Index m : {1, 2, 3, 4, 5, 7, 8, 9})
    for (Index k : {0, 1, 15, 16, 17, 127, 128, 129, 200}) check_product<T>(m, 5, k);
}

TEST_CASE("few rows: the same bits for every number of threads") {
  cpu::Context one(1);
  for (Index rows : {1, 3, 4, 8})
    for (auto [outputs, inputs] : {std::pair<Index, Index>{7, 300}, {500, 301}, {9, 40000}}) {
      const Index out = outputs, in = inputs;  // clang 14 does not capture a structured binding
      const auto x = fixtures::normal<float>(1, 1, rows, in), w = fixtures::normal<float>(2, 1, out, in);
      auto expected = fixtures::poison<float>(rows, out);
      cpu::linear<float>(one, x, w, expected);
      for (int threads : {2, 3, 5}) {
        cpu::Context ctx(threads);
        auto y = fixtures::poison<float>(rows, out);
        cpu::linear<float>(ctx, x, w, y);
        INFO(rows, " rows, ", out, " x ", in, ", ", threads, " threads");
        CHECK(std::equal(y.data(), y.data() + y.size(), expected.data()));
      }
    }
}

TEST_CASE("large memory is aligned to large pages and whole") {
  constexpr std::size_t page = std::size_t{2} << 20;
  Memory& memory = cpu::host_memory();
  for (std::size_t bytes : {std::size_t{1}, Memory::alignment + 1, 4 * page - 1, 4 * page, 5 * page + 1}) {
    Buffer buffer(memory, bytes);
    buffer.zero();
    const auto address = reinterpret_cast<std::uintptr_t>(buffer.data());
    CHECK(address % (bytes < 4 * page ? Memory::alignment : page) == 0);
    CHECK(static_cast<const char*>(buffer.data())[bytes - 1] == 0);
  }
}
