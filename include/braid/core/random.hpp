// Counter-based random numbers: the n-th number of a stream depends on (seed, stream, n) alone, on any machine, in any order.
#pragma once

#include <braid/core/types.hpp>

#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

namespace braid {

/// A seed, as a type of its own so that `Model(ctx, braid::seed(1))` reads as what it is.
struct Seed {
  std::uint64_t value = 0;
};
constexpr Seed seed(std::uint64_t value) { return {value}; }

/// A stream of random numbers from a seed and a stream number (SplitMix64 over a counter; Steele, Lea, Flood 2014).
/// Its whole state is `position`, so it can be saved and restored exactly.
class Random {
 public:
  constexpr explicit Random(Seed seed, std::uint64_t stream = 0) : key_(mix(mix(seed.value) ^ mix(~stream))) {}

  constexpr std::uint64_t bits() { return mix(key_ + 0x9E3779B97F4A7C15ull * ++position); }
  /// Uniform in [0, 1) with 53 bits.
  constexpr double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  constexpr double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// Uniform integer in [0, n), n > 0, without bias (rejection).
  constexpr std::uint64_t below(std::uint64_t n) {
    for (;;) {
      const std::uint64_t x = bits();
      const std::uint64_t limit = n * (~std::uint64_t{0} / n);
      if (x < limit) return x % n;
    }
  }
  /// Standard normal (Box-Muller; uses two numbers).
  double normal() {
    const double radius = std::sqrt(-2 * std::log(1 - uniform()));
    return radius * std::cos(2 * std::numbers::pi * uniform());
  }

  std::uint64_t position = 0;

  /// A 64-bit hash of a name, to give every parameter a stream of its own (FNV-1a).
  static constexpr std::uint64_t hash(std::string_view name) {
    std::uint64_t h = 0xCBF29CE484222325ull;
    for (char c : name) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001B3ull;
    return h;
  }

 private:
  static constexpr std::uint64_t mix(std::uint64_t z) {
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    return z ^ (z >> 31);
  }
  std::uint64_t key_;
};

}  // namespace braid
