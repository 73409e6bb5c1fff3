// Short causal depthwise convolution followed by swish (section 4): y_t = swish(sum_j w_j x_{t - (W-1) + j}), oldest tap first.
#pragma once

#include <braid/core/activation.hpp>
#include <braid/core/batch.hpp>
#include <braid/core/view.hpp>
#include <braid/cpu/elementwise.hpp>
#include <braid/cpu/slots.hpp>

#include <algorithm>

namespace braid::cpu {

namespace detail {

/// Channels computed at a time: a thread's inputs and outputs stay in the first cache.
inline constexpr Index conv_channels = 64;
/// The widest convolution.
inline constexpr Index conv_width = 16;

/// The taps [width, channels] of a convolution stored as [channels, width], in the arena.
template <class T> View<T, 2> transposed_taps(Context& ctx, View<const T, 2> w) {
  auto taps = ctx.arena.template take<T>(w.cols(), w.rows());
  for (Index j = 0; j < w.cols(); ++j)
    for (Index c = 0; c < w.rows(); ++c) taps(j, c) = w(c, j);
  return taps;
}

/// One sequence's inputs, preceded by what a cache remembers of earlier ones or by zeros (null).
template <class T> struct ConvInput {
  const T* x;     ///< [length, channels]
  const T* tail;  ///< [width - 1, channels] or null
  Index width, channels;

  const T* row(Index t) const {
    if (t >= 0) return x + t * channels;
    return tail ? tail + (width - 1 + t) * channels : nullptr;
  }
  /// Calls f(i, count, z) with packs of z, the sums before the activation, of channels [begin, end) of token t.
  template <class F> void convolve(View<T, 2> taps, Index t, Index begin, Index end, F&& f) const {
    static constexpr T zeros[conv_channels] = {};
    const T* rows[conv_width];
    for (Index j = 0; j < width; ++j) {
      const T* in = row(t - (width - 1) + j);
      rows[j] = in ? in + begin : zeros;
    }
    each_pack<T>(end - begin, [&](Index i, Index count) {
      Pack<T> z(T(0));
      for (Index j = 0; j < width; ++j) z = fma(load_part(taps.row(j) + begin + i, count), load_part(rows[j] + i, count), z);
      f(i, count, z);
    });
  }
};

/// Calls f(begin, end) for pieces of [0, channels), in parallel when there is work for it.
template <class F> void channel_pieces(const Context& ctx, Index tokens, Index channels, F&& f) {
  const Index pieces = (channels + conv_channels - 1) / conv_channels;
  parallel_ranges(ctx, pieces, 1 + 64 / (tokens + 1), [&](Index first, Index last) {
    for (Index p = first; p < last; ++p) f(p * conv_channels, std::min(channels, (p + 1) * conv_channels));
  });
}

}  // namespace detail

/// x, y [tokens, channels], w [channels, width]. Sequences of the packed batch do not see each other.
/// `tail` [slots, width - 1, channels], if not null, holds the last inputs of each slot, oldest first (zeros at the start): the
/// sequences continue theirs, and leave their own behind. Throws Error if a slot of the batch is beyond it.
template <class T>
void short_conv(Context& ctx, View<const T, 2> x, View<const T, 2> w, const Batch& batch, View<T, 2> y, View<T, 3> tail = {}) {
  const Index channels = x.cols(), width = w.cols();
  require_shape(w, {channels, width}, "short_conv: w");
  require(width > 0 && width <= detail::conv_width, "short_conv: w", braid::detail::text("1 to ", detail::conv_width, " taps"), width);
  require_shape(y, x.shape, "short_conv: y");
  require_shape(x, {batch.tokens(), channels}, "short_conv: x");
  if (tail) {
    require_shape(tail, {tail.rows(), width - 1, channels}, "short_conv: tail");
    check_slots(batch, tail.rows(), "short_conv: tail");
  }
  auto scope = ctx.arena.scope();
  const auto taps = detail::transposed_taps(ctx, w);
  detail::channel_pieces(ctx, x.rows(), channels, [&](Index begin, Index end) {
    for (Index s = 0; s < batch.sequences(); ++s) {
      const Index first = batch.begin(s), length = batch.length(s);
      T* memory = tail ? tail.row(batch.slot(s)) : nullptr;
      const detail::ConvInput<T> input{x.row(first), memory, width, channels};
      for (Index t = 0; t < length; ++t) {
        T* out = y.row(first + t) + begin;
        input.convolve(taps, t, begin, end, [&](Index i, Index n, Pack<T> z) { store_part(Swish::value(z), out + i, n); });
      }
      if (!memory || length == 0) continue;
      for (Index j = 0; j < width - 1; ++j)  // ascending: row j comes from a later row of the tail, or from x
        std::copy(input.row(length - (width - 1) + j) + begin, input.row(length - (width - 1) + j) + end,
                  memory + j * channels + begin);
    }
  });
}

/// dx overwritten, dw added to; sequences start without a tail. x, dy, dx [tokens, channels], w, dw [channels, width].
template <class T>
void short_conv_backward(Context& ctx, View<const T, 2> x, View<const T, 2> w, const Batch& batch, View<const T, 2> dy,
                         View<T, 2> dx, View<T, 2> dw) {
  const Index channels = x.cols(), width = w.cols();
  require_shape(w, {channels, width}, "short_conv_backward: w");
  require(width > 0 && width <= detail::conv_width, "short_conv_backward: w", braid::detail::text("1 to ", detail::conv_width, " taps"),
          width);
  require_shape(dw, w.shape, "short_conv_backward: dw");
  require_shape(x, {batch.tokens(), channels}, "short_conv_backward: x");
  require_shape(dy, x.shape, "short_conv_backward: dy");
  require_shape(dx, x.shape, "short_conv_backward: dx");
  auto scope = ctx.arena.scope();
  const auto taps = detail::transposed_taps(ctx, w);
  auto dz = ctx.arena.template take<T>(x.rows(), channels);
  auto d_taps = ctx.arena.template take_zero<T>(width, channels);
  detail::channel_pieces(ctx, x.rows(), channels, [&](Index begin, Index end) {
    for (Index s = 0; s < batch.sequences(); ++s) {
      const Index first = batch.begin(s), length = batch.length(s);
      const detail::ConvInput<T> input{x.row(first), nullptr, width, channels};
      for (Index t = 0; t < length; ++t) {
        T* d = dz.row(first + t) + begin;
        const T* d_out = dy.row(first + t) + begin;
        input.convolve(taps, t, begin, end, [&](Index i, Index n, Pack<T> z) {
          store_part(load_part(d_out + i, n) * Swish::derivative(z), d + i, n);
        });
        for (Index j = 0; j < width; ++j) {
          const T* in = input.row(t - (width - 1) + j);
          if (!in) continue;
          T* sum = d_taps.row(j);
          for (Index c = begin; c < end; ++c) sum[c] += d[c - begin] * in[c];
        }
      }
      for (Index t = 0; t < length; ++t) {
        T* d_in = dx.row(first + t);
        std::fill(d_in + begin, d_in + end, T(0));
        for (Index j = std::max(Index{0}, width - (length - t)); j < width; ++j) {
          const T *d = dz.row(first + t + (width - 1) - j), *tap = taps.row(j);
          for (Index c = begin; c < end; ++c) d_in[c] += tap[c] * d[c];
        }
      }
    }
  });
  for (Index c = 0; c < channels; ++c)
    for (Index j = 0; j < width; ++j) dw(c, j) += d_taps(j, c);
}

}  // namespace braid::cpu
