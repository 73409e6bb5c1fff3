// Rotary position embedding, in the interleaved layout of DeepSeek's MLA: elements (2i, 2i + 1) of a head's rotary part are one
// complex number, turned by the angle position * theta^(-2i / dims).
#pragma once

#include <braid/core/batch.hpp>
#include <braid/core/view.hpp>
#include <braid/cpu/parallel.hpp>

#include <cmath>
#include <span>

namespace braid::cpu {

namespace detail {
template <class T>
void rotate(Context& ctx, View<T, 3> x, Index first, double theta, const Batch& batch, std::span<const Index> starts, int sign) {
  const Index heads = x.shape[1], size = x.shape[2], pairs = (size - first) / 2;
  require(first >= 0 && first <= size && (size - first) % 2 == 0, "rope", "an even number of elements to rotate",
          braid::detail::text(size - first));
  require_shape(x, {batch.tokens(), heads, size}, "rope: x");
  auto scope = ctx.arena.scope();
  auto frequency = ctx.arena.template take<double>(pairs);
  for (Index i = 0; i < pairs; ++i) frequency(i) = std::pow(theta, -2.0 * double(i) / double(2 * pairs));
  for (Index s = 0; s < batch.sequences(); ++s) {
    const Index start = starts.empty() ? 0 : starts[static_cast<std::size_t>(batch.slot(s))];
    parallel_ranges(ctx, batch.length(s), 16, [&](Index begin, Index end) {
      for (Index t = begin; t < end; ++t)
        for (Index i = 0; i < pairs; ++i) {
          const double angle = double(sign) * double(start + t) * frequency(i);
          const T c = T(std::cos(angle)), n = T(std::sin(angle));
          T* pair = x.row(batch.begin(s) + t) + first + 2 * i;
          for (Index h = 0; h < heads; ++h, pair += size) {
            const T real = pair[0], imaginary = pair[1];
            pair[0] = c * real - n * imaginary;
            pair[1] = n * real + c * imaginary;
          }
        }
    });
  }
}
}  // namespace detail

/// Turns, in place, elements [first, size) of every head of x [tokens, heads, size]; size - first must be even. The position of token
/// t of sequence s is t plus `starts[slot of s]` (no starts: 0). Angles are formed in double.
template <class T>
void rope(Context& ctx, View<T, 3> x, Index first, double theta, const Batch& batch, std::span<const Index> starts = {}) {
  detail::rotate(ctx, x, first, theta, batch, starts, 1);
}

/// The gradient of a rotation is the rotation back: d_x, in place, as `rope` without starts.
template <class T> void rope_backward(Context& ctx, View<T, 3> d_x, Index first, double theta, const Batch& batch) {
  detail::rotate(ctx, d_x, first, theta, batch, {}, -1);
}

}  // namespace braid::cpu
