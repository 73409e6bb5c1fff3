// Elementwise work by packs: every element goes through the same instructions, also the last few of an array, so a value depends
// neither on its place in memory nor on the number of threads.
#pragma once

#include <braid/cpu/pack.hpp>
#include <braid/cpu/parallel.hpp>

#include <algorithm>
#include <array>

namespace braid::cpu {

/// The first `count` elements at `p`; lanes beyond them are `fill`.
template <class T> Pack<T> load_part(const T* p, Index count, T fill = T(0)) {
  if (count >= Pack<T>::lanes) return Pack<T>::load(p);
  T room[Pack<T>::lanes];
  std::fill_n(room, Pack<T>::lanes, fill);
  std::copy_n(p, count, room);
  return Pack<T>::load(room);
}

/// Stores the first `count` lanes.
template <class T> void store_part(Pack<T> x, T* p, Index count) {
  if (count >= Pack<T>::lanes) return x.store(p);
  T room[Pack<T>::lanes];
  x.store(room);
  std::copy_n(room, count, p);
}

/// (out[0][i], ...) = f((in[0][i], ...)) for i < size, where f maps an array of packs to an array of packs. Outputs may be inputs.
template <class T, std::size_t I, std::size_t O, class F>
void map(const Context& ctx, Index size, const std::array<const T*, I>& in, const std::array<T*, O>& out, F&& f) {
  constexpr Index lanes = Pack<T>::lanes;
  parallel_ranges(ctx, (size + lanes - 1) / lanes, 256, [&](Index begin, Index end) {
    for (Index at = begin * lanes; at < std::min(size, end * lanes); at += lanes) {
      std::array<Pack<T>, I> x;
      for (std::size_t i = 0; i < I; ++i) x[i] = load_part(in[i] + at, size - at);
      const std::array<Pack<T>, O> y = f(x);
      for (std::size_t o = 0; o < O; ++o) store_part(y[o], out[o] + at, size - at);
    }
  });
}

}  // namespace braid::cpu
