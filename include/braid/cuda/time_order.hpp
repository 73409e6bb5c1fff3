// Where kernels that run side by side meet: the order in which the preparation writes records and the recurrence reads them. Host-testable.
#pragma once

#include <braid/cuda/record.hpp>

#include <cstdint>

namespace braid::cuda {

/// Work items (a chunk of a value head) in the order of time: sequence by sequence; of each, `heads_at_once` heads after the others (those
/// whose recurrences run at the same time); of these, chunk by chunk. A sequence has the items of all slots reserved for it. With all heads at
/// once, items have the numbers of records (record_index). Numbers are below 2^31.
struct TimeOrder {
  const Index* offsets = nullptr;  ///< [N + 1]; null: one sequence of `tokens`
  Index tokens = 0;
  int sequences = 1, value_heads = 1, heads_at_once = 1;  ///< heads_at_once divides value_heads

  struct Chunk {
    int first, tokens;  ///< of the packed batch; no tokens: the slot is unused
    int head;
  };
  BRAID_FN Chunk chunk(int item) const {
    const int slot = item / value_heads;
    const Unit unit = find_unit(offsets, tokens, sequences, chunk_tokens, slot);
    const int start = slot - static_cast<int>(unit.number), within = item - start * value_heads;
    const int round = heads_at_once == value_heads ? 0 : within / (reserved(start, unit.sequence) * heads_at_once);
    const int in_round = within - round * reserved(start, unit.sequence) * heads_at_once, number = in_round / heads_at_once;
    const int first = static_cast<int>(unit.begin) + number * chunk_tokens, left = static_cast<int>(unit.end) - first;
    return {first, left <= 0 ? 0 : left < chunk_tokens ? left : chunk_tokens, round * heads_at_once + in_round - number * heads_at_once};
  }
  /// The item of a head's first chunk; the next chunk's is `heads_at_once` further on.
  BRAID_FN int first_item(int sequence, int head) const {
    const int start = static_cast<int>(first_slot(offsets == nullptr ? 0 : offsets[sequence], sequence)), in_round = head % heads_at_once;
    return start * value_heads + (head - in_round) * reserved(start, sequence) + in_round;
  }

 private:
  BRAID_FN int reserved(int start, int sequence) const {
    return static_cast<int>(first_slot(offsets == nullptr ? tokens : offsets[sequence + 1], sequence + 1)) - start;
  }
};

/// Flags of a record, one for each block of the recurrence that reads it, at [item][reader]. The preparation has cleared all before the
/// recurrence may start. It then sets them to the place where the record lies, and the reader, once it has fetched the record, to `consumed`,
/// so that the place may be used again.
struct ReadyFlag {
  static constexpr std::uint32_t none = 0, consumed = 0xFFFFFFFFu;
  BRAID_FN static constexpr std::uint32_t at(int place) { return static_cast<std::uint32_t>(place) + 1; }
  BRAID_FN static constexpr Index place(std::uint32_t flag) { return static_cast<Index>(flag) - 1; }
};

}  // namespace braid::cuda
