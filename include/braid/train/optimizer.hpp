// Which parameter is updated how: AdamW, or Muon on the matrices with AdamW on the rest (Moonlight's recipe).
#pragma once

#include <braid/core/optimizer.hpp>
#include <braid/core/param.hpp>

#include <optional>
#include <span>
#include <string>
#include <vector>

namespace braid {

/// AdamW on every parameter. Vectors (Role::vector) never decay.
struct AdamW {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double weight_decay = 0.1;
  double balance_rate = 1e-3;  ///< step of the router's correction bias (Role::balance)
};

/// Muon on the matrices of hidden layers (Role::matrix), `rest` on everything else, all with one learning rate.
struct Muon {
  double momentum = 0.95;
  double weight_decay = 0.1;
  double rms = 0.2;  ///< size of an update, as AdamW's
  AdamW rest = {};
};

/// Updates the parameters of one model from their gradients. Its state is two moments (one for Muon's matrices) in one buffer.
template <class T> class Optimizer {
 public:
  /// One parameter with its state; `second` is null for Muon and both are null for Role::balance.
  struct Slot {
    std::string name;
    std::vector<Index> shape;
    Role role = Role::matrix;
    View<T, 1> value, first, second;
    View<const T, 1> grad;
  };

  /// `layer` is a model or any layer whose parameters and gradients are bound. Throws Error if gradients are not allocated.
  template <class Layer> Optimizer(Memory& memory, Layer& layer, const Muon& recipe) : adamw_(recipe.rest), muon_(recipe) {
    bind(memory, layer);
  }
  template <class Layer> Optimizer(Memory& memory, Layer& layer, const AdamW& recipe) : adamw_(recipe) { bind(memory, layer); }

  /// The 2-norm of all gradients together; the same bits for any number of threads.
  template <class Ctx> double gradient_norm(Ctx& ctx) const {
    double sum = 0;
    for (const Slot& slot : slots_)
      if (slot.role != Role::balance) sum += sum_of_squares(ctx, slot.grad);
    return std::sqrt(sum);
  }

  /// One update of every parameter at learning rate `rate`, of gradients multiplied by `gradient_scale`.
  template <class Ctx> void step(Ctx& ctx, double rate, double gradient_scale = 1) {
    ++steps;
    if (muon_)
      muon_update(ctx, std::span<const MuonMatrix<T>>(matrices_),
                  MuonStep{.rate = rate, .momentum = muon_->momentum, .weight_decay = muon_->weight_decay, .rms = muon_->rms,
                           .gradient_scale = gradient_scale});
    for (Slot& slot : slots_) {
      if (slot.role == Role::balance)
        balance_update(ctx, slot.value, slot.grad, adamw_.balance_rate);
      else if (slot.second)
        adamw_update(ctx, slot.value, slot.grad, slot.first, slot.second,
                     AdamWStep{.rate = rate, .beta1 = adamw_.beta1, .beta2 = adamw_.beta2, .epsilon = adamw_.epsilon,
                               .weight_decay = slot.role == Role::vector ? 0 : adamw_.weight_decay, .step = steps,
                               .gradient_scale = gradient_scale});
    }
  }

  std::span<const Slot> slots() const { return slots_; }

  Index steps = 0;  ///< updates done so far; part of the state

 private:
  bool by_muon(Role role) const { return muon_ && role == Role::matrix; }

  template <class Layer> void bind(Memory& memory, Layer& layer) {
    Index size = 0;
    for_each_param(layer, [&](const std::string& name, Param<T>& p) {
      require(p.grad != nullptr, "Optimizer", "gradients allocated (ParamStorage::allocate_gradients)", name + " without one");
      slots_.push_back({name, p.shape, p.role, p.vector(), {}, {}, p.grad_vector()});
      if (p.role != Role::balance) size += p.size() * (by_muon(p.role) ? 1 : 2);
    });
    state_ = Tensor<T, 1>(memory, size);
    Index used = 0;
    auto take = [&](Index count) {
      used += count;
      return View<T, 1>(state_.data() + used - count, count);
    };
    std::size_t i = 0;
    for_each_param(layer, [&](const std::string&, Param<T>& p) {
      Slot& slot = slots_[i++];
      if (p.role == Role::balance) return;
      slot.first = take(p.size());
      if (!by_muon(p.role)) slot.second = take(p.size());
      else matrices_.push_back({p.matrix(), p.grad_matrix(), {slot.first.data, p.matrix().shape}});
    });
  }

  AdamW adamw_;
  std::optional<Muon> muon_;
  std::vector<Slot> slots_;
  std::vector<MuonMatrix<T>> matrices_;
  Tensor<T, 1> state_;
};

/// The factor that brings gradients of 2-norm `norm` down to `limit`; 1 if they are shorter, or if `limit` is 0 (no clipping).
inline double clip_factor(double norm, double limit) { return limit > 0 && norm > limit ? limit / norm : 1; }

}  // namespace braid
