// Learning rates as pure functions of the step. A schedule is anything callable as `double(Index step)`, steps from 0.
#pragma once

#include <braid/core/types.hpp>

#include <cmath>
#include <numbers>

namespace braid {

namespace detail {
/// (step + 1) / warmup during warm-up, so that the first step already learns; 1 afterwards.
inline double warmup_factor(Index step, Index warmup) {
  return step < warmup ? static_cast<double>(step + 1) / static_cast<double>(warmup) : 1;
}
/// How much of the `length` steps that begin at `begin` is over at `step`, 0 to 1.
inline double elapsed(Index step, Index begin, Index length) {
  if (step < begin) return 0;
  if (step >= begin + length) return 1;
  return static_cast<double>(step - begin) / static_cast<double>(length);
}
}  // namespace detail

/// Warm-up, stable, decay: linear up over `warmup` steps, `peak`, then linear down to `floor` over the last `decay` of `steps`.
struct Wsd {
  double peak = 1e-3;
  Index warmup = 0, steps = 0, decay = 0;
  double floor = 0;

  double operator()(Index step) const {
    return detail::warmup_factor(step, warmup) * (peak + (floor - peak) * detail::elapsed(step, steps - decay, decay));
  }
};

/// Linear up over `warmup` steps, then half a cosine from `peak` down to `floor` at `steps`.
struct Cosine {
  double peak = 1e-3;
  Index warmup = 0, steps = 0;
  double floor = 0;

  double operator()(Index step) const {
    const double t = detail::elapsed(step, warmup, steps - warmup);
    return detail::warmup_factor(step, warmup) * (floor + (peak - floor) * 0.5 * (1 + std::cos(std::numbers::pi * t)));
  }
};

/// The same rate at every step.
struct Constant {
  double rate = 1e-3;
  double operator()(Index) const { return rate; }
};

}  // namespace braid
