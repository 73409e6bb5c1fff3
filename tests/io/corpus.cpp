// The corpora of the fuzz programs, run as a test: every input that was ever interesting stays so, under any compiler.
#include <fuzz/checks.hpp>

#include <doctest/doctest.h>

namespace fs = std::filesystem;

namespace {
/// Runs `check` over a corpus; returns how many inputs it accepted.
template <class F> int run(const std::string& name, F&& check) {
  int accepted = 0, inputs = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(BRAID_TEST_DATA) / "../fuzz/corpus" / name)) {
    INFO(entry.path().string());
    accepted += check(braid::io::read_text(entry.path()));
    ++inputs;
  }
  CHECK_GT(inputs, accepted);  // there are bad ones among them
  return accepted;
}
}  // namespace

TEST_CASE("headers") { CHECK_GE(run("header", braid::fuzz::header), 4); }
TEST_CASE("config.json") { CHECK_GE(run("config", braid::fuzz::config), 5); }
TEST_CASE("indexes") { CHECK_GE(run("index", braid::fuzz::index), 2); }
