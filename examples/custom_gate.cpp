// A gate and an update of your own: two structs of a few lines, put into a model, and their gradients checked.
#include <braid/braid.hpp>

#include <cmath>
#include <cstdio>
#include <vector>

/// log alpha = -rate (x + bias)^2: the state is kept where the projection is near -bias and forgotten elsewhere.
struct SquaredGate {
  static constexpr auto decay = braid::Decay::per_channel;
  template <class T> BRAID_FN static T log_decay(T x, T rate, T bias) { return -(rate * (x + bias) * (x + bias)); }
  template <class T> BRAID_FN static braid::GateDerivative<T> derivative(T x, T rate, T bias) {
    const T slope = T(-2) * rate * (x + bias);
    return {slope, -((x + bias) * (x + bias)), slope};
  }
};

/// Longhorn's implicit step (Table 6): both strengths are beta / (1 + beta ||k||^2) in place of beta.
struct Longhorn {
  static constexpr bool uses_beta = true;
  static constexpr bool erases = true;
  template <class T> BRAID_FN static T step(T beta, T norm2) { return beta / (T(1) + beta * norm2); }
  template <class T> BRAID_FN static T erase(T beta, T norm2) { return step(beta, norm2); }
  template <class T> BRAID_FN static T write(T beta, T norm2) { return step(beta, norm2); }
  template <class T> BRAID_FN static braid::UpdateDerivative<T> derivative(T beta, T norm2) {
    const T d = T(1) / ((T(1) + beta * norm2) * (T(1) + beta * norm2));
    return {d, -(beta * beta) * d, d, -(beta * beta) * d};
  }
};

// A mixer is a template over the model's Config; everything else is the library's.
template <braid::Config C> using MyMixer = braid::LinearAttention<C, SquaredGate, Longhorn>;

constexpr braid::Config tiny = [] {
  braid::Config c;
  c.vocab = 32, c.hidden = 16, c.layers = 4, c.heads = 2, c.key_dim = c.value_dim = 8;
  c.kv_rank = 8, c.nope_dim = 8, c.rope_dim = 4, c.mla_value_dim = 8;
  c.experts = 0, c.dense_layers = 4, c.dense_width = 32;
  c.dtype = braid::DType::f64;  // a gradient check wants double
  c.init_std = 0.2;
  return c;
}();
using Model = braid::CausalLm<tiny, MyMixer, braid::Mla>;

int main() {
  braid::cpu::Context cpu;
  Model model(cpu, braid::seed(7));

  braid::Random random(braid::seed(1));
  std::vector<braid::Token> tokens(40), targets(40);
  for (auto& t : tokens) t = static_cast<braid::Token>(random.below(tiny.vocab));
  for (auto& t : targets) t = static_cast<braid::Token>(random.below(tiny.vocab));
  const braid::Batch batch({0, 23, 40});  // two sequences

  model.gradients(cpu, tokens, targets, batch);

  // Central differences of the loss along the gradient of every parameter: |g|^2 must be the slope. With step h the truncation error
  // is O(h^2) and rounding O(1e-16 / h): with a step of length 1e-6 both are far below the 1e-6 asked for.
  bool good = true;
  braid::for_each_param(model, [&](const std::string& name, auto& p) {
    const std::vector<double> start(p.value, p.value + p.size()), gradient(p.grad, p.grad + p.size());
    double norm2 = 0;
    for (double g : gradient) norm2 += g * g;
    const double h = 1e-6 / std::max(std::sqrt(norm2), 1e-12);
    auto loss_at = [&](double step) {
      for (std::size_t i = 0; i < start.size(); ++i) p.value[i] = start[i] + step * gradient[i];
      return model.loss(cpu, tokens, targets, batch);
    };
    const double slope = (loss_at(h) - loss_at(-h)) / (2 * h);
    loss_at(0);
    const double error = std::abs(slope - norm2) / std::max(norm2, 1e-12);
    good = good && error < 1e-6;
    std::printf("%-52s |g|^2 %.6e   relative error %.1e%s\n", name.c_str(), norm2, error, error < 1e-6 ? "" : "   <-- wrong");
  });
  std::puts(good ? "every gradient agrees with central differences" : "a gradient is wrong");
  return good ? 0 : 1;
}
