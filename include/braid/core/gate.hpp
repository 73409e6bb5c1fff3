// Gates: how a raw projection becomes the log decay of Eq. (1), log alpha <= 0. A gate of your own is a struct like these.
#pragma once

#include <braid/core/macros.hpp>
#include <braid/core/math.hpp>

#include <concepts>

namespace braid {

/// How many decays a head has: none (alpha = 1), one, or one per key channel.
enum class Decay { none, per_head, per_channel };

/// Partial derivatives of a gate's log decay with respect to its three arguments.
template <class T> struct GateDerivative {
  T x, rate, bias;
};

/// log alpha = -rate * softplus(x + bias), rate = exp(A_log) per head, bias = dt_bias per decay (section 4; as in Mamba and GDN).
/// Unbounded below. The gate of the published Kimi-Linear-48B-A3B.
struct SoftplusGate {
  static constexpr Decay decay = Decay::per_channel;
  static constexpr bool takes_packs = true;
  template <class T> BRAID_FN static T log_decay(T x, T rate, T bias) { return -(rate * math::softplus(x + bias)); }
  template <class T> BRAID_FN static GateDerivative<T> derivative(T x, T rate, T bias) {
    const T dx = -(rate * math::sigmoid(x + bias));
    return {dx, -math::softplus(x + bias), dx};
  }
};

/// log alpha = Floor * sigmoid(rate * (x + bias)), so Floor < log alpha < 0. What later models ship, with Floor = -5.
template <int Floor = -5> struct BoundedGate {
  static_assert(Floor < 0, "braid: the floor of a BoundedGate is a log decay and must be negative, for example BoundedGate<-5>");
  static constexpr Decay decay = Decay::per_channel;
  static constexpr int floor = Floor;
  static constexpr bool takes_packs = true;
  template <class T> BRAID_FN static T log_decay(T x, T rate, T bias) {
    return T(Floor) * math::sigmoid(rate * (x + bias));
  }
  template <class T> BRAID_FN static GateDerivative<T> derivative(T x, T rate, T bias) {
    const T s = math::sigmoid(rate * (x + bias));
    const T slope = T(Floor) * s * (T(1) - s);
    return {slope * rate, slope * (x + bias), slope * rate};
  }
};

/// The log decay is given as it is (and must be <= 0); A_log and dt_bias are not used.
template <Decay D = Decay::per_channel> struct LogDecay {
  static constexpr Decay decay = D;
  static constexpr bool given = true;
  template <class T> BRAID_FN static T log_decay(T x, T, T) { return x; }
  template <class T> BRAID_FN static GateDerivative<T> derivative(T, T, T) { return {T(1), T(0), T(0)}; }
};

/// No decay: linear attention and DeltaNet.
using NoDecay = LogDecay<Decay::none>;

/// Any gate with one decay per head instead of one per channel: the gate of Gated DeltaNet and Mamba-2.
template <class Gate> struct PerHead : Gate {
  static constexpr Decay decay = Decay::per_head;
};

template <class G>
concept HasLogDecay = requires(float x) {
  { G::template log_decay<float>(x, x, x) } -> std::convertible_to<float>;
};
template <class G>
concept HasGateDerivative = requires(float x) {
  { G::template derivative<float>(x, x, x) } -> std::same_as<GateDerivative<float>>;
};
template <class G>
concept HasDecay = requires {
  { G::decay } -> std::convertible_to<Decay>;
};

/// What the linear-attention layer asks of a gate.
template <class G>
concept Gate = HasDecay<G> && HasLogDecay<G> && HasGateDerivative<G>;

/// True for gates that hand their input through (LogDecay): no A_log and no dt_bias.
template <class G> inline constexpr bool gate_is_given = requires { requires G::given; };

/// True for gates whose log decay cannot fall below a constant `G::floor`: kernels may choose a cheaper path.
template <class G> inline constexpr bool gate_is_bounded = requires { G::floor; };

/// True for gates that say so (`takes_packs = true`): their functions use only arithmetic and braid::math, so T may be a pack of
/// lanes (cpu/pack.hpp) and the CPU backend evaluates them vectorised. Others are called with scalars.
template <class G> inline constexpr bool gate_takes_packs = requires { requires G::takes_packs; };

namespace detail {
/// Explains, one sentence each, what a gate lacks. Instantiated at every public door that takes a gate.
template <class G> constexpr bool check_gate() {
  static_assert(HasDecay<G>,
                "braid: a gate needs `static constexpr braid::Decay decay = braid::Decay::per_channel;` (or per_head, none)");
  static_assert(HasLogDecay<G>,
                "braid: a gate needs `template <class T> BRAID_FN static T log_decay(T x, T rate, T bias)` returning log alpha <= 0");
  static_assert(HasGateDerivative<G>,
                "braid: a gate needs `template <class T> BRAID_FN static braid::GateDerivative<T> derivative(T x, T rate, T bias)`");
  return true;
}
}  // namespace detail
}  // namespace braid
