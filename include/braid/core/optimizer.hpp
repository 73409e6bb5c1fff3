// The arguments of the optimisers' updates: plain numbers and views, the same for every backend.
#pragma once

#include <braid/core/view.hpp>

#include <cmath>

namespace braid {

/// One step of AdamW with decoupled weight decay (Loshchilov and Hutter 2019, Algorithm 2):
///
///   m = beta1 m + (1 - beta1) g,  v = beta2 v + (1 - beta2) g^2
///   w = w - rate (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + epsilon) + weight_decay w)
struct AdamWStep {
  double rate = 1e-3;
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double weight_decay = 0;
  Index step = 1;             ///< t, from 1
  double gradient_scale = 1;  ///< multiplies every gradient first (clipping)

  double correction1() const { return 1 - std::pow(beta1, static_cast<double>(step)); }
  double correction2() const { return 1 - std::pow(beta2, static_cast<double>(step)); }
};

/// One step of Muon as Moonlight trains with it (arXiv 2502.16982): Nesterov momentum, orthogonalised, scaled to AdamW's RMS:
///
///   m = momentum m + g,  w = w - rate (rms sqrt(max(rows, cols)) NewtonSchulz(g + momentum m) + weight_decay w)
struct MuonStep {
  double rate = 1e-3;
  double momentum = 0.95;
  double weight_decay = 0;
  double rms = 0.2;  ///< root mean square of an update; AdamW's lies between 0.2 and 0.4
  int iterations = 5;
  double gradient_scale = 1;
};

/// The coefficients of one Newton-Schulz iteration X = a X + (b A + c A^2) X with A = X X^T (Jordan et al. 2024). Five of them
/// bring singular values from [0.003, 1] to about [0.7, 1.2]: near enough to an orthogonal matrix for an update.
struct NewtonSchulz {
  static constexpr double a = 3.4445, b = -4.7750, c = 2.0315;
};

/// A matrix that Muon updates: its values, gradient and momentum, all [rows, cols].
template <class T> struct MuonMatrix {
  View<T, 2> value;
  View<const T, 2> grad;
  View<T, 2> momentum;
};

}  // namespace braid
