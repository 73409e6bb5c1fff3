// Activations by value and derivative. One of your own is a struct like these.
#pragma once

#include <braid/core/macros.hpp>
#include <braid/core/math.hpp>

namespace braid {

/// 1 / (1 + exp(-x)).
struct Sigmoid {
  template <class T> BRAID_FN static T value(T x) { return math::sigmoid(x); }
  template <class T> BRAID_FN static T derivative(T x) {
    const T s = math::sigmoid(x);
    return s * (T(1) - s);
  }
};

/// x sigmoid(x), also called SiLU.
struct Swish {
  template <class T> BRAID_FN static T value(T x) { return x * math::sigmoid(x); }
  template <class T> BRAID_FN static T derivative(T x) {
    const T s = math::sigmoid(x);
    return s * (T(1) + x * (T(1) - s));
  }
};

}  // namespace braid
