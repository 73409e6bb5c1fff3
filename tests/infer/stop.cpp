#include <braid/core/random.hpp>
#include <braid/infer/stop.hpp>

#include <doctest/doctest.h>

#include <string>
#include <vector>

using braid::StopStrings;

namespace {
struct Expected {
  std::string shown, found;
};

// The definition: the first byte at which some string is complete, the longest of those; the text ends where it begins.
Expected definition(const std::string& text, const std::vector<std::string>& strings) {
  for (std::size_t end = 1; end <= text.size(); ++end) {
    std::string longest;
    for (const std::string& s : strings)
      if (s.size() > longest.size() && s.size() <= end && text.compare(end - s.size(), s.size(), s) == 0) longest = s;
    if (!longest.empty()) return {text.substr(0, end - longest.size()), longest};
  }
  return {text, ""};
}

std::string random_text(braid::Random& random, std::size_t length) {
  std::string out;
  while (out.size() < length) out.push_back(static_cast<char>('a' + random.below(2)));
  return out;
}
}  // namespace

TEST_CASE("text passes until a stop string, across any boundaries") {
  StopStrings stop({"STOP", "\n\n"});
  CHECK(stop.push("go S") == "go ");
  CHECK(stop.push("T") == "");
  CHECK(stop.push("x ") == "STx ");
  CHECK_FALSE(stop.stopped());
  CHECK(stop.push("\n") == "");
  CHECK(stop.push("S") == "\n");
  CHECK(stop.push("TOP and more") == "");
  CHECK(stop.stopped());
  CHECK(stop.found() == "STOP");
  CHECK(stop.push("never shown") == "");
  CHECK(stop.finish() == "");
  stop.reset();
  CHECK_FALSE(stop.stopped());
  CHECK(stop.push("ST") == "");
  CHECK(stop.finish() == "ST");
}

TEST_CASE("no stop strings: everything passes at once") {
  StopStrings stop;
  CHECK(stop.push("abc") == "abc");
  CHECK(stop.finish() == "");
}

TEST_CASE("an empty stop string is refused") { CHECK_THROWS_AS(StopStrings({"a", ""}), braid::Error); }

// Two letters and short strings: overlaps, repeats, strings within strings.
TEST_CASE("the result is that of the definition, however the text is cut, and no more is held back than must be") {
  braid::Random random(braid::seed(5));
  for (int i = 0; i < 20000; ++i) {
    std::vector<std::string> strings(random.below(4));
    for (std::string& s : strings) s = random_text(random, 1 + random.below(6));
    const std::string text = random_text(random, random.below(30));
    const Expected expected = definition(text, strings);

    StopStrings stop(strings);
    std::string shown;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t n = std::min<std::size_t>(1 + random.below(4), text.size() - at);
      shown += stop.push(std::string_view(text).substr(at, n));
      at += n;
      if (stop.stopped()) continue;
      std::size_t pending = 0;  // the longest end of the text so far that begins a stop string
      for (const std::string& s : strings)
        for (std::size_t k = 1; k < s.size() && k <= at; ++k)
          if (text.compare(at - k, k, s, 0, k) == 0) pending = std::max(pending, k);
      CHECK(shown == text.substr(0, at - pending));
    }
    shown += stop.finish();
    CHECK(shown == expected.shown);
    CHECK(stop.found() == expected.found);
  }
}
