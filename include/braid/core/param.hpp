// Parameters: declared by layers with a shape, visited by name, bound to one flat allocation per model.
#pragma once

#include <braid/core/macros.hpp>
#include <braid/core/memory.hpp>
#include <braid/core/random.hpp>

#include <cmath>
#include <string>
#include <string_view>
#include <vector>

namespace braid {

/// How a parameter starts.
enum class Init : std::uint8_t {
  normal,   ///< N(0, std^2)
  ones,
  zeros,
  log_rate, ///< log of uniform [1, 16): A_log (as in Mamba)
  time_step ///< inverse softplus of a log-uniform step in [1e-3, 1e-1]: dt_bias (as in Mamba)
};

/// How a parameter is trained.
enum class Role : std::uint8_t {
  matrix,     ///< a matrix of a hidden layer: Muon, weight decay
  embedding,  ///< token embedding or output head: AdamW, weight decay
  vector,     ///< norms, biases, convolutions, gates: AdamW, no weight decay
  balance     ///< not by gradient: the router's correction bias. Its `grad` counts the tokens each expert received.
};

/// One parameter of a layer. `T* value` and `T* grad` point into the model's flat storage once bound; `grad` is null for inference.
template <class T> struct Param {
  std::vector<Index> shape;  ///< as published, for example [channels, 1, width] for a convolution
  Init init = Init::normal;
  Role role = Role::matrix;
  double init_std = 0.02;  ///< for Init::normal
  T* value = nullptr;
  T* grad = nullptr;
  Index offset = 0;  ///< of `value` in the flat storage, in elements

  Index size() const {
    Index n = 1;
    for (Index extent : shape) n *= extent;
    return n;
  }
  /// As a matrix [shape[0], rest].
  View<T, 2> matrix() const { return {value, shape[0], size() / shape[0]}; }
  View<T, 2> grad_matrix() const { return {grad, shape[0], size() / shape[0]}; }
  View<T, 1> vector() const { return {value, size()}; }
  View<T, 1> grad_vector() const { return {grad, size()}; }
};

namespace detail {
/// The T of a layer's Param<T>: a layer is a template of it, or names it as its member T.
template <class Layer> struct LayerScalar {
  static_assert(requires { typename Layer::T; }, "braid: a layer is a template of its scalar type alone, or names it: using T = float");
  using type = typename Layer::T;
};
template <template <class> class Layer, class Scalar> struct LayerScalar<Layer<Scalar>> {
  using type = Scalar;
};

/// Calls a function with (full name, param) for every Param below a layer; a nested layer adds its name and a dot. The function's type
/// is not part of this one, so that a model's `visit` is compiled once and not for every use.
template <class T> struct NamedVisitor {
  void* f;
  void (*call)(void* f, const std::string& name, Param<T>& p);
  std::string prefix;

  BRAID_NOINLINE void operator()(std::string_view name, Param<T>& p) const { call(f, joined(name), p); }
  template <class Layer> void operator()(std::string_view name, Layer& layer) const {
    layer.visit(NamedVisitor{f, call, joined(name) + "."});
  }

 private:
  BRAID_NOINLINE std::string joined(std::string_view name) const { return prefix + std::string(name); }
};
}  // namespace detail

/// Calls `f(const std::string& name, Param<T>& p)` for every parameter of a layer or model, in a fixed order.
template <class Layer, class F> void for_each_param(Layer& layer, F&& f, std::string prefix = {}) {
  using T = typename detail::LayerScalar<Layer>::type;
  auto use = [&f](const std::string& name, Param<T>& p) { f(name, p); };
  auto call = [](void* to, const std::string& name, Param<T>& p) { (*static_cast<decltype(use)*>(to))(name, p); };
  layer.visit(detail::NamedVisitor<T>{&use, call, std::move(prefix)});
}

/// The flat storage of a layer's or model's parameters, and, once asked for, of their gradients.
template <class T> class ParamStorage {
 public:
  ParamStorage() = default;

  /// Allocates and binds every parameter of `layer`. Values are uninitialised: follow with `initialize` or load a checkpoint.
  template <class Layer> ParamStorage(Memory& memory, Layer& layer) : memory_(&memory) {
    for_each_param(layer, [&](const std::string&, Param<T>& p) {
      p.offset = size_;
      size_ += (p.size() + 15) / 16 * 16;  // keep every parameter aligned to a cache line
    });
    values_ = Buffer(memory, static_cast<std::size_t>(size_) * sizeof(T));
    values_.zero();
    for_each_param(layer, [&](const std::string&, Param<T>& p) { p.value = values() + p.offset; });
  }

  /// Allocates gradients (zeroed) the first time; binds them.
  template <class Layer> void allocate_gradients(Layer& layer) {
    if (grads_) return;
    grads_ = Buffer(*memory_, static_cast<std::size_t>(size_) * sizeof(T));
    grads_.zero();
    for_each_param(layer, [&](const std::string&, Param<T>& p) { p.grad = grads() + p.offset; });
  }
  void zero_gradients() { grads_.zero(); }

  Index size() const { return size_; }  ///< elements, padding included
  T* values() const { return static_cast<T*>(values_.data()); }
  T* grads() const { return static_cast<T*>(grads_.data()); }

 private:
  Memory* memory_ = nullptr;
  Buffer values_, grads_;
  Index size_ = 0;
};

/// Fills host-side parameters from a seed. Every parameter has its own stream (by name): adding a layer does not change the others.
template <class Layer> void initialize(Layer& layer, Seed seed) {
  for_each_param(layer, [&](const std::string& name, auto& p) {
    using T = std::remove_reference_t<decltype(*p.value)>;
    Random random(seed, Random::hash(name));
    auto draw = [&]() -> double {
      switch (p.init) {
        case Init::normal: return p.init_std * random.normal();
        case Init::ones: return 1;
        case Init::zeros: return 0;
        case Init::log_rate: return std::log(random.uniform(1, 16));
        case Init::time_step: {
          const double step = std::exp(random.uniform(std::log(1e-3), std::log(1e-1)));
          return step + std::log(-std::expm1(-step));  // softplus(result) = step
        }
      }
      return 0;
    };
    for (Index i = 0; i < p.size(); ++i) p.value[i] = static_cast<T>(draw());
  });
}

}  // namespace braid
