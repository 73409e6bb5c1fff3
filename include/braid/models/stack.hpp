// A stack of blocks: norm, mixer, residual, norm, feed-forward, residual (section 4). The mixers' order is a table of Config.
#pragma once

#include <braid/core/batch.hpp>
#include <braid/core/param.hpp>
#include <braid/layers/mlp.hpp>
#include <braid/layers/moe.hpp>
#include <braid/layers/rms_norm.hpp>
#include <braid/models/config.hpp>

#include <array>
#include <string>
#include <type_traits>
#include <vector>

namespace braid {

namespace detail {

/// Which mixer and which feed-forward a depth has, and its place in the array of that type.
struct LayerPlace {
  bool full = false, moe = false;
  int mixer = 0, ffn = 0;
};

/// The places of all depths: compile time does not grow with depth, since blocks of one type live in one array.
template <Config C> constexpr std::array<LayerPlace, C.layers> layer_places() {
  std::array<LayerPlace, C.layers> places{};
  int mixers[2] = {0, 0}, ffns[2] = {0, 0};
  for (int l = 0; l < C.layers; ++l) {
    LayerPlace& p = places[static_cast<std::size_t>(l)];
    p.full = C.is_full(l);
    p.moe = C.is_moe(l);
    p.mixer = mixers[p.full]++;
    p.ffn = ffns[p.moe]++;
  }
  return places;
}

}  // namespace detail

/// What a probe does by default: nothing. A probe is called as probe(l, x) with the input x [tokens, hidden] of layer l, and with
/// l = layers and the final norm's output.
struct NoProbe {
  template <class V> void operator()(int, const V&) const {}
};

/// The blocks of a model. `Linear<C>` and `Full<C>` are the two mixers; both only need forward, backward, visit, Saved and Cache.
template <Config C, template <Config> class Linear, template <Config> class Full> class Stack {
 public:
  static_assert(check_config<C>());
  using T = scalar_t<C.dtype>;
  static constexpr auto places = detail::layer_places<C>();
  static constexpr int linear_layers = C.linear_layers(), full_layers = C.full_layers();
  static constexpr int moe_layers = C.moe_layers(), dense_layers = C.layers - moe_layers;

  using LinearMixer = Linear<C>;
  using FullMixer = Full<C>;
  using Dense = SwiGlu<T>;
  struct Nothing {  // in place of Moe<C> in a model without experts
    struct Saved {};
  };
  using Experts = std::conditional_t<(moe_layers > 0), Moe<C>, Nothing>;

  static constexpr Index parameter_count = [] {
    Index n = 2 * Index{C.layers} * C.hidden + linear_layers * LinearMixer::parameter_count + full_layers * FullMixer::parameter_count;
    n += dense_layers * Dense::parameters(C.hidden, C.dense_width);
    if constexpr (moe_layers > 0) n += moe_layers * Moe<C>::parameter_count;
    return n;
  }();
  /// Parameters that one token uses: all but the experts it is not sent to.
  static constexpr Index activated_count = [] {
    if constexpr (moe_layers > 0) return parameter_count - moe_layers * (Moe<C>::parameter_count - Moe<C>::activated_count);
    return parameter_count;
  }();

  /// What the backward pass needs of one forward pass: views into the context's arena, and nothing else.
  struct Saved {
    struct Block {
      View<T, 2> x, mixer_in, mid, ffn_in;  // [tokens, hidden] each
      typename RmsNorm<T>::Saved input_norm, post_norm;
    };
    std::array<Block, C.layers> blocks;
    std::array<typename LinearMixer::Saved, linear_layers> linear;
    std::array<typename FullMixer::Saved, full_layers> full;
    std::array<typename Dense::Saved, dense_layers> dense;
    std::array<typename Experts::Saved, moe_layers> moe;
  };

  /// Convolution tails and recurrent states of the linear layers, latents of the full ones, for `slots` sequences of up to
  /// `capacity` tokens.
  class Cache {
   public:
    Cache() = default;
    Cache(Memory& memory, Index slots, Index capacity) : lengths_(static_cast<std::size_t>(slots), 0), capacity_(capacity) {
      require(slots > 0 && capacity > 0, "Cache", "slots and capacity > 0", detail::text(slots, " and ", capacity));
      linear.reserve(linear_layers);
      full.reserve(full_layers);
      for (int i = 0; i < linear_layers; ++i) linear.emplace_back(memory, slots, capacity);
      for (int i = 0; i < full_layers; ++i) full.emplace_back(memory, slots, capacity);
    }
    Index slots() const { return static_cast<Index>(lengths_.size()); }
    Index capacity() const { return capacity_; }
    /// Tokens that slot `slot` has seen.
    Index length(Index slot) const { return lengths_.at(static_cast<std::size_t>(slot)); }
    /// Forgets the sequence in `slot`.
    void reset(Index slot) {
      lengths_.at(static_cast<std::size_t>(slot)) = 0;
      for (auto& c : linear) c.reset(slot);
      for (auto& c : full) c.reset(slot);
    }
    /// Bytes of all slots.
    std::size_t bytes() const {
      std::size_t n = 0;
      for (const auto& c : linear) n += c.bytes();
      for (const auto& c : full) n += c.bytes();
      return n;
    }
    /// Throws Error unless every sequence of `batch` has a slot with room for its tokens. Nothing is changed before this passes.
    void check(const Batch& batch) const {
      for (Index s = 0; s < batch.sequences(); ++s) {
        const Index slot = batch.slot(s);
        require(slot < slots(), "Cache", detail::text("a slot below ", slots()), slot);
        require(length(slot) + batch.length(s) <= capacity_, "Cache", detail::text("at most ", capacity_, " tokens in slot ", slot),
                detail::text(length(slot), " cached and ", batch.length(s), " new"));
      }
    }
    void advance(const Batch& batch) {
      for (Index s = 0; s < batch.sequences(); ++s) lengths_[static_cast<std::size_t>(batch.slot(s))] += batch.length(s);
    }

    std::vector<typename LinearMixer::Cache> linear;
    std::vector<typename FullMixer::Cache> full;

   private:
    std::vector<Index> lengths_;
    Index capacity_ = 0;
  };

  /// Bytes of the cache of one sequence of `tokens` tokens.
  static constexpr std::size_t cache_bytes(Index tokens) {
    return linear_layers * LinearMixer::Cache::bytes_per_slot(tokens) + full_layers * FullMixer::Cache::bytes_per_slot(tokens);
  }

  Stack()
      : linear_(linear_layers), full_(full_layers), dense_(dense_layers, Dense(C.hidden, C.dense_width, config_of<C>.init_std)), moe_(moe_layers),
        input_norm_(C.layers, RmsNorm<T>(C.hidden, config_of<C>.norm_eps)), post_norm_(C.layers, RmsNorm<T>(C.hidden, config_of<C>.norm_eps)) {}

  /// Inference: x [tokens, hidden] is replaced by the last block's output. `cache` may be null.
  template <class Ctx, class Probe> void forward(Ctx& ctx, View<T, 2> x, const Batch& batch, Cache* cache, Probe&& probe) const {
    auto mid = ctx.arena.template take<T>(x.rows(), x.cols());
    auto normed = ctx.arena.template take<T>(x.rows(), x.cols());
    for (int l = 0; l < C.layers; ++l) {
      probe(l, View<const T, 2>(x));
      auto scope = ctx.arena.scope();
      input_norm_[at(l)].forward(ctx, x, normed);
      with_mixer(*this, l, [&](const auto& mixer, auto kind, auto i) { mixer.forward(ctx, normed, batch, mid, cache_of(kind, cache, i)); });
      add<T, 2>(ctx, x, mid);
      post_norm_[at(l)].forward(ctx, mid, normed);
      with_ffn(*this, l, [&](const auto& ffn, auto, auto) { ffn.forward(ctx, normed, x); });
      add<T, 2>(ctx, mid, x);
    }
  }

  /// Training: returns the last block's output; everything in `saved` stays in the arena until the caller's scope ends.
  template <class Ctx> View<T, 2> forward(Ctx& ctx, View<T, 2> x, const Batch& batch, Saved& saved) const {
    auto like_x = [&] { return ctx.arena.template take<T>(x.rows(), x.cols()); };
    for (int l = 0; l < C.layers; ++l) {
      auto& block = saved.blocks[at(l)];
      block = {x, like_x(), like_x(), like_x(), {}, {}};
      block.input_norm = input_norm_[at(l)].forward(ctx, x, block.mixer_in);
      with_mixer(*this, l, [&](const auto& mixer, auto kind, auto i) {
        saved_of(kind, saved, i) = mixer.forward(ctx, block.mixer_in, batch, block.mid);
      });
      add<T, 2>(ctx, x, block.mid);
      block.post_norm = post_norm_[at(l)].forward(ctx, block.mid, block.ffn_in);
      x = like_x();
      with_ffn(*this, l, [&](const auto& ffn, auto kind, auto i) { saved_of(kind, saved, i) = ffn.forward(ctx, block.ffn_in, x); });
      add<T, 2>(ctx, block.mid, x);
    }
    return x;
  }

  /// The reverse loop: d_x [tokens, hidden], the gradient of the output, is replaced by that of the input.
  template <class Ctx> void backward(Ctx& ctx, const Batch& batch, const Saved& saved, View<T, 2> d_x) {
    auto d_in = ctx.arena.template take<T>(d_x.rows(), d_x.cols());
    auto d_normed = ctx.arena.template take<T>(d_x.rows(), d_x.cols());
    for (int l = C.layers - 1; l >= 0; --l) {
      auto scope = ctx.arena.scope();
      const auto& block = saved.blocks[at(l)];
      with_ffn(*this, l, [&](auto& ffn, auto kind, auto i) { ffn.backward(ctx, block.ffn_in, saved_of(kind, saved, i), d_x, d_normed); });
      post_norm_[at(l)].backward(ctx, block.mid, block.post_norm, d_normed, d_in);
      add<T, 2>(ctx, d_in, d_x);
      with_mixer(*this, l, [&](auto& mixer, auto kind, auto i) {
        mixer.backward(ctx, block.mixer_in, batch, saved_of(kind, saved, i), d_x, d_normed);
      });
      input_norm_[at(l)].backward(ctx, block.x, block.input_norm, d_normed, d_in);
      add<T, 2>(ctx, d_in, d_x);
    }
  }

  /// Visits "N" for each depth N, with the published names below it.
  template <class V> void visit(V&& v) {
    for (int l = 0; l < C.layers; ++l) {
      Block block{*this, l};
      v(std::to_string(l), block);
    }
  }

 private:
  static constexpr std::size_t at(int l) { return static_cast<std::size_t>(l); }

  struct Block {
    Stack& stack;
    int l;
    template <class V> void visit(V&& v) {
      v("input_layernorm", stack.input_norm_[at(l)]);
      with_mixer(stack, l, [&](auto& mixer, auto, auto) { v("self_attn", mixer); });
      v("post_attention_layernorm", stack.post_norm_[at(l)]);
      with_ffn(stack, l, [&](auto& ffn, auto kind, auto) { v(kind == IsMoe{} ? "block_sparse_moe" : "mlp", ffn); });
    }
  };

  // Calls f(layer, kind, i) with the mixer (or feed-forward) of depth l, the i-th of its kind. A kind that the order does not
  // contain is not instantiated.
  using IsLinear = std::integral_constant<int, 0>;
  using IsFull = std::integral_constant<int, 1>;
  using IsDense = std::integral_constant<int, 2>;
  using IsMoe = std::integral_constant<int, 3>;

  template <class Self, class F> static void with_mixer(Self& self, int l, F&& f) {
    const auto& place = places[at(l)];
    const auto i = static_cast<std::size_t>(place.mixer);
    if constexpr (full_layers > 0)
      if (place.full) return f(self.full_[i], IsFull{}, i);
    if constexpr (linear_layers > 0) f(self.linear_[i], IsLinear{}, i);
  }
  template <class Self, class F> static void with_ffn(Self& self, int l, F&& f) {
    const auto& place = places[at(l)];
    const auto i = static_cast<std::size_t>(place.ffn);
    if constexpr (moe_layers > 0)
      if (place.moe) return f(self.moe_[i], IsMoe{}, i);
    if constexpr (dense_layers > 0) f(self.dense_[i], IsDense{}, i);
  }
  static auto& saved_of(IsLinear, auto& saved, std::size_t i) { return saved.linear[i]; }
  static auto& saved_of(IsFull, auto& saved, std::size_t i) { return saved.full[i]; }
  static auto& saved_of(IsDense, auto& saved, std::size_t i) { return saved.dense[i]; }
  static auto& saved_of(IsMoe, auto& saved, std::size_t i) { return saved.moe[i]; }
  static auto* cache_of(IsLinear, Cache* cache, std::size_t i) { return cache ? &cache->linear[i] : nullptr; }
  static auto* cache_of(IsFull, Cache* cache, std::size_t i) { return cache ? &cache->full[i] : nullptr; }

  std::vector<LinearMixer> linear_;
  std::vector<FullMixer> full_;
  std::vector<Dense> dense_;
  std::vector<Experts> moe_;
  std::vector<RmsNorm<T>> input_norm_, post_norm_;
};

}  // namespace braid
