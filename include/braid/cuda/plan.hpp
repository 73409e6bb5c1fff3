// What a prefill call needs beside its arrays: one description used by the size query, the checks and the launch. Host-testable.
#pragma once

#include <braid/cuda/record.hpp>

#include <cstddef>

namespace braid::cuda {

/// Sections of the workspace of `linear_attention`, in bytes from its start.
struct PrefillPlan {
  Index slot_count = 0;   ///< records per value head
  Index record_bytes = 0;
  std::size_t bytes = 0;  ///< of the whole workspace

  constexpr static PrefillPlan make(Record record, Index tokens, Index sequences, Index value_heads) {
    PrefillPlan plan;
    plan.slot_count = slots(tokens, sequences);
    plan.record_bytes = record.bytes();
    plan.bytes = static_cast<std::size_t>(plan.slot_count * value_heads * plan.record_bytes);
    return plan;
  }
};

static_assert(PrefillPlan::make(Record{128, Strength::one}, 8192, 1, 64).bytes == 257ull * 64 * 29184);

}  // namespace braid::cuda
