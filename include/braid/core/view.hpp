// A pointer with a shape: what every operation takes and no operation owns.
#pragma once

#include <braid/core/error.hpp>
#include <braid/core/macros.hpp>
#include <braid/core/types.hpp>

#include <array>
#include <cstddef>
#include <string>
#include <string_view>
#include <type_traits>

namespace braid {

/// A contiguous row-major array of `Rank` dimensions in memory owned by someone else. Trivially copyable, usable on the device.
/// A default-constructed view is null (`!view`), which operations read as "absent".
template <class T, int Rank> struct View {
  T* data = nullptr;
  std::array<Index, Rank> shape{};

  constexpr View() = default;
  template <class... Extent>
    requires(sizeof...(Extent) == Rank)
  constexpr View(T* pointer, Extent... extent) : data(pointer), shape{static_cast<Index>(extent)...} {}
  constexpr View(T* pointer, std::array<Index, Rank> extents) : data(pointer), shape(extents) {}

  /// A view of T converts to a view of const T.
  constexpr operator View<const T, Rank>() const
    requires(!std::is_const_v<T>)
  {
    return {data, shape};
  }

  constexpr explicit operator bool() const { return data != nullptr; }

  /// Number of elements.
  constexpr Index size() const {
    Index n = 1;
    for (Index extent : shape) n *= extent;
    return n;
  }
  constexpr Index rows() const { return shape[0]; }
  constexpr Index cols() const requires(Rank == 2) { return shape[1]; }

  /// Elements of one entry of the first dimension.
  constexpr Index stride() const {
    Index n = 1;
    for (int d = 1; d < Rank; ++d) n *= shape[d];
    return n;
  }
  /// Pointer to entry `i` of the first dimension.
  constexpr T* row(Index i) const { return data + i * stride(); }

  /// Element access.
  template <class... I>
    requires(sizeof...(I) == Rank)
  constexpr T& operator()(I... index) const {
    Index offset = 0;
    int d = 0;
    ((offset = offset * shape[d++] + static_cast<Index>(index)), ...);
    return data[offset];
  }

  /// The same elements under another shape of equal size.
  template <class... Extent> constexpr auto reshaped(Extent... extent) const {
    return View<T, sizeof...(Extent)>(data, extent...);
  }
  /// Entries [first, first + count) of the first dimension.
  constexpr View slice(Index first, Index count) const {
    auto extents = shape;
    extents[0] = count;
    return {row(first), extents};
  }
  constexpr T* begin() const { return data; }
  constexpr T* end() const { return data + size(); }
};

namespace detail {
template <std::size_t N> BRAID_NOINLINE std::string shape_text(const std::array<Index, N>& shape) {
  std::string out = "[";
  for (std::size_t d = 0; d < N; ++d) out += (d ? ", " : "") + std::to_string(shape[d]);
  return out + "]";
}
template <std::size_t N>
[[noreturn]] BRAID_NOINLINE void fail_shape(const std::array<Index, N>& expected, const std::array<Index, N>& found,
                                            std::string_view where) {
  throw Error(std::string(where), "shape " + shape_text(expected), shape_text(found));
}
}  // namespace detail

/// Throws Error unless `view` has exactly the shape given.
template <class T, int Rank>
void require_shape(const View<T, Rank>& view, const std::type_identity_t<std::array<Index, Rank>>& expected,
                   std::string_view where) {
  if (view.shape != expected) [[unlikely]]
    detail::fail_shape(expected, view.shape, where);
}

}  // namespace braid
