#include <braid/io/tokenizer.hpp>

#include <doctest/doctest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

using braid::Token;
using braid::io::Special;
using braid::io::Tokenizer;

namespace {
const std::filesystem::path data = std::filesystem::path(BRAID_TEST_DATA) / "tokenizer";

const Tokenizer& small() {
  static const Tokenizer tokenizer = Tokenizer::load(data);
  return tokenizer;
}

std::string from_hex(const std::string& hex) {
  std::string out;
  for (std::size_t i = 0; i < hex.size(); i += 2) out.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return out;
}

std::string repeat(std::string_view what, std::size_t count) {
  std::string out;
  while (count-- > 0) out += what;
  return out;
}

std::string message(auto&& f) {
  try {
    f();
  } catch (const braid::Error& e) {
    return e.what();
  }
  return "nothing thrown";
}

void check_contains(const std::string& text, const std::string& part) {
  INFO(text);
  CHECK(text.find(part) != std::string::npos);
}

// A directory with the small vocabulary and this tokenizer_config.json.
struct Directory {
  explicit Directory(const std::string& config) : path(std::filesystem::temp_directory_path() / "braid-test-tokenizer") {
    std::filesystem::create_directories(path);
    std::filesystem::copy_file(data / "tiktoken.model", path / "tiktoken.model", std::filesystem::copy_options::overwrite_existing);
    std::ofstream(path / "tokenizer_config.json") << config;
  }
  ~Directory() { std::filesystem::remove_all(path); }
  std::filesystem::path path;
};
}  // namespace

// expected.json holds what the tiktoken package makes of words, contractions, scripts, emoji, white space and broken UTF-8
// (tests/reference/tokenizer.py fixtures).
TEST_CASE("tokens are those of tiktoken") {
  const auto json = braid::io::parse_json_object(braid::io::read_text(data / "expected.json"), "expected.json");
  std::size_t cases = 0;
  for (const auto& c : json.at("cases")) {
    const std::string text = from_hex(c.at("bytes"));
    CAPTURE(text);
    CHECK(small().encode(text) == c.at("text").get<std::vector<Token>>());
    CHECK(small().encode(text, Special::parse) == c.at("special").get<std::vector<Token>>());
    CHECK(small().decode(small().encode(text)) == braid::io::replace_invalid_utf8(text));
    ++cases;
  }
  CHECK(cases >= 400);
}

TEST_CASE("every byte string decodes exactly") {
  std::string all;
  std::vector<Token> tokens;
  for (Token t = 0; t < 256; ++t) {
    tokens.push_back(t);
    all += small().bytes(t);
  }
  CHECK(small().decode(tokens) == all);
  CHECK(all.size() == 256);
}

TEST_CASE("special tokens: names, reserved names, ids") {
  const Tokenizer& t = small();
  CHECK(t.size() == 1280 + 256);
  CHECK(t.bos() == 1280);
  CHECK(t.eos() == 1281);
  CHECK(t.special("<|im_end|>") == 1282);
  CHECK(t.special("<|reserved_token_1285|>") == 1285);
  CHECK(t.special("[PAD]") == 1535);
  CHECK(t.bytes(1282) == "<|im_end|>");
  CHECK(t.is_special(1280));
  CHECK(t.is_special(1535));
  CHECK_FALSE(t.is_special(1279));
  CHECK_FALSE(t.find_special("<|nobody|>"));
  CHECK_FALSE(t.find_special(""));
  check_contains(message([&] { t.special("<|nobody|>"); }), "<|nobody|>");
}

TEST_CASE("names of special tokens are text unless asked for") {
  const Tokenizer& t = small();
  const std::string text = "a<|im_end|>b[EOS]";
  for (Token token : t.encode(text)) CHECK_FALSE(t.is_special(token));
  CHECK(t.decode(t.encode(text)) == text);

  std::vector<Token> expected;
  t.encode("a", expected);
  expected.push_back(t.special("<|im_end|>"));
  t.encode("b", expected);
  expected.push_back(t.special("[EOS]"));
  CHECK(t.encode(text, Special::parse) == expected);
  CHECK(t.decode(expected) == text);
  CHECK(t.encode("<|im_end|", Special::parse) == t.encode("<|im_end|"));
}

TEST_CASE("of special tokens that begin alike the longest is taken") {
  std::vector<std::string> bytes;
  for (int b = 0; b < 256; ++b) bytes.emplace_back(1, static_cast<char>(b));
  const Tokenizer t(braid::io::Vocabulary(bytes), {{256, "<a>"}, {257, "<a><b>"}, {258, "<"}});
  CHECK(t.encode("<a><b><a><c", Special::parse) == std::vector<Token>{257, 256, 258, 'c'});
}

TEST_CASE("long texts are cut as published") {
  const Tokenizer& t = small();
  auto join = [&](std::initializer_list<std::string> parts) {
    std::vector<Token> out;
    for (const std::string& part : parts) t.encode(part, out, Special::parse);
    return out;
  };
  // A run of 25,000 characters, of white space or of anything else, ends a part.
  for (const std::string c : {"a", " ", "中"}) {
    CHECK(t.encode(repeat(c, 25'001)) == join({repeat(c, 25'000), c}));
    CHECK(t.encode("x y" + repeat(c, 60'000)) ==
          (c == " " ? join({"x y" + repeat(c, 25'000), repeat(c, 25'000), repeat(c, 10'000)})
                    : join({"x y" + repeat(c, 24'999), repeat(c, 25'000), repeat(c, 10'001)})));
  }
  // After 400,000 characters a new part begins, and its runs are counted anew.
  const std::string block = repeat("中 ", 200'000);
  CHECK(t.encode(block + "a b") == join({block, "a b"}));
  CHECK(t.encode(block.substr(0, block.size() - 1) + repeat("b", 25'001)) == join({block.substr(0, block.size() - 1) + "b", repeat("b", 25'000)}));
  // The name of a special token across a cut is text.
  CHECK(t.encode(repeat("x", 24'995) + "<|im_end|>", Special::parse) == join({repeat("x", 24'995) + "<|im_", "end|>"}));
}

TEST_CASE("a stream of tokens yields whole characters") {
  const std::string text = "né 你好 👨‍👩‍👧 x";
  std::vector<Token> tokens;
  for (char c : text) tokens.push_back(small().bpe().vocabulary().find({&c, 1}));  // the worst case: every byte a token
  braid::io::TokenStream stream(small());
  std::string shown;
  for (Token token : tokens) {
    const std::string part = stream.push(token);
    CHECK(braid::io::valid_utf8_prefix(part) == part.size());
    shown += part;
  }
  CHECK(shown == text);
  CHECK(stream.finish().empty());

  braid::io::TokenStream cut(small());
  CHECK(cut.push(tokens[0]) == "n");
  CHECK(cut.push(tokens[1]).empty());
  CHECK(cut.finish() == "\xC3");
}

TEST_CASE("ids that are no token") {
  CHECK_THROWS_AS(small().bytes(-1), braid::Error);
  CHECK_THROWS_AS(small().decode(std::vector<Token>{0, 1536}), braid::Error);
}

TEST_CASE("bad tokenizer_config.json") {
  auto load = [](const std::string& config) {
    const Directory directory(config);
    return message([&] { Tokenizer::load(directory.path); });
  };
  check_contains(load("{"), "valid JSON");
  check_contains(load("{}"), "added_tokens_decoder");
  check_contains(load(R"({"added_tokens_decoder": {"12": {"content": "x"}}})"), "12 (x)");
  check_contains(load(R"({"added_tokens_decoder": {"1536": {"content": "x"}}})"), "[1280, 1536)");
  check_contains(load(R"({"added_tokens_decoder": {"-1": {"content": "x"}}})"), "-1 (x)");
  check_contains(load(R"({"added_tokens_decoder": {"99999999999": {"content": "x"}}})"), "token ids");
  check_contains(load(R"({"added_tokens_decoder": {"1280x": {"content": "x"}}})"), "token ids");
  check_contains(load(R"({"added_tokens_decoder": {"1280": {"content": 3}}})"), "content");
  check_contains(load(R"({"added_tokens_decoder": {"1280": {}}})"), "content");
  check_contains(load(R"({"added_tokens_decoder": {"1280": {"content": ""}}})"), "empty");
  check_contains(load(R"({"added_tokens_decoder": {"1280": {"content": "x"}, "1281": {"content": "x"}}})"), "each special token once");
  check_contains(load(R"({"added_tokens_decoder": {}, "bos_token": "nobody"})"), "bos_token");
  check_contains(load(R"({"added_tokens_decoder": {}, "eos_token": 7})"), "eos_token");
  CHECK(load(R"({"added_tokens_decoder": {"1281": {"content": "[E]"}}, "eos_token": {"content": "[E]"}, "bos_token": null})") == "nothing thrown");
  check_contains(message([] { Tokenizer::load("/nowhere"); }), "/nowhere");
}
