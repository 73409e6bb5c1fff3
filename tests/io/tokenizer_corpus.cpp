// The corpus of fuzz.tiktoken, run as a test.
#include <fuzz/tiktoken.hpp>

#include <doctest/doctest.h>

#include <filesystem>

TEST_CASE("every input of the corpus is refused or makes a round trip") {
  int inputs = 0, accepted = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::filesystem::path(BRAID_TEST_DATA) / "../fuzz/corpus/tiktoken")) {
    INFO(entry.path().string());
    accepted += braid::fuzz::tiktoken(braid::io::read_text(entry.path()));
    ++inputs;
  }
  CHECK(accepted > 0);
  CHECK(accepted < inputs);
}
