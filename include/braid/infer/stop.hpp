// Stop strings in a stream of text, found across token boundaries.
#pragma once

#include <braid/core/error.hpp>

#include <algorithm>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace braid {

/// Passes text on until one of its strings has appeared. Text that may be the beginning of a stop string is held back, so nothing
/// shown is ever taken back. How the text was cut into pieces does not matter: the stop string that is completed first wins, the
/// longest of those completed at the same byte, and the text ends where it begins.
class StopStrings {
 public:
  /// Throws Error for an empty string.
  explicit StopStrings(std::vector<std::string> strings = {}) {
    for (std::string& s : strings) {
      require(!s.empty(), "StopStrings", "strings of at least one byte", "an empty one");
      matchers_.emplace_back(std::move(s));
    }
  }

  /// Adds `text` and returns what can be shown now. After a match: nothing any more.
  std::string push(std::string_view text) {
    if (stopped()) return {};
    std::string shown = std::move(held_);
    held_.clear();
    for (char byte : text) {
      shown.push_back(byte);
      for (Matcher& m : matchers_)
        if (m.advance(byte) && m.string.size() > found_.size()) found_ = m.string;
      if (stopped()) {
        shown.resize(shown.size() - found_.size());
        return shown;
      }
    }
    std::size_t pending = 0;
    for (const Matcher& m : matchers_) pending = std::max(pending, m.length);
    held_ = shown.substr(shown.size() - pending);
    shown.resize(shown.size() - pending);
    return shown;
  }

  /// The text has ended: returns what was held back. Empty after a match.
  std::string finish() {
    reset_matchers();
    return std::exchange(held_, {});
  }

  bool stopped() const { return !found_.empty(); }
  /// The stop string that was found; empty before.
  const std::string& found() const { return found_; }
  /// Ready for another text.
  void reset() {
    reset_matchers();
    found_.clear();
    held_.clear();
  }

 private:
  // One string's automaton (Knuth, Morris, Pratt 1977): `length` is the longest prefix of it that the text ends with.
  struct Matcher {
    explicit Matcher(std::string s) : string(std::move(s)), fallback(string.size() + 1, 0) {
      for (std::size_t i = 1, n = 0; i < string.size(); fallback[++i] = n) {
        while (n > 0 && string[i] != string[n]) n = fallback[n];
        if (string[i] == string[n]) ++n;
      }
    }
    bool advance(char byte) {
      if (length == string.size()) length = fallback[length];
      while (length > 0 && string[length] != byte) length = fallback[length];
      if (string[length] == byte) ++length;
      return length == string.size();
    }
    std::string string;
    std::vector<std::size_t> fallback;  // [n]: the longest proper prefix that is also a suffix of the first n bytes
    std::size_t length = 0;
  };

  void reset_matchers() {
    for (Matcher& m : matchers_) m.length = 0;
  }

  std::vector<Matcher> matchers_;
  std::string found_, held_;
};

}  // namespace braid
