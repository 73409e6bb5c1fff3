// Element types of stored tensors and their conversion to and from the types a model computes in.
#pragma once

#include <braid/core/error.hpp>
#include <braid/core/types.hpp>

#include <bit>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string_view>
#include <type_traits>
#include <utility>

namespace braid::io {

/// The element type of a tensor in a file. The order and the names are those of the safetensors format.
enum class Stored : std::uint8_t { boolean, u8, i8, u16, i16, u32, i32, u64, i64, f16, bf16, f32, f64 };

/// A bfloat16 as its bits: the upper half of an IEEE float.
struct Bf16 {
  std::uint16_t bits;
};
/// An IEEE binary16 as its bits.
struct F16 {
  std::uint16_t bits;
};

namespace detail {
struct StoredName {
  std::string_view name;
  int bytes;
};
inline constexpr StoredName stored_names[] = {{"BOOL", 1}, {"U8", 1},  {"I8", 1},  {"U16", 2},  {"I16", 2}, {"U32", 4}, {"I32", 4},
                                              {"U64", 8},  {"I64", 8}, {"F16", 2}, {"BF16", 2}, {"F32", 4}, {"F64", 8}};

template <class T> constexpr Stored stored_of() {
  if constexpr (std::same_as<T, bool>) return Stored::boolean;
  else if constexpr (std::same_as<T, F16>) return Stored::f16;
  else if constexpr (std::same_as<T, Bf16>) return Stored::bf16;
  else if constexpr (std::same_as<T, float>) return Stored::f32;
  else if constexpr (std::same_as<T, double>) return Stored::f64;
  else {
    static_assert(std::integral<T>, "braid: a stored element is bool, an integer, F16, Bf16, float or double");
    constexpr int log_size = std::countr_zero(sizeof(T));
    return static_cast<Stored>(static_cast<int>(Stored::u8) + 2 * log_size + std::is_signed_v<T>);
  }
}
}  // namespace detail

/// The Stored of a C++ type: float is f32, std::int64_t is i64, Bf16 is bf16.
template <class T> inline constexpr Stored stored_type = detail::stored_of<std::remove_cv_t<T>>();

constexpr std::string_view name_of(Stored type) { return detail::stored_names[static_cast<int>(type)].name; }
constexpr int bytes_of(Stored type) { return detail::stored_names[static_cast<int>(type)].bytes; }
constexpr bool is_float(Stored type) { return type >= Stored::f16; }

/// The type called `name`, for example "BF16". False if there is none.
constexpr bool find_stored(std::string_view name, Stored& type) {
  for (std::size_t i = 0; i < std::size(detail::stored_names); ++i) {
    if (detail::stored_names[i].name != name) continue;
    type = static_cast<Stored>(i);
    return true;
  }
  return false;
}

/// The type in which a DType is stored.
constexpr Stored stored_of(DType type) {
  switch (type) {
    case DType::f32: return Stored::f32;
    case DType::f64: return Stored::f64;
    case DType::bf16: return Stored::bf16;
    case DType::f16: return Stored::f16;
  }
  return Stored::f32;
}

// ---- 16-bit floats. Widening is exact; narrowing rounds to nearest, ties to even. No branches, so that loops vectorise; no
// ---- arithmetic on subnormal floats, so that flush-to-zero modes do not matter.

inline float to_float(Bf16 x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x.bits) << 16); }

inline float to_float(F16 x) {
  const std::uint32_t magnitude = x.bits & 0x7FFFu, sign = (x.bits & 0x8000u) << 16;
  const std::uint32_t special = 0u - static_cast<std::uint32_t>(magnitude >= 0x7C00u);  // infinity and NaN: an exponent of all ones
  const std::uint32_t tiny = 0u - static_cast<std::uint32_t>(magnitude < 0x400u);
  const std::uint32_t normal = (magnitude << 13) + (112u << 23) + (special & (112u << 23));
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f);
  return std::bit_cast<float>((normal & ~tiny) | (subnormal & tiny) | sign);
}

inline Bf16 to_bf16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16;
  const bool nan = (bits & 0x7FFFFFFFu) > 0x7F800000u;
  return {static_cast<std::uint16_t>(nan ? (bits >> 16) | 0x40u : rounded)};
}

inline F16 to_f16(float x) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(x);
  const std::uint32_t magnitude = bits & 0x7FFFFFFFu, sign = (bits >> 16) & 0x8000u;
  const std::uint32_t normal = (magnitude - (112u << 23) + 0xFFFu + ((magnitude >> 13) & 1u)) >> 13;
  // Below 2^-14 the spacing is 2^-24: adding 0.5, whose own spacing is 2^-24, rounds there.
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - (126u << 23);
  std::uint32_t out = magnitude < (113u << 23) ? subnormal : normal;
  out = magnitude >= (143u << 23) || out > 0x7C00u ? 0x7C00u : out;
  out = magnitude > 0x7F800000u ? 0x7E00u : out;
  return {static_cast<std::uint16_t>(out | sign)};
}

namespace detail {
/// A double as a float rounded to odd, so that a second rounding to 16 bits is as if there had been only one.
inline float round_to_odd(double x) {
  const float near = static_cast<float>(x);
  const double back = near;
  if (back == x || std::isnan(x) || std::isinf(x)) return near;
  std::uint32_t bits = std::bit_cast<std::uint32_t>(near);
  if (std::abs(back) > std::abs(x)) --bits;
  return std::bit_cast<float>(bits | 1u);
}
}  // namespace detail

/// One element from one type to another.
template <class To, class From> inline To convert(From x) {
  if constexpr (std::same_as<To, From>) {
    return x;
  } else if constexpr (std::same_as<From, Bf16> || std::same_as<From, F16>) {
    return convert<To>(to_float(x));
  } else if constexpr (std::same_as<To, Bf16> || std::same_as<To, F16>) {
    float narrow;
    if constexpr (std::same_as<From, float>) narrow = x;
    else narrow = detail::round_to_odd(static_cast<double>(x));
    if constexpr (std::same_as<To, Bf16>) return to_bf16(narrow);
    else return to_f16(narrow);
  } else {
    return static_cast<To>(x);
  }
}

/// Calls f with a value of the C++ type of `type`: `visit_stored(type, [&](auto x) { using S = decltype(x); ... })`.
template <class F> decltype(auto) visit_stored(Stored type, F&& f) {
  switch (type) {
    case Stored::boolean: return f(bool{});
    case Stored::u8: return f(std::uint8_t{});
    case Stored::i8: return f(std::int8_t{});
    case Stored::u16: return f(std::uint16_t{});
    case Stored::i16: return f(std::int16_t{});
    case Stored::u32: return f(std::uint32_t{});
    case Stored::i32: return f(std::int32_t{});
    case Stored::u64: return f(std::uint64_t{});
    case Stored::i64: return f(std::int64_t{});
    case Stored::f16: return f(F16{});
    case Stored::bf16: return f(Bf16{});
    case Stored::f32: return f(float{});
    case Stored::f64: break;
  }
  return f(double{});
}

namespace detail {
/// Converts N elements; false if an integer does not fit. By way of local arrays of fixed length: nothing can overlap, so compilers
/// vectorise at -O2.
template <class T, class From, std::size_t N> bool convert_block(const unsigned char* from, T* to) {
  From in[N];
  T out[N];
  std::memcpy(in, from, sizeof in);
  int misfits = 0;
  for (std::size_t i = 0; i < N; ++i) {
    if constexpr (std::integral<T> && std::integral<From>) misfits += !std::in_range<T>(in[i]);
    out[i] = convert<T>(in[i]);
  }
  std::memcpy(to, out, sizeof out);
  return misfits == 0;
}
}  // namespace detail

/// Converts `count` elements. `from` needs no alignment. Integers are checked: false if one does not fit into T.
template <class T, class From> bool convert_array(const unsigned char* from, T* to, std::size_t count) {
  bool fits = true;
  if constexpr (std::same_as<From, bool> || std::same_as<T, bool>) {  // any byte but 0 is true; it must not be read as a bool
    static_assert(sizeof(bool) == 1);
    for (std::size_t i = 0; i < count; ++i) to[i] = convert<T>(from[i] != 0);
  } else {
    const std::size_t whole = count / 64 * 64;
    for (std::size_t i = 0; i < whole; i += 64) fits &= detail::convert_block<T, From, 64>(from + i * sizeof(From), to + i);
    for (std::size_t i = whole; i < count; ++i) fits &= detail::convert_block<T, From, 1>(from + i * sizeof(From), to + i);
  }
  return fits;
}

/// True if `T` may be read from a tensor stored as `type`: floats from anything, integers from integers, bool from bool.
template <class T> constexpr bool readable_as(Stored type) {
  if constexpr (std::same_as<T, bool>) return type == Stored::boolean;
  else if constexpr (std::integral<T>) return !is_float(type);
  else return true;
}

/// True unless an element is NaN or infinite.
template <class T> bool all_finite(const T* x, std::size_t count) {
  if constexpr (std::floating_point<T>) {
    using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    constexpr Bits exponent = std::bit_cast<Bits>(std::numeric_limits<T>::infinity());
    Bits bad = 0;
    for (std::size_t i = 0; i < count; ++i) bad |= Bits((std::bit_cast<Bits>(x[i]) & exponent) == exponent);
    return bad == 0;
  }
  return true;
}

}  // namespace braid::io
