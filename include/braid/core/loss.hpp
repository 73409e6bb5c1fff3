// The result of a cross-entropy, the same for every backend.
#pragma once

#include <braid/core/types.hpp>

namespace braid {

/// Targets below zero are not counted.
inline constexpr Token ignored_target = -1;

/// Cross-entropy over the counted targets of a batch.
struct CrossEntropy {
  double mean = 0;    ///< -log p(target), mean over the counted targets, in nats; 0 when there is none
  Index counted = 0;  ///< targets >= 0
  Index correct = 0;  ///< counted targets whose logit is the row's first maximum

  constexpr operator double() const { return mean; }
};

}  // namespace braid
