#include <braid/core/linear_attention.hpp>

struct Squared {  // a complete gate
#ifdef no_decay  // braid: a gate needs `static constexpr braid::Decay decay
#else
  static constexpr auto decay = braid::Decay::per_channel;
#endif
#ifdef no_log_decay  // braid: a gate needs `template <class T> BRAID_FN static T log_decay(T x, T rate, T bias)` returning log alpha <= 0
#else
  template <class T> BRAID_FN static T log_decay(T x, T rate, T bias) { return -rate * (x + bias) * (x + bias); }
#endif
#ifdef no_derivative  // braid: a gate needs `template <class T> BRAID_FN static braid::GateDerivative<T> derivative(T x, T rate, T bias)`
#elif defined(derivative_of_wrong_type)
  template <class T> BRAID_FN static T derivative(T x, T rate, T bias) { return -2 * rate * (x + bias); }
#else
  template <class T> BRAID_FN static braid::GateDerivative<T> derivative(T x, T rate, T bias) {
    const T y = x + bias;
    return {-2 * rate * y, -y * y, -2 * rate * y};
  }
#endif
};
#ifdef derivative_of_wrong_type  // braid: a gate needs `template <class T> BRAID_FN static braid::GateDerivative<T> derivative(T x, T rate, T bias)`
#endif

void door(const braid::LinearAttentionInputs<float>& in) { braid::check_linear_attention<Squared, braid::DeltaRule>(in); }

#ifdef rising_floor  // braid: the floor of a BoundedGate is a log decay and must be negative, for example BoundedGate<-5>
template struct braid::BoundedGate<5>;
#endif
