#include <braid/core/random.hpp>
#include <braid/io/utf8.hpp>

#include <doctest/doctest.h>

#include <string>

using namespace braid::io;

namespace {
std::string utf8(char32_t c) {
  auto tail = [&](int shift) { return static_cast<char>(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x80) return {static_cast<char>(c)};
  if (c < 0x800) return {static_cast<char>(0xC0 | c >> 6), tail(0)};
  if (c < 0x10000) return {static_cast<char>(0xE0 | c >> 12), tail(6), tail(0)};
  return {static_cast<char>(0xF0 | c >> 18), tail(12), tail(6), tail(0)};
}
const std::string mark = "\xEF\xBF\xBD";
}  // namespace

TEST_CASE("every character is valid, every surrogate is not") {
  for (char32_t c = 0; c < 0x110000; ++c) {
    const std::string text = utf8(c);
    const Utf8 first = Utf8::first(text);
    const bool surrogate = c >= 0xD800 && c < 0xE000;
    if (first.valid == surrogate || (!surrogate && (first.code != c || first.length != text.size()))) {
      CAPTURE(static_cast<unsigned>(c));
      FAIL("wrong");
    }
  }
  CHECK_FALSE(Utf8::first("\xF4\x90\x80\x80").valid);
  CHECK_FALSE(Utf8::first("\xC1\xBF").valid);
}

// The expected values are those of Python's bytes.decode("utf-8", "replace").
TEST_CASE("invalid bytes become U+FFFD, one for every maximal subpart") {
  CHECK(replace_invalid_utf8("") == "");
  CHECK(replace_invalid_utf8("plain \xE4\xBD\xA0") == "plain \xE4\xBD\xA0");
  CHECK(replace_invalid_utf8("\xFF") == mark);
  CHECK(replace_invalid_utf8("a\x80z") == "a" + mark + "z");
  CHECK(replace_invalid_utf8("\xC0\x80") == mark + mark);
  CHECK(replace_invalid_utf8("\xE2\x82") == mark);
  CHECK(replace_invalid_utf8("\xE2\x82z") == mark + "z");
  CHECK(replace_invalid_utf8("\xF0\x9F\x98\xE4\xBD\xA0") == mark + "\xE4\xBD\xA0");
  CHECK(replace_invalid_utf8("\xED\xA0\x80") == mark + mark + mark);
  CHECK(replace_invalid_utf8("\xE0\x80\x80") == mark + mark + mark);
  CHECK(replace_invalid_utf8("\xF4\x90\x80\x80") == mark + mark + mark + mark);
  CHECK(replace_invalid_utf8("\xF0\x9F\xF0\x9F\x98\x80") == mark + "\xF0\x9F\x98\x80");
}

TEST_CASE("replacing once is enough, and the prefix is the valid part") {
  braid::Random random(braid::seed(3));
  const unsigned char bytes[] = {'a', 0x80, 0xBF, 0xC2, 0xE0, 0xE4, 0xED, 0xF0, 0xF4, 0xA0, 0x90, 0xFF};
  for (int i = 0; i < 20000; ++i) {
    std::string text(random.below(3) * 9, 'x');
    while (random.below(8)) text.push_back(static_cast<char>(bytes[random.below(sizeof bytes)]));
    const std::size_t prefix = valid_utf8_prefix(text);
    CHECK(valid_utf8_prefix(text.substr(0, prefix)) == prefix);
    if (prefix < text.size()) CHECK_FALSE(Utf8::first(text.substr(prefix)).valid);
    const std::string replaced = replace_invalid_utf8(text);
    CHECK(valid_utf8_prefix(replaced) == replaced.size());
    CHECK(replaced.substr(0, prefix) == text.substr(0, prefix));
  }
}

TEST_CASE("a stream changes nothing, ends at whole characters and holds back at most three bytes") {
  braid::Random random(braid::seed(4));
  const std::string text = "a\xC3\xA9 \xE4\xBD\xA0\xF0\x9F\x98\x80 \xFF\xF0\x9F z \xE4\xBD";
  for (int i = 0; i < 2000; ++i) {
    Utf8Stream stream;
    std::string shown;
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t n = std::min<std::size_t>(random.below(5), text.size() - at);
      shown += stream.push(std::string_view(text).substr(at, n));
      at += n;
      CHECK(at - shown.size() <= 3);
      CHECK(text.substr(0, shown.size()) == shown);
    }
    CHECK(shown == text.substr(0, text.size() - 2));
    CHECK(shown + stream.finish() == text);
  }
}

TEST_CASE("a valid stream never shows part of a character") {
  const std::string text = "n\xC3\xA9\xE4\xBD\xA0\xF0\x9F\x98\x80";
  Utf8Stream stream;
  for (char c : text) {
    const std::string part = stream.push({&c, 1});
    CHECK(valid_utf8_prefix(part) == part.size());
  }
}
