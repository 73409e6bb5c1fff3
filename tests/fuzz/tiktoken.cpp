// Fuzzes the reader of tiktoken.model, and with every vocabulary it accepts the encoder and the decoder. The first byte of the input
// says what the rest is: a file, lines that continue a valid file, or text.
#include <braid/io/tokenizer.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

namespace {
using namespace braid::io;

std::optional<Vocabulary> parse(std::string_view text) {
  try {
    return parse_tiktoken(text, "fuzz");
  } catch (const braid::Error&) {
    return std::nullopt;
  }
}

// One line per byte, in hexadecimal order: a valid file by itself, which the input continues.
std::string all_bytes() {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (int b = 0; b < 256; ++b) out += {digits[b >> 2], digits[(b & 3) << 4], '=', '=', ' '}, out += std::to_string(b) + "\n";
  return out;
}

void check(bool ok) {
  if (!ok) std::abort();
}

// Any bytes as text come back as Python would have read them; any tokens decode to the bytes they stand for.
void round_trip(const Bpe& bpe, const Splitter& splitter, std::string_view bytes) {
  const std::string text = replace_invalid_utf8(bytes);
  check(valid_utf8_prefix(text) == text.size());
  std::vector<braid::Token> tokens;
  splitter.split(text, [&](std::string_view piece) { bpe.encode(piece, tokens); });
  std::string back;
  Utf8Stream stream;
  for (const braid::Token token : tokens) {
    check(token >= 0 && token < bpe.vocabulary().size());
    const std::string shown = stream.push(bpe.vocabulary()[token]);
    check(valid_utf8_prefix(shown) == shown.size());
    back += shown;
  }
  check(stream.finish().empty() && back == text);
}
}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const std::string base = all_bytes();
  static const Splitter splitter;
  static const Bpe bytes_only{*parse(base)};
  if (size == 0) return 0;
  const std::string_view input(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 4) {
    case 0: parse(input); break;
    case 1:
      if (auto vocabulary = parse(base + std::string(input))) round_trip(Bpe(std::move(*vocabulary)), splitter, input);
      break;
    default: round_trip(bytes_only, splitter, input);
  }
  return 0;
}
