// Byte-pair encoding: from the bytes of one piece of text to tokens.
#pragma once

#include <braid/core/types.hpp>
#include <braid/io/tiktoken.hpp>

#include <algorithm>
#include <array>
#include <cstdint>
#include <functional>
#include <limits>
#include <queue>
#include <string_view>
#include <utility>
#include <vector>

namespace braid::io {

/// The merges of a vocabulary. A piece that is a token is that token. Otherwise it starts as single bytes, and of all neighbours
/// whose concatenation is a token, those of lowest rank (the leftmost, among equals) merge, until no two neighbours do.
class Bpe {
 public:
  explicit Bpe(Vocabulary vocabulary) : vocabulary_(std::move(vocabulary)), pairs_(65536, Vocabulary::none) {
    for (Token t = 0; t < vocabulary_.size(); ++t) {
      const std::string_view bytes = vocabulary_[t];
      if (bytes.size() == 1) bytes_[byte(bytes[0])] = t;
      if (bytes.size() == 2) pairs_[byte(bytes[0]) << 8 | byte(bytes[1])] = t;
    }
  }

  const Vocabulary& vocabulary() const { return vocabulary_; }

  /// Appends the tokens of `piece`. Thread-safe. Time n log n in the length of the piece.
  void encode(std::string_view piece, std::vector<Token>& out) const {
    if (piece.empty()) return;
    if (piece.size() == 1) return out.push_back(bytes_[byte(piece[0])]);
    if (const Token whole = vocabulary_.find(piece); whole != Vocabulary::none) return out.push_back(whole);
    if (piece.size() <= short_piece) return merge_short(piece, out);
    merge_long(piece, out);
  }

 private:
  static constexpr std::size_t short_piece = 64;  // up to here, looking through all neighbours is faster than a heap
  static constexpr std::uint32_t never = std::numeric_limits<std::uint32_t>::max();

  static std::size_t byte(char c) { return static_cast<unsigned char>(c); }

  // The rank of piece[begin, end), which has at least two bytes.
  std::uint32_t rank(std::string_view piece, std::size_t begin, std::size_t end) const {
    const Token token = end - begin == 2 ? pairs_[byte(piece[begin]) << 8 | byte(piece[begin + 1])]
                                         : vocabulary_.find(piece.substr(begin, end - begin));
    return static_cast<std::uint32_t>(token);  // none becomes `never`
  }
  Token token(std::string_view piece, std::size_t begin, std::size_t end) const {
    return end - begin == 1 ? bytes_[byte(piece[begin])] : static_cast<Token>(rank(piece, begin, end));
  }

  void merge_short(std::string_view piece, std::vector<Token>& out) const {
    std::array<std::uint8_t, short_piece + 1> begin;  // part i is piece[begin[i], begin[i + 1])
    std::array<std::uint32_t, short_piece> ranks;     // of parts i and i + 1 together
    std::size_t parts = piece.size();
    for (std::size_t i = 0; i <= parts; ++i) begin[i] = static_cast<std::uint8_t>(i);
    for (std::size_t i = 0; i + 1 < parts; ++i) ranks[i] = rank(piece, i, i + 2);
    while (parts > 1) {
      const std::size_t i = static_cast<std::size_t>(std::min_element(ranks.begin(), ranks.begin() + (parts - 1)) - ranks.begin());
      if (ranks[i] == never) break;
      std::copy(begin.begin() + (i + 2), begin.begin() + (parts + 1), begin.begin() + (i + 1));
      std::copy(ranks.begin() + (i + 1), ranks.begin() + (parts - 1), ranks.begin() + i);
      --parts;
      if (i + 1 < parts) ranks[i] = rank(piece, begin[i], begin[i + 2]);
      if (i > 0) ranks[i - 1] = rank(piece, begin[i - 1], begin[i + 1]);
    }
    for (std::size_t i = 0; i < parts; ++i) out.push_back(token(piece, begin[i], begin[i + 1]));
  }

  // Parts are known by their first byte. A heap orders the neighbours; entries that a merge has outdated are skipped.
  void merge_long(std::string_view piece, std::vector<Token>& out) const {
    struct Part {
      std::uint32_t previous, end, rank;  // rank: together with the next part
    };
    const auto n = static_cast<std::uint32_t>(piece.size());
    std::vector<Part> parts(n);
    std::vector<std::uint64_t> entries;  // rank, then position: the leftmost of equals comes first
    entries.reserve(n);
    for (std::uint32_t i = 0; i < n; ++i) {
      parts[i] = {i - 1, i + 1, i + 1 < n ? rank(piece, i, i + 2) : never};
      if (parts[i].rank != never) entries.push_back(std::uint64_t{parts[i].rank} << 32 | i);
    }
    std::priority_queue heap(std::greater<>(), std::move(entries));
    auto update = [&](std::uint32_t i) {
      const std::uint32_t next = parts[i].end;
      parts[i].rank = next < n ? rank(piece, i, parts[next].end) : never;
      if (parts[i].rank != never) heap.push(std::uint64_t{parts[i].rank} << 32 | i);
    };
    while (!heap.empty()) {
      const auto i = static_cast<std::uint32_t>(heap.top());
      const auto expected = static_cast<std::uint32_t>(heap.top() >> 32);
      heap.pop();
      if (parts[i].rank != expected) continue;
      const std::uint32_t next = parts[i].end;
      parts[i].end = parts[next].end;
      parts[next].rank = never;
      if (parts[i].end < n) parts[parts[i].end].previous = i;
      update(i);
      if (i > 0) update(parts[i].previous);
    }
    for (std::uint32_t i = 0; i < n; i = parts[i].end) out.push_back(token(piece, i, parts[i].end));
  }

  Vocabulary vocabulary_;
  std::array<Token, 256> bytes_{};
  std::vector<Token> pairs_;
};

}  // namespace braid::io
