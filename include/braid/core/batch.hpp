// Packed batches: tokens of all sequences lie end to end, `offsets` says where each begins.
#pragma once

#include <braid/core/error.hpp>
#include <braid/core/types.hpp>

#include <span>
#include <vector>

namespace braid {

/// Throws Error unless offsets start at 0, never descend and end at `tokens`. Equal neighbours are empty sequences.
inline void check_offsets(std::span<const Index> offsets, Index tokens, std::string_view where) {
  require(offsets.size() >= 2, where, "offsets with at least two entries", detail::text(offsets.size(), " entries"));
  require(offsets.front() == 0, where, "offsets[0] = 0", offsets.front());
  for (std::size_t i = 1; i < offsets.size(); ++i)
    require(offsets[i - 1] <= offsets[i], where, "sequence offsets that do not descend",
            detail::text("offsets[", i - 1, "] = ", offsets[i - 1], " followed by offsets[", i, "] = ", offsets[i]));
  require(offsets.back() == tokens, where, detail::text("offsets ending at the number of tokens, ", tokens), offsets.back());
}

/// Where each sequence of a packed batch begins, and which slot of a cache it continues.
class Batch {
 public:
  /// One sequence of `tokens` tokens.
  explicit Batch(Index tokens) : offsets_{0, tokens} { check_offsets(offsets_, tokens, "Batch"); }
  /// `sequences` sequences of `length` tokens each.
  Batch(Index sequences, Index length) {
    require(sequences > 0 && length >= 0, "Batch", "at least one sequence of length >= 0", detail::text(sequences, " x ", length));
    for (Index s = 0; s <= sequences; ++s) offsets_.push_back(s * length);
  }
  /// Any lengths: `offsets` has one more entry than there are sequences. `slots[i]` is sequence i's place in a cache; empty: i.
  /// Throws Error if the offsets descend or a slot repeats.
  explicit Batch(std::vector<Index> offsets, std::vector<Index> slots = {})
      : offsets_(std::move(offsets)), slots_(std::move(slots)) {
    check_offsets(offsets_, offsets_.empty() ? 0 : offsets_.back(), "Batch");
    require(slots_.empty() || static_cast<Index>(slots_.size()) == sequences(), "Batch",
            detail::text("a slot for each of ", sequences(), " sequences"), slots_.size());
    for (std::size_t i = 0; i < slots_.size(); ++i) {
      require(slots_[i] >= 0, "Batch", "slots >= 0", slots_[i]);
      for (std::size_t j = 0; j < i; ++j)
        require(slots_[i] != slots_[j], "Batch", "each slot at most once", detail::text("slot ", slots_[i], " twice"));
    }
  }

  Index sequences() const { return static_cast<Index>(offsets_.size()) - 1; }
  Index tokens() const { return offsets_.back(); }
  Index begin(Index sequence) const { return offsets_[static_cast<std::size_t>(sequence)]; }
  Index length(Index sequence) const { return begin(sequence + 1) - begin(sequence); }
  Index slot(Index sequence) const { return slots_.empty() ? sequence : slots_[static_cast<std::size_t>(sequence)]; }
  Index longest() const {
    Index n = 0;
    for (Index s = 0; s < sequences(); ++s) n = length(s) > n ? length(s) : n;
    return n;
  }
  std::span<const Index> offsets() const { return offsets_; }

 private:
  std::vector<Index> offsets_;
  std::vector<Index> slots_;
};

}  // namespace braid
