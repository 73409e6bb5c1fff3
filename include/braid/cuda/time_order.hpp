// Where kernels that run side by side meet: the order in which the preparation writes records and the recurrence reads them. Host-testable.
#pragma once

#include <braid/cuda/record.hpp>

#include <cstdint>

namespace braid::cuda {

/// The chunks of a call in a row, head by head, sequence by sequence, with all slots that are reserved for them: `positions`, the numbers of
/// the records. `columns` blocks of the recurrence share them evenly, by McNaughton's wrap-around rule: column c has positions
/// [c length, (c + 1) length), and all columns walk at once, from their first position to their last. What a column has of one sequence of a head is
/// a piece. Where a border cuts a sequence, its earlier chunks are the first piece of the column behind the border and its later ones the last
/// piece of the column before it: if no sequence is longer than a column, they are due when the state they start from is known.
///
/// Work items, the positions of all columns step by step, are the order of time. With a column for each head, no sequence is cut. Numbers are below 2^31.
struct TimeOrder {
  const Index* offsets = nullptr;  ///< [N + 1]; null: one sequence of `tokens`
  Index tokens = 0;
  int sequences = 1, value_heads = 1;
  int slots = 0;               ///< of a head
  int columns = 1, length = 0; ///< of a column, in positions

  constexpr static TimeOrder make(const Index* offsets, Index tokens, Index sequences, Index value_heads, Index columns) {
    const Index slots = cuda::slots(tokens, sequences), length = (slots * value_heads + columns - 1) / columns;
    const auto to_int = [](Index x) { return static_cast<int>(x); };
    return {sequences == 1 ? nullptr : offsets, tokens, to_int(sequences), to_int(value_heads), to_int(slots), to_int(columns), to_int(length)};
  }
  BRAID_FN constexpr int positions() const { return slots * value_heads; }
  BRAID_FN constexpr int items() const { return columns * length; }
  /// Of an item; not below `positions()`: there is none.
  BRAID_FN constexpr int position(int item) const { return item % columns * length + item / columns; }
  BRAID_FN constexpr int position(Index slot, int head) const { return head * slots + static_cast<int>(slot); }

  /// Where the record of an item goes, and the item whose record must have been fetched before, both as positions; no such item: negative.
  struct Place {
    int position, before;
  };
  /// Item n shares the place of item n % places, which item n - places had before it; without places, each has its own. With a multiple of the columns the
  /// items of a place are of one column, so none waits for another's. Otherwise the last items, of steps that not all columns have, have their own places.
  BRAID_FN constexpr Place place(int item, int places) const {
    const bool alone = places == 0 || item < places || (places % columns != 0 && item / columns >= positions() - (columns - 1) * length);
    if (alone) return {position(item), -1};
    return {position(item % places), position(item - places)};
  }

  /// Chunks of a sequence of a head, of which some may be behind its end.
  struct Piece {
    int first, last;     ///< positions, the one behind the last
    int head, sequence;
    Index begin, end;    ///< tokens of the sequence
    int chunk;           ///< of the sequence, at `first`

    /// First token of the chunk at a position, and how many it has; none: the slot is unused.
    BRAID_FN Index token(int position) const { return begin + static_cast<Index>(chunk + position - first) * chunk_tokens; }
    BRAID_FN int tokens(int position) const {
      const Index left = end - token(position);
      return left <= 0 ? 0 : left < chunk_tokens ? static_cast<int>(left) : chunk_tokens;
    }
  };
  /// The piece with a position.
  BRAID_FN Piece piece(int position) const {
    const int column = columns == value_heads ? position / slots : position / length, from = column * length;
    const int head = columns == value_heads ? column : position / slots, start = head * slots;
    const Unit unit = find_unit(offsets, tokens, sequences, chunk_tokens, position - start);
    const int begin = position - static_cast<int>(unit.number), end = start + static_cast<int>(first_slot(unit.end, unit.sequence + 1));
    const int first = begin < from ? from : begin, last = end < from + length ? end : from + length;
    return {first, last, head, unit.sequence, unit.begin, unit.end, end - last};
  }
};

/// Flags of a record, one for each block of the recurrence that reads it, at [position][reader]. All are cleared before the recurrence may start. The
/// preparation then sets them to the place where the record lies, and the reader, once it has fetched the record, to `consumed`,
/// so that the place may be used again.
struct ReadyFlag {
  static constexpr std::uint32_t none = 0, consumed = 0xFFFFFFFFu;
  BRAID_FN static constexpr std::uint32_t at(int place) { return static_cast<std::uint32_t>(place) + 1; }
  BRAID_FN static constexpr Index place(std::uint32_t flag) { return static_cast<Index>(flag) - 1; }
};

}  // namespace braid::cuda
