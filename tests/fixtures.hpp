// Inputs and outputs of tests.
#pragma once

#include <braid/core/memory.hpp>
#include <braid/core/random.hpp>
#include <braid/cpu/context.hpp>

#include <limits>

namespace fixtures {

using braid::Index;

/// A tensor of standard normal numbers times `scale`.
template <class T, class... Extent> auto normal(std::uint64_t seed, double scale, Extent... extent) {
  braid::Tensor<T, sizeof...(Extent)> x(braid::cpu::host_memory(), extent...);
  braid::Random random(braid::seed(seed));
  for (Index i = 0; i < x.size(); ++i) x.data()[i] = static_cast<T>(scale * random.normal());
  return x;
}

/// A tensor of NaN: an output that must be overwritten entirely.
template <class T, class... Extent> auto poison(Extent... extent) {
  braid::Tensor<T, sizeof...(Extent)> x(braid::cpu::host_memory(), extent...);
  std::fill_n(x.data(), x.size(), std::numeric_limits<T>::quiet_NaN());
  return x;
}

}  // namespace fixtures
