// Tokens to text for the reader: whole characters, and nothing of a stop string, however the tokens cut them.
#include <braid/infer/text.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

using namespace braid;

namespace {
/// Every byte is a token, and nothing else is.
io::Tokenizer bytes_only() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  return io::Tokenizer(io::Vocabulary(tokens));
}

struct Shown {
  std::vector<std::string> steps;
  std::string all;
  bool stopped;
};

Shown show(const std::string& text, std::vector<std::string> stop) {
  const auto tokenizer = bytes_only();
  TextOutput output(tokenizer, std::move(stop));
  Shown shown;
  for (const Token token : tokenizer.encode(text)) shown.all += shown.steps.emplace_back(output.push(token));
  shown.all += output.finish();
  shown.stopped = output.stopped();
  return shown;
}
}  // namespace

TEST_CASE("characters appear whole") {
  const Shown shown = show("a\xE2\x82\xAC!", {});
  CHECK(shown.steps == std::vector<std::string>{"a", "", "", "\xE2\x82\xAC", "!"});
  CHECK_FALSE(shown.stopped);
}

TEST_CASE("a stop string of several bytes and characters is never shown in part") {
  for (const std::string stop : {"END", "\xE2\x82\xAC", "D\xE2\x82\xAC"}) {
    const Shown shown = show("one D E EN " + stop + " two", {stop});
    CHECK(shown.all == "one D E EN ");
    CHECK(shown.stopped);
  }
}

TEST_CASE("what was held back appears at the end: an unfinished character, the beginning of a stop string") {
  const auto tokenizer = bytes_only();
  TextOutput unfinished(tokenizer);
  const auto tokens = tokenizer.encode("\xE2\x82\xAC");
  CHECK(unfinished.push(tokens[0]) == "");
  CHECK(unfinished.push(tokens[1]) == "");
  CHECK(unfinished.finish() == "\xE2\x82");
  CHECK(show("the EN", {"END"}).all == "the EN");
}
