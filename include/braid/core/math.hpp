// Scalar functions used by gates, on host and device. `T` may also be a pack of lanes (cpu/pack.hpp): lookup is by argument.
#pragma once

#include <braid/core/macros.hpp>

#include <cmath>

namespace braid::math {

template <class T> BRAID_FN T exp(T x) {
  using std::exp;
  return exp(x);
}
template <class T> BRAID_FN T log1p(T x) {
  using std::log1p;
  return log1p(x);
}
template <class T> BRAID_FN T abs(T x) {
  using std::abs;
  return abs(x);
}
template <class T> BRAID_FN T positive_part(T x) { return (x + math::abs(x)) * T(0.5); }

/// 1 / (1 + exp(-x)).
template <class T> BRAID_FN T sigmoid(T x) { return T(1) / (T(1) + math::exp(-x)); }

/// log(1 + exp(x)), without overflow for any finite x.
template <class T> BRAID_FN T softplus(T x) { return positive_part(x) + math::log1p(math::exp(-math::abs(x))); }

}  // namespace braid::math
