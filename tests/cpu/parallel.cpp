// Work over threads: every piece once, whoever else calls, whatever is thrown.
#include <braid/cpu/parallel.hpp>

#include <doctest/doctest.h>

#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

using namespace braid;

TEST_CASE("every piece is done exactly once, over and over") {
  const cpu::Context ctx(4);
  for (int round = 0; round < 2000; ++round) {
    const Index count = round % 37;
    std::vector<int> times(static_cast<std::size_t>(count), 0);
    cpu::parallel_for(ctx, count, [&](Index i) { ++times[static_cast<std::size_t>(i)]; });
    REQUIRE(times == std::vector<int>(times.size(), 1));
  }
}

TEST_CASE("a thread has a number of its own, below the context's threads") {
  const cpu::Context wide(5), narrow(3);
  cpu::parallel_for(wide, 100, [](Index) {});  // five threads are there now
  std::vector<int> busy(3, 0);
  for (int round = 0; round < 500; ++round)
    cpu::parallel_for(narrow, 20, [&](Index) {
      const int n = cpu::thread_number();
      if (n < 0 || n >= 3 || busy[static_cast<std::size_t>(n)]++ != 0) throw std::runtime_error("shared");
      --busy[static_cast<std::size_t>(n)];
    });
  CHECK(busy == std::vector<int>(3, 0));
  CHECK(cpu::thread_number() == 0);
}

TEST_CASE("an exception reaches the caller, and the next call works") {
  const cpu::Context ctx(3);
  for (int round = 0; round < 200; ++round) {
    CHECK_THROWS_WITH(cpu::parallel_for(ctx, 50, [](Index i) { if (i == 7) throw std::runtime_error("seven"); }), "seven");
    std::vector<Index> squares(50);
    cpu::parallel_for(ctx, 50, [&](Index i) { squares[static_cast<std::size_t>(i)] = i * i; });
    CHECK(squares[49] == 49 * 49);
  }
}

TEST_CASE("inside a piece it runs serially; callers at the same time do not meet") {
  const auto sum = [] {
    const cpu::Context ctx(3);
    std::vector<Index> rows(40, 0);
    cpu::parallel_for(ctx, 40, [&](Index i) {
      cpu::parallel_for(ctx, 10, [&](Index j) { rows[static_cast<std::size_t>(i)] += i * j; });
    });
    return std::accumulate(rows.begin(), rows.end(), Index{0});
  };
  std::vector<Index> sums(4, 0);
  std::vector<std::thread> callers;
  for (std::size_t c = 0; c < sums.size(); ++c)
    callers.emplace_back([&, c] {
      for (int round = 0; round < 200; ++round) sums[c] += sum();
    });
  for (auto& caller : callers) caller.join();
  CHECK(sums == std::vector<Index>(4, 200 * 45 * (39 * 40 / 2)));
}

TEST_CASE("a context has at least one thread, and says no to fewer than none") {
  CHECK(cpu::Context().threads() >= 1);
  CHECK_THROWS_WITH_AS(cpu::Context(-1), "cpu::Context: expected threads >= 0, found -1", Error);
}
