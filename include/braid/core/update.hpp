// Updates: how a token is written into the recurrent state. With A = Diag(alpha), n = ||k||^2:
//
//   rank-one  S_t = (I - erase(beta, n) k k^T) A S_{t-1} + write(beta, n) k v^T      Additive, DeltaRule, yours
//   Dplr      S_t = (A - a b^T) S_{t-1} + k v^T                                      section 6.2
#pragma once

#include <braid/core/macros.hpp>

#include <concepts>

namespace braid {

/// Partial derivatives of an update's two strengths with respect to beta and n = ||k||^2.
template <class T> struct UpdateDerivative {
  T erase_beta, erase_norm, write_beta, write_norm;
};

/// S = A S + k v^T: linear attention, RetNet, Mamba-2, GLA (Table 6). Uses no beta.
struct Additive {
  static constexpr bool uses_beta = false;
  static constexpr bool erases = false;
  template <class T> BRAID_FN static T erase(T, T) { return T(0); }
  template <class T> BRAID_FN static T write(T, T) { return T(1); }
  template <class T> BRAID_FN static UpdateDerivative<T> derivative(T, T) { return {T(0), T(0), T(0), T(0)}; }
};

/// S = (I - beta k k^T) A S + beta k v^T, Eq. (1): DeltaNet, Gated DeltaNet, KDA.
struct DeltaRule {
  static constexpr bool uses_beta = true;
  static constexpr bool erases = true;
  template <class T> BRAID_FN static T erase(T beta, T) { return beta; }
  template <class T> BRAID_FN static T write(T beta, T) { return beta; }
  template <class T> BRAID_FN static UpdateDerivative<T> derivative(T, T) { return {T(1), T(0), T(1), T(0)}; }
};

/// S = (A - a b^T) S + k v^T: general diagonal plus low rank (section 6.2; RWKV-7, Comba). `a` and `b` are inputs.
/// With a = beta k, b = alpha * k (elementwise) and beta v for v it is KDA.
struct Dplr {
  static constexpr bool uses_beta = false;
  static constexpr bool dplr = true;
};

template <class U> inline constexpr bool update_is_dplr = requires { requires U::dplr; };

template <class U>
concept HasStrengths = requires(float x) {
  { U::uses_beta } -> std::convertible_to<bool>;
  { U::erases } -> std::convertible_to<bool>;
  { U::template erase<float>(x, x) } -> std::convertible_to<float>;
  { U::template write<float>(x, x) } -> std::convertible_to<float>;
};
template <class U>
concept HasUpdateDerivative = requires(float x) {
  { U::template derivative<float>(x, x) } -> std::same_as<UpdateDerivative<float>>;
};

/// What linear attention asks of an update.
template <class U>
concept Update = update_is_dplr<U> || (HasStrengths<U> && HasUpdateDerivative<U>);

namespace detail {
/// Explains, one sentence each, what an update lacks.
template <class U> constexpr bool check_update() {
  if constexpr (!update_is_dplr<U>) {
    static_assert(HasStrengths<U>,
                  "braid: an update needs constants `uses_beta`, `erases` and functions `erase(beta, norm2)`, `write(beta, norm2)` "
                  "(see braid/core/update.hpp)");
    static_assert(HasUpdateDerivative<U>,
                  "braid: an update needs `template <class T> BRAID_FN static braid::UpdateDerivative<T> derivative(T beta, T norm2)`");
  }
  return true;
}
}  // namespace detail
}  // namespace braid
