// Pack<T>: as many T as a vector register of the target holds. Gates written with arithmetic and braid::math run on packs unchanged.
// `padded(n)` rounds a row's length up to whole packs, so that inner loops have no remainder.
#pragma once

#include <braid/core/macros.hpp>
#include <braid/core/types.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>

namespace braid::cpu {

namespace detail {
#if defined(__AVX512F__)
inline constexpr int register_bytes = 64;
#elif defined(__AVX__)
inline constexpr int register_bytes = 32;
#else
inline constexpr int register_bytes = 16;
#endif

/// The vector type of the compiler (GCC and Clang) and the integers of the same width; any other T is a pack of one.
template <class T> struct PackTypes {
  using Raw = T;
  static constexpr Index lanes = 1;
};
template <> struct PackTypes<float> {
  typedef float Raw __attribute__((vector_size(register_bytes)));
  typedef std::int32_t Bits __attribute__((vector_size(register_bytes)));
  static constexpr Index lanes = register_bytes / sizeof(float);
  static constexpr int mantissa = 23, bias = 127, exp_terms = 7, log_terms = 5;
  static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float exp_low = -87.3f, exp_high = 89.0f;
};
template <> struct PackTypes<double> {
  typedef double Raw __attribute__((vector_size(register_bytes)));
  typedef std::int64_t Bits __attribute__((vector_size(register_bytes)));
  static constexpr Index lanes = register_bytes / sizeof(double);
  static constexpr int mantissa = 52, bias = 1023, exp_terms = 13, log_terms = 11;
  static constexpr double ln2_high = 0x1.62e42fefap-1, ln2_low = 0x1.cf79abc9e3b3ap-40;
  static constexpr double exp_low = -708.0, exp_high = 710.0;
};
}  // namespace detail

template <class T> struct Pack {
  using Types = detail::PackTypes<T>;
  using Raw = typename Types::Raw;
  static constexpr Index lanes = Types::lanes;

  Raw raw;

  Pack() = default;
  Pack(T x) : raw(x - Raw{}) {}
  static Pack of(Raw r) {
    Pack p;
    p.raw = r;
    return p;
  }
  static Pack load(const T* from) {
    Pack p;
    std::memcpy(&p.raw, from, sizeof(Raw));
    return p;
  }
  void store(T* to) const { std::memcpy(to, &raw, sizeof(Raw)); }

  friend Pack operator+(Pack a, Pack b) { return of(a.raw + b.raw); }
  friend Pack operator-(Pack a, Pack b) { return of(a.raw - b.raw); }
  friend Pack operator*(Pack a, Pack b) { return of(a.raw * b.raw); }
  friend Pack operator/(Pack a, Pack b) { return of(a.raw / b.raw); }
  friend Pack operator-(Pack a) { return of(-a.raw); }
  Pack& operator+=(Pack b) { return raw += b.raw, *this; }
  Pack& operator-=(Pack b) { return raw -= b.raw, *this; }
  Pack& operator*=(Pack b) { return raw *= b.raw, *this; }
};

/// a * b + c, fused where the target can.
template <class T> inline Pack<T> fma(Pack<T> a, Pack<T> b, Pack<T> c) { return Pack<T>::of(a.raw * b.raw + c.raw); }

namespace detail {
/// Sum of the elements of a vector of `Bytes` bytes, by halves.
template <class T, int Bytes, class V> inline T sum_halves(V v) {
  if constexpr (Bytes == sizeof(T)) {
    T x;
    std::memcpy(&x, &v, sizeof(T));
    return x;
  } else if constexpr (Bytes <= 16) {
    T x[Bytes / sizeof(T)];
    std::memcpy(x, &v, Bytes);
    if constexpr (Bytes / sizeof(T) == 2) return x[0] + x[1];
    else return (x[0] + x[1]) + (x[2] + x[3]);
  } else {
    typedef T Half __attribute__((vector_size(Bytes / 2)));
    Half low, high;
    std::memcpy(&low, &v, Bytes / 2);
    std::memcpy(&high, reinterpret_cast<const char*>(&v) + Bytes / 2, Bytes / 2);
    return sum_halves<T, Bytes / 2>(Half(low + high));
  }
}
}  // namespace detail

/// Sum of the lanes.
template <class T> inline T sum(Pack<T> a) {
  if constexpr (Pack<T>::lanes == 1) return a.raw;
  else return detail::sum_halves<T, sizeof(a.raw)>(a.raw);
}

// The functions of braid/core/math.hpp, found by argument-dependent lookup. Relative error below 2 ulp; results that would be
// subnormal are zero.
template <class T> inline Pack<T> abs(Pack<T> a) { return Pack<T>::of(a.raw < 0 ? -a.raw : a.raw); }

template <class T> inline Pack<T> exp(Pack<T> a) {
  if constexpr (Pack<T>::lanes == 1) return Pack<T>(std::exp(a.raw));
  else {
    using Types = detail::PackTypes<T>;
    using Raw = typename Types::Raw;
    using Bits = typename Types::Bits;
    constexpr T magic = T(3) * (T(1) / std::numeric_limits<T>::epsilon()) / 2;  // adding it rounds to an integer
    Raw x = a.raw > Types::exp_high ? Types::exp_high - Raw{} : a.raw;
    const Raw low = Types::exp_low - Raw{};
    x = a.raw < low ? low : x;
    const Raw n = (x * T(1.4426950408889634) + magic) - magic;
    const Raw r = (x - n * Types::ln2_high) - n * Types::ln2_low;
    Raw p = Raw{} + T(1);
    for (int k = Types::exp_terms; k > 0; --k) p = p * (r * T(1.0 / k)) + T(1);  // sum of r^k / k!
    const Bits whole = __builtin_convertvector(n, Bits), half = whole >> 1;
    const auto power = [](Bits e) { return (Raw)((e + Types::bias) << Types::mantissa); };
    p = p * power(half) * power(whole - half);
    return Pack<T>::of(a.raw < low ? Raw{} : p);
  }
}

template <class T> inline Pack<T> log1p(Pack<T> a) {
  if constexpr (Pack<T>::lanes == 1) return Pack<T>(std::log1p(a.raw));
  else {
    using Types = detail::PackTypes<T>;
    using Raw = typename Types::Raw;
    using Bits = typename Types::Bits;
    const Raw y = a.raw + T(1);
    const Bits bits = (Bits)y;
    constexpr auto one = (decltype(bits[0] + 0))(Types::bias) << Types::mantissa;
    constexpr auto root_half = one - (decltype(one)(1) << (Types::mantissa - 1));  // 0.75: mantissas in [0.75, 1.5)
    const Bits exponent = (bits - root_half) >> Types::mantissa;
    const Raw m = (Raw)(bits - (exponent << Types::mantissa));
    const Raw e = __builtin_convertvector(exponent, Raw);
    const Raw s = (m - T(1)) / (m + T(1)), z = s * s;  // log m = 2 atanh(s)
    Raw p = Raw{};
    for (int k = Types::log_terms; k >= 0; --k) p = p * z + T(2.0 / (2 * k + 1));
    const Raw lost = (a.raw - (y - T(1))) / y;  // what the addition rounded away
    const Raw value = e * Types::ln2_high + (s * p + (e * Types::ln2_low + lost));
    const Raw nan = std::numeric_limits<T>::quiet_NaN() - Raw{}, infinity = std::numeric_limits<T>::infinity() - Raw{};
    const Raw edge = y == 0 ? -infinity : (y == infinity ? infinity : nan);
    return Pack<T>::of(((y > 0) & (y < infinity)) ? value : edge);
  }
}

/// The smallest multiple of Pack<T>::lanes that is >= n.
template <class T> constexpr Index padded(Index n) { return (n + Pack<T>::lanes - 1) / Pack<T>::lanes * Pack<T>::lanes; }

/// Calls f(i) for i = 0, lanes, 2 lanes, ... < n; n is padded.
template <class T, class F> inline void for_packs(Index n, F&& f) {
  for (Index i = 0; i < n; i += Pack<T>::lanes) f(i);
}

/// Calls f(integral_constant 0), ..., f(integral_constant N - 1): a loop whose index is a constant, so that arrays of packs indexed
/// by it stay in registers.
template <int N, class F> inline void unrolled(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) { (f(std::integral_constant<int, I>{}), ...); }(std::make_integer_sequence<int, N>{});
}

namespace detail {
/// Exchanges, between packs `Distance` apart, the halves that a transpose exchanges at that distance.
template <int Distance, class T> inline void transpose_step(Pack<T>* rows) {
  constexpr int lanes = int(Pack<T>::lanes);
  unrolled<lanes / 2>([&](auto pair) {
    constexpr int i = pair / Distance * 2 * Distance + pair % Distance, j = i + Distance;
    const auto a = rows[i].raw, b = rows[j].raw;
    [&]<int... L>(std::integer_sequence<int, L...>) {
      rows[i].raw = __builtin_shufflevector(a, b, ((L & Distance) ? lanes + L - Distance : L)...);
      rows[j].raw = __builtin_shufflevector(a, b, ((L & Distance) ? lanes + L : L + Distance)...);
    }(std::make_integer_sequence<int, lanes>{});
  });
  if constexpr (Distance > 1) transpose_step<Distance / 2>(rows);
}
}  // namespace detail

/// Transposes `lanes` packs as a square matrix.
template <class T> inline void transpose(Pack<T> (&rows)[Pack<T>::lanes]) {
  if constexpr (Pack<T>::lanes > 1) detail::transpose_step<int(Pack<T>::lanes) / 2>(rows);
}

/// sum_i a_i b_i over a padded length.
template <class T> inline T dot(const T* a, const T* b, Index n) {
  Pack<T> total(T(0));
  for_packs<T>(n, [&](Index i) { total = fma(Pack<T>::load(a + i), Pack<T>::load(b + i), total); });
  return sum(total);
}

}  // namespace braid::cpu
