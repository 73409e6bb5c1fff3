// UTF-8 as Python sees it: what is valid, what replaces the rest, what is white space; and a stream that ends at whole characters.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <utility>

namespace braid::io {

/// The start of `text` as one character: its length in bytes, and whether these bytes are valid. An invalid start is as long as the
/// longest prefix that could have begun a valid character (Unicode 15, section 3.9, "maximal subparts"; Python does the same).
/// `open` tells that the text ended before the character did.
struct Utf8 {
  std::size_t length;
  bool valid, open;
  char32_t code;  ///< if valid

  static Utf8 first(std::string_view text) {
    const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
    const unsigned lead = byte(0);
    if (lead < 0x80) return {1, true, false, lead};
    const std::size_t size = lead >= 0xC2 && lead <= 0xDF ? 2 : lead >= 0xE0 && lead <= 0xEF ? 3 : lead >= 0xF0 && lead <= 0xF4 ? 4 : 0;
    if (size == 0) return {1, false, false, 0};
    // The second byte's range excludes overlong forms, surrogates and what lies beyond U+10FFFF.
    const unsigned low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    const unsigned high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    char32_t code = lead & (0xFF >> (size + 1));
    for (std::size_t i = 1; i < size; ++i) {
      if (i == text.size()) return {i, false, true, 0};
      if (byte(i) < (i == 1 ? low : 0x80) || byte(i) > (i == 1 ? high : 0xBF)) return {i, false, false, 0};
      code = code << 6 | (byte(i) & 0x3F);
    }
    return {size, true, false, code};
  }
};

namespace detail {
/// The number of ASCII bytes that `text` begins with, in steps of eight.
inline std::size_t ascii_prefix(std::string_view text) {
  std::size_t i = 0;
  for (std::uint64_t word; i + 8 <= text.size(); i += 8) {
    std::memcpy(&word, text.data() + i, 8);
    if (word & 0x8080808080808080ull) break;
  }
  return i;
}
}  // namespace detail

/// The number of bytes of `text` before its first invalid one; text.size() if it is valid UTF-8.
inline std::size_t valid_utf8_prefix(std::string_view text) {
  std::size_t i = 0;
  while (i < text.size()) {
    i += detail::ascii_prefix(text.substr(i));
    for (std::size_t stop = i + 16; i < text.size() && i < stop;) {  // a few characters before looking for ASCII again
      const Utf8 c = Utf8::first(text.substr(i));
      if (!c.valid) return i;
      i += c.length;
    }
  }
  return i;
}

/// `text` with U+FFFD for every invalid start, as Python's bytes.decode("utf-8", "replace").
inline std::string replace_invalid_utf8(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const std::size_t valid = valid_utf8_prefix(text);
    out += text.substr(0, valid);
    text.remove_prefix(valid);
    if (text.empty()) break;
    out += "\xEF\xBF\xBD";
    text.remove_prefix(Utf8::first(text).length);
  }
  return out;
}

/// Python's str.isspace for one character.
constexpr bool is_python_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x20) || c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) ||
         c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

/// Cuts a stream of bytes after whole characters. Up to three bytes of an unfinished character are held back until the rest comes;
/// nothing is changed, so what `push` and `finish` return adds up to what was pushed. Invalid bytes pass through as they are.
class Utf8Stream {
 public:
  /// Adds bytes and returns those that can be shown.
  std::string push(std::string_view bytes) {
    std::string all = std::move(held_);
    all += bytes;
    const std::size_t open = unfinished(all);
    held_ = all.substr(all.size() - open);
    all.resize(all.size() - open);
    return all;
  }
  /// The stream has ended: what was held back.
  std::string finish() { return std::exchange(held_, {}); }

 private:
  // The number of bytes at the end that begin a character and do not finish it.
  static std::size_t unfinished(std::string_view bytes) {
    for (std::size_t n = 1; n <= 3 && n <= bytes.size(); ++n) {
      const std::string_view tail = bytes.substr(bytes.size() - n);
      if ((static_cast<unsigned char>(tail[0]) & 0xC0) == 0x80) continue;  // inside a character
      const Utf8 c = Utf8::first(tail);
      return c.open && c.length == n ? n : 0;
    }
    return 0;
  }
  std::string held_;
};

}  // namespace braid::io
