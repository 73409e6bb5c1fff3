// Merges against the definition, executed naively; and the file format's errors.
#include <braid/core/random.hpp>
#include <braid/io/bpe.hpp>

#include <doctest/doctest.h>

#include <map>
#include <string>
#include <vector>

using braid::Token;
using braid::io::Bpe;
using braid::io::Vocabulary;

namespace {
std::vector<std::string> all_bytes() {
  std::vector<std::string> out;
  for (int b = 0; b < 256; ++b) out.emplace_back(1, static_cast<char>(b));
  return out;
}

// The definition: merge the pair of lowest rank, the leftmost among equals, until there is none.
std::vector<Token> naive(const std::vector<std::string>& tokens, const std::string& piece) {
  std::map<std::string, Token> ranks;
  for (std::size_t i = 0; i < tokens.size(); ++i) ranks[tokens[i]] = static_cast<Token>(i);
  if (ranks.count(piece)) return {ranks[piece]};
  std::vector<std::string> parts;
  for (char c : piece) parts.emplace_back(1, c);
  for (;;) {
    std::size_t best = parts.size();
    Token lowest = 0;
    for (std::size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto found = ranks.find(parts[i] + parts[i + 1]);
      if (found != ranks.end() && (best == parts.size() || found->second < lowest)) best = i, lowest = found->second;
    }
    if (best == parts.size()) break;
    parts[best] += parts[best + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(best) + 1);
  }
  std::vector<Token> out;
  for (const std::string& part : parts) out.push_back(ranks[part]);
  return out;
}

std::string random_string(braid::Random& random, std::size_t length, unsigned letters) {
  std::string out;
  while (out.size() < length) out.push_back(static_cast<char>('a' + random.below(letters)));
  return out;
}

std::string parse_error(const std::string& text) {
  try {
    braid::io::parse_tiktoken(text, "m");
  } catch (const braid::Error& e) {
    return e.what();
  }
  return "nothing thrown";
}

void check_contains(const std::string& text, const std::string& part) {
  INFO(text);
  CHECK(text.find(part) != std::string::npos);
}

std::string base64(const std::string& bytes) {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    unsigned v = 0;
    for (std::size_t j = 0; j < 3; ++j) v = v << 8 | (i + j < bytes.size() ? static_cast<unsigned char>(bytes[i + j]) : 0);
    for (std::size_t j = 0; j < 4; ++j) out.push_back(i + j <= bytes.size() ? digits[v >> (18 - 6 * j) & 63] : '=');
  }
  return out;
}

std::string model(const std::vector<std::string>& tokens) {
  std::string out;
  for (std::size_t i = 0; i < tokens.size(); ++i) out += base64(tokens[i]) + " " + std::to_string(i) + "\n";
  return out;
}
}  // namespace

TEST_CASE("merges follow the definition, for every length around the change of method") {
  braid::Random random(braid::seed(1));
  for (unsigned letters : {1u, 2u, 3u, 26u}) {
    // Tokens of 2 to 9 bytes in random order: some cannot be reached by merges at all.
    std::vector<std::string> tokens = all_bytes();
    for (int i = 0; i < 300; ++i) {
      std::string token = random_string(random, 2 + random.below(8), letters);
      if (std::find(tokens.begin(), tokens.end(), token) == tokens.end()) tokens.push_back(std::move(token));
    }
    const Bpe bpe{Vocabulary(tokens)};
    for (std::size_t length : {0, 1, 2, 3, 8, 9, 31, 63, 64, 65, 66, 127, 128, 300}) {
      for (int repeat = 0; repeat < 20; ++repeat) {
        const std::string piece = random_string(random, length, letters);
        std::vector<Token> found;
        bpe.encode(piece, found);
        CAPTURE(piece);
        CHECK(found == (piece.empty() ? std::vector<Token>() : naive(tokens, piece)));
      }
    }
  }
}

TEST_CASE("a vocabulary finds all its tokens and no others") {
  braid::Random random(braid::seed(2));
  std::vector<std::string> tokens = all_bytes();
  for (std::size_t length = 2; length < 40; ++length)
    for (int i = 0; i < 50; ++i) {
      std::string token;
      for (std::size_t j = 0; j < length; ++j) token.push_back(static_cast<char>(random.below(256)));
      if (std::find(tokens.begin(), tokens.end(), token) == tokens.end()) tokens.push_back(std::move(token));
    }
  const Vocabulary vocabulary(tokens);
  REQUIRE(vocabulary.size() == static_cast<braid::Index>(tokens.size()));
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    CHECK(vocabulary[static_cast<Token>(i)] == tokens[i]);
    CHECK(vocabulary.find(tokens[i]) == static_cast<Token>(i));
    CHECK(vocabulary.find(tokens[i] + "?!") == Vocabulary::none);
  }
  CHECK(vocabulary.find("") == Vocabulary::none);
}

TEST_CASE("a file is read whatever the order of its lines") {
  std::vector<std::string> tokens = all_bytes();
  tokens.insert(tokens.end(), {"he", "hel", "hell", "hello", std::string("\0\0", 2)});
  std::string text = model(tokens);
  auto check = [&](const std::string& t) {
    const Vocabulary v = braid::io::parse_tiktoken(t, "m");
    REQUIRE(v.size() == static_cast<braid::Index>(tokens.size()));
    for (std::size_t i = 0; i < tokens.size(); ++i) CHECK(v[static_cast<Token>(i)] == tokens[i]);
  };
  check(text);
  check(text.substr(0, text.size() - 1));  // no line end at the end
  const std::size_t first = text.find('\n') + 1;
  check(text.substr(first) + "\n\n" + text.substr(0, first));
  std::string windows;
  for (char c : text) windows += c == '\n' ? "\r\n" : std::string(1, c);
  check(windows);
}

TEST_CASE("bad files are refused with the line that is bad") {
  const std::string good = model(all_bytes());
  CHECK(parse_error(good) == "nothing thrown");
  check_contains(parse_error(""), "an empty file");
  check_contains(parse_error("\n\n"), "an empty file");
  check_contains(parse_error(good + "aGVsbG8=\n"), "m, line 257: expected a base64 token, a space and a rank");
  for (const char* bad : {"aGVsbG8 256", "aGVs*G8= 256", "aGVsbG8== 256", "aG=sbG8= 256", " 256", "==== 256", "aGVsbG9= 256", "aGVsb\xC3\xA9= 256"})
    check_contains(parse_error(good + bad + "\n"), "line 257: expected a token in base64");
  for (const char* bad : {"aGVsbG8= -1", "aGVsbG8= ", "aGVsbG8= 2x", "aGVsbG8=  256", "aGVsbG8= 256 ", "aGVsbG8= 99999999999999999999", "aGVsbG8= +256", "aGVsbG8= 1.5"})
    check_contains(parse_error(good + bad + "\n"), "line 257: expected a rank >= 0");
  check_contains(parse_error(good + "aGVsbG8= 257\n"), "a rank below the number of tokens, 257");
  check_contains(parse_error(good + "aGVsbG8= 2147483648\n"), "a rank below");
  check_contains(parse_error(good + "aGVsbG8= 255\n"), "each rank once");
  check_contains(parse_error(good + "YQ== 256\n"), "ranks 97 and 256");
  check_contains(parse_error("aGVsbG8= 0\n"), "none for byte 0");
  std::vector<std::string> tokens = all_bytes();
  tokens[200] = "hello";
  check_contains(parse_error(model(tokens)), "none for byte 200");
  CHECK_THROWS_AS(Vocabulary({""}), braid::Error);
  CHECK_THROWS_AS(Vocabulary({}), braid::Error);
  // Cut anywhere, a file is refused: it lacks ranks or bytes.
  for (std::size_t length = 0; length + 1 < good.size(); length += 7) CHECK(parse_error(good.substr(0, length)) != "nothing thrown");
}
