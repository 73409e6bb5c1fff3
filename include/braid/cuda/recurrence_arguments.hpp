// What every recurrence kernel (portable, Hopper) takes beside the records.
#pragma once

#include <braid/cuda/record.hpp>

#include <cstddef>

namespace braid::cuda {

/// Device pointers; null means absent. T is the type of v and o.
template <class T> struct RecurrenceArguments {
  const std::byte* records = nullptr;  ///< [slots, HV] records (record.hpp)
  const T* v = nullptr;                ///< [T, HV, V]
  T* o = nullptr;                      ///< [T, HV, V]; null: states only
  const float* initial_state = nullptr;  ///< [N, HV, K, V], key-first; null: zero
  float* final_state = nullptr;          ///< [N, HV, K, V]; null: not wanted. May be the initial state's memory
  /// State after every `checkpoint_chunks` whole chunks: checkpoint j of sequence n (after (j + 1) * checkpoint_chunks chunks) is
  /// entry offsets[n] / (32 * checkpoint_chunks) + j of [T / (32 * checkpoint_chunks), HV, K, V]. Null: not wanted.
  float* checkpoints = nullptr;
  int checkpoint_chunks = 0;
  const Index* offsets = nullptr;  ///< [N + 1], device memory; null: one sequence of `tokens`
  Index tokens = 0;
  int sequences = 1, value_heads = 0;
  float scale = 1;
};

/// First token and length of a sequence.
struct SequenceRange {
  Index begin, length;
};
template <class T> BRAID_FN SequenceRange sequence_range(const RecurrenceArguments<T>& args, int sequence) {
  if (args.offsets == nullptr) return {0, args.tokens};
  return {args.offsets[sequence], args.offsets[sequence + 1] - args.offsets[sequence]};
}

}  // namespace braid::cuda
