// What must hold for any bytes given to the reader of tiktoken.model, the encoder and the decoder. The first byte says what the rest is:
// a file, lines that continue a valid file, or text.
#pragma once

#include <braid/io/tokenizer.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>

namespace braid::fuzz {
using namespace braid::io;

inline std::optional<Vocabulary> parse(std::string_view text) {
  try {
    return parse_tiktoken(text, "fuzz");
  } catch (const braid::Error&) {
    return std::nullopt;
  }
}

// One line per byte, in hexadecimal order: a valid file by itself, which the input continues.
inline std::string all_bytes() {
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  for (int b = 0; b < 256; ++b) out += {digits[b >> 2], digits[(b & 3) << 4], '=', '=', ' '}, out += std::to_string(b) + "\n";
  return out;
}

inline void must(bool ok) {
  if (!ok) std::abort();
}

// Any bytes as text come back as Python would have read them; any tokens decode to the bytes they stand for.
inline void round_trip(const Bpe& bpe, const Splitter& splitter, std::string_view bytes) {
  const std::string text = replace_invalid_utf8(bytes);
  must(valid_utf8_prefix(text) == text.size());
  std::vector<braid::Token> tokens;
  splitter.split(text, [&](std::string_view piece) { bpe.encode(piece, tokens); });
  std::string back;
  Utf8Stream stream;
  for (const braid::Token token : tokens) {
    must(token >= 0 && token < bpe.vocabulary().size());
    const std::string shown = stream.push(bpe.vocabulary()[token]);
    must(valid_utf8_prefix(shown) == shown.size());
    back += shown;
  }
  must(stream.finish().empty() && back == text);
}

/// True if the file is accepted (for text: always). Aborts where something does not hold.
inline bool tiktoken(std::string_view bytes) {
  static const std::string base = all_bytes();
  static const Splitter splitter;
  static const Bpe bytes_only{*parse(base)};
  if (bytes.empty()) return false;
  const std::string_view input = bytes.substr(1);
  switch (bytes[0] & 3) {
    case 0: return parse(input).has_value();
    case 1: {
      auto vocabulary = parse(base + std::string(input));
      if (vocabulary) round_trip(Bpe(std::move(*vocabulary)), splitter, input);
      return vocabulary.has_value();
    }
    default: round_trip(bytes_only, splitter, input); return true;
  }
}

}  // namespace braid::fuzz
