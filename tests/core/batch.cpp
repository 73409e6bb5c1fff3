#include <braid/core/batch.hpp>

#include <doctest/doctest.h>

#include <string>

using braid::Batch;
using braid::Index;

namespace {
std::string message(auto&& f) {
  try {
    f();
  } catch (const braid::Error& e) {
    return e.what();
  }
  return {};
}
}  // namespace

TEST_CASE("a batch knows its sequences") {
  Batch batch({0, 3, 3, 10}, {2, 0, 5});
  CHECK(batch.sequences() == 3);
  CHECK(batch.tokens() == 10);
  CHECK(batch.length(1) == 0);
  CHECK(batch.longest() == 7);
  CHECK(batch.slot(2) == 5);
  CHECK(Batch(4, 8).begin(3) == 24);
  CHECK(Batch(5).sequences() == 1);
}

TEST_CASE("offsets that do not ascend are refused, with the place") {
  CHECK(message([] { Batch({0, 5, 4}); }).find("offsets[1] = 5 followed by offsets[2] = 4") != std::string::npos);
  CHECK(message([] { Batch(std::vector<Index>{1, 5}); }).find("offsets[0] = 0") != std::string::npos);
  CHECK(message([] { Batch(std::vector<Index>{0}); }).find("two entries") != std::string::npos);
  CHECK(message([] { Batch(std::vector<Index>{}); }).find("two entries") != std::string::npos);
  CHECK(message([] { Batch({0, 1, 2}, {1, 1}); }).find("slot 1 twice") != std::string::npos);
}
