// A vocabulary of byte strings and its file format, tiktoken.model: one line per token, the base64 of its bytes, a space, its rank.
#pragma once

#include <braid/core/error.hpp>
#include <braid/core/types.hpp>
#include <braid/io/mapped_file.hpp>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace braid::io {

/// Byte strings numbered by rank, looked up both ways. A token's id is its rank: lower ranks merge first.
class Vocabulary {
 public:
  static constexpr Token none = -1;

  /// `tokens[i]` are the bytes of token i. Throws Error for an empty token, a token that occurs twice, or a missing byte: all 256
  /// single bytes must be tokens, so that every text can be encoded. `where` names the source in errors.
  explicit Vocabulary(const std::vector<std::string>& tokens, const std::string& where = "Vocabulary") {
    slots_.resize(std::bit_ceil(tokens.size() * 2 + 1));
    for (const std::string& token : tokens) {
      const auto id = static_cast<Token>(size());
      require(!token.empty(), where, "tokens of at least one byte", braid::detail::text("an empty one of rank ", id));
      bytes_ += token;
      ends_.push_back(bytes_.size());
      Slot& slot = slots_[place(token)];
      require(slot.token == none, where, "each token once",
              braid::detail::text("ranks ", slot.token, " and ", id, " with the same bytes"));
      slot = {fingerprint(hash(token)), id};
    }
    for (int byte = 0; byte < 256; ++byte) {
      const char c = static_cast<char>(byte);
      require(find({&c, 1}) != none, where, "a token for each of the 256 bytes", braid::detail::text("none for byte ", byte));
    }
  }

  Index size() const { return static_cast<Index>(ends_.size()); }
  /// The bytes of a token, 0 <= token < size().
  std::string_view operator[](Token token) const {
    const auto i = static_cast<std::size_t>(token);
    const std::size_t begin = i == 0 ? 0 : ends_[i - 1];
    return {bytes_.data() + begin, ends_[i] - begin};
  }
  /// The token with these bytes, or `none`.
  Token find(std::string_view bytes) const { return slots_[place(bytes)].token; }

 private:
  struct Slot {
    std::uint32_t fingerprint = 0;
    Token token = none;
  };

  // The slot that holds `bytes`, or the free one where they would go (open addressing, at most half full).
  std::size_t place(std::string_view bytes) const {
    const std::uint64_t h = hash(bytes);
    const std::size_t mask = slots_.size() - 1;
    for (std::size_t i = h & mask;; i = (i + 1) & mask) {
      const Slot& slot = slots_[i];
      if (slot.token == none || (slot.fingerprint == fingerprint(h) && (*this)[slot.token] == bytes)) return i;
    }
  }

  static std::uint32_t fingerprint(std::uint64_t h) { return static_cast<std::uint32_t>(h >> 32); }

  // Eight bytes at a time; the last ones are read with overlap.
  static std::uint64_t hash(std::string_view bytes) {
    const char* p = bytes.data();
    std::size_t n = bytes.size();
    std::uint64_t h = n * 0x9E3779B97F4A7C15ull;
    for (; n > 8; p += 8, n -= 8) h = mix(h ^ load<std::uint64_t>(p));
    if (n >= 4) return mix(h ^ (load<std::uint32_t>(p) | std::uint64_t{load<std::uint32_t>(p + n - 4)} << 32));
    if (n == 0) return mix(h);
    auto byte = [&](std::size_t i) { return std::uint64_t{static_cast<unsigned char>(p[i])}; };
    return mix(h ^ (byte(0) | byte(n / 2) << 8 | byte(n - 1) << 16));
  }
  static std::uint64_t mix(std::uint64_t h) {
    h *= 0xBF58476D1CE4E5B9ull;
    h ^= h >> 32;
    h *= 0x94D049BB133111EBull;
    return h ^ h >> 29;
  }
  template <class T> static T load(const char* p) {
    T value;
    std::memcpy(&value, p, sizeof value);
    return value;
  }

  std::string bytes_;
  std::vector<std::size_t> ends_;
  std::vector<Slot> slots_;
};

namespace detail {

/// Appends the bytes of strict base64 (full groups of four, canonical padding) to `out`; false if it is anything else.
inline bool decode_base64(std::string_view text, std::string& out) {
  auto value = [](char c) {
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '+' ? 62 : c == '/' ? 63 : -1;
  };
  if (text.empty() || text.size() % 4 != 0) return false;
  const std::size_t padding = text.ends_with("==") ? 2 : text.ends_with("=") ? 1 : 0;
  std::uint32_t bits = 0;
  int count = 0;
  for (char c : text.substr(0, text.size() - padding)) {
    const int v = value(c);
    if (v < 0) return false;
    bits = bits << 6 | static_cast<std::uint32_t>(v);
    count += 6;
    if (count >= 8) out.push_back(static_cast<char>(bits >> (count -= 8) & 0xFF));
  }
  return (bits & ((1u << count) - 1)) == 0;  // what padding left over must be zero
}

}  // namespace detail

/// Reads the text of a tiktoken.model. Ranks must be 0, 1, 2, ... without gaps, in any order of lines; empty lines are skipped.
/// Throws Error, naming the line, for bad base64, a bad, repeated or too large rank, a cut-off line; and as Vocabulary does.
inline Vocabulary parse_tiktoken(std::string_view text, const std::string& where) {
  std::vector<std::string_view> lines;
  std::size_t number = 0;
  std::vector<std::size_t> numbers;  // of the lines kept, from 1
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    if (line.ends_with('\r')) line.remove_suffix(1);
    ++number;
    if (!line.empty()) lines.push_back(line), numbers.push_back(number);
    begin = end + 1;
  }
  require(!lines.empty(), where, "lines of a base64 token, a space and a rank", "an empty file");

  std::vector<std::string> tokens(lines.size());
  for (std::size_t i = 0; i < lines.size(); ++i) {
    auto fail = [&](std::string expected) {
      const std::string_view start = lines[i].substr(0, 80);
      throw Error(braid::detail::text(where, ", line ", numbers[i]), std::move(expected), braid::detail::text('"', start, '"'));
    };
    const std::size_t space = lines[i].find(' ');
    if (space == std::string_view::npos) fail("a base64 token, a space and a rank");
    std::string bytes;
    if (!detail::decode_base64(lines[i].substr(0, space), bytes)) fail("a token in base64");
    const std::string_view digits = lines[i].substr(space + 1);
    std::uint64_t rank = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), rank);
    if (error != std::errc() || end != digits.data() + digits.size()) fail("a rank >= 0");
    if (rank >= lines.size()) fail(std::string(braid::detail::text("a rank below the number of tokens, ", lines.size())));
    if (!tokens[rank].empty()) fail("each rank once");
    tokens[rank] = std::move(bytes);
  }
  return Vocabulary(tokens, where);
}

/// Reads the file tiktoken.model. Errors: as parse_tiktoken, and those of reading a file.
inline Vocabulary read_tiktoken(const std::filesystem::path& path) { return parse_tiktoken(read_text(path), path.string()); }

}  // namespace braid::io
