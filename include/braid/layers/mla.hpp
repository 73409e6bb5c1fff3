// Multi-head latent attention (DeepSeek-V2; section 4 of the paper), without positional encoding or with a rotary one.
#pragma once

#include <braid/core/batch.hpp>
#include <braid/layers/rms_norm.hpp>
#include <braid/models/config.hpp>

#include <cmath>
#include <span>
#include <vector>

namespace braid {

/// c = RMSNorm(W_a x), k_h = [W_kh c | shared], v_h = W_vh c, o_h = causal softmax attention of q_h with scale (nope + rope)^-1/2,
/// y = W_o o; `shared` [rope] is one part of the key for all heads. q = W_q x, or through a rank and a norm of its own.
///
/// Position::none leaves the last `rope_dim` elements of queries and the shared key as projected (the published model);
/// Position::rope turns them (interleaved pairs, as DeepSeek's).
///
/// Without a cache, and for the first tokens of a slot, keys and values of every head are formed and attended to in blocks. Tokens
/// that follow others in a slot attend to the cached [c | shared] directly (the absorbed form).
template <Config C> struct Mla {
  using T = scalar_t<C.dtype>;
  static constexpr Index hidden = C.hidden, heads = C.full_heads(), rank = C.kv_rank, q_rank = C.q_rank;
  static constexpr Index nope = C.nope_dim, shared = C.rope_dim, value_dim = C.mla_value_dim, query_dim = C.query_dim();
  static constexpr Index latent_dim = rank + shared;
  static constexpr bool rotates = C.position == Position::rope && shared > 0;

  static constexpr Index parameter_count = (q_rank ? q_rank * (hidden + 1 + heads * query_dim) : hidden * heads * query_dim) +
                                           hidden * latent_dim + rank + rank * heads * (nope + value_dim) + heads * value_dim * hidden;

  Param<T> q_proj = matrix(heads * query_dim, hidden);
  Param<T> q_a_proj = matrix(q_rank, hidden);
  RmsNorm<T> q_a_layernorm{q_rank, config_of<C>.latent_norm_eps};
  Param<T> q_b_proj = matrix(heads * query_dim, q_rank);
  Param<T> kv_a_proj = matrix(latent_dim, hidden);
  RmsNorm<T> kv_a_layernorm{rank, config_of<C>.latent_norm_eps};
  Param<T> kv_b_proj = matrix(heads * (nope + value_dim), rank);
  Param<T> o_proj = matrix(hidden, heads * value_dim);

  template <class V> void visit(V&& v) {
    if constexpr (q_rank > 0)
      v("q_a_proj.weight", q_a_proj), v("q_a_layernorm", q_a_layernorm), v("q_b_proj.weight", q_b_proj);
    else
      v("q_proj.weight", q_proj);
    v("kv_a_proj_with_mqa.weight", kv_a_proj), v("kv_a_layernorm", kv_a_layernorm), v("kv_b_proj.weight", kv_b_proj);
    v("o_proj.weight", o_proj);
  }

  /// The latents [c | shared] of every token of every slot, the shared part already turned.
  class Cache {
   public:
    Cache(Memory& memory, Index slots, Index capacity)
        : latents(memory, slots, capacity, latent_dim), lengths_(static_cast<std::size_t>(slots), 0) {}

    Index slots() const { return latents.rows(); }
    Index capacity() const { return latents.view().shape[1]; }
    /// Tokens in each slot.
    std::span<const Index> lengths() const { return lengths_; }
    /// Forgets the sequence in `slot`.
    void reset(Index slot) {
      require(slot >= 0 && slot < slots(), "Mla::Cache", detail::text("a slot below ", slots()), slot);
      lengths_.at(static_cast<std::size_t>(slot)) = 0;
    }
    std::size_t bytes() const { return latents.bytes(); }
    static constexpr std::size_t bytes_per_slot(Index tokens) { return static_cast<std::size_t>(tokens * latent_dim) * sizeof(T); }

    /// Throws Error unless every sequence of the batch has a slot with room for its tokens.
    void check(const Batch& batch) const {
      for (Index s = 0; s < batch.sequences(); ++s) {
        const Index slot = batch.slot(s);
        require(slot < slots(), "Mla: cache", detail::text("a slot below ", slots()), slot);
        const Index length = lengths_[static_cast<std::size_t>(slot)];
        require(length + batch.length(s) <= capacity(), "Mla: cache", detail::text("at most ", capacity(), " tokens in slot ", slot),
                detail::text(length, " cached and ", batch.length(s), " new"));
      }
    }
    void advance(const Batch& batch) {
      for (Index s = 0; s < batch.sequences(); ++s) lengths_[static_cast<std::size_t>(batch.slot(s))] += batch.length(s);
    }

    Tensor<T, 3> latents;  ///< [slots, capacity, rank + shared]

   private:
    std::vector<Index> lengths_;
  };

  /// What backward needs: views into the arena, a row per token.
  struct Saved {
    View<T, 2> q_latent, q_normed;   ///< before and after the query's norm; null without a query rank
    View<T, 2> q;                    ///< [tokens, heads (nope + rope)]
    View<T, 2> latent, c, key;       ///< before the norm, after it, the shared part of the key
    View<T, 2> kv;                   ///< [tokens, heads (nope + value)]
    View<T, 2> o;                    ///< [tokens, heads value]
    View<T, 2> log_sum;              ///< [heads, tokens]
  };

  /// y [tokens, hidden] = layer(x [tokens, hidden]), overwritten. With a cache, every sequence continues its slot's; throws Error, with
  /// nothing changed, if one would grow beyond the capacity.
  template <class Ctx> Saved forward(Ctx& ctx, View<const T, 2> x, const Batch& batch, View<T, 2> y, Cache* cache = nullptr) const {
    require_shape(x, {batch.tokens(), hidden}, "Mla: x");
    if (cache) cache->check(batch);
    const auto starts = cache ? cache->lengths() : std::span<const Index>{};
    Saved s;
    if constexpr (q_rank > 0) {
      s.q_latent = project(ctx, x, q_a_proj.matrix());
      s.q_normed = ctx.arena.template take<T>(x.rows(), q_rank);
      q_a_layernorm.forward(ctx, s.q_latent, s.q_normed);
      s.q = project(ctx, s.q_normed, q_b_proj.matrix());
    } else {
      s.q = project(ctx, x, q_proj.matrix());
    }
    s.latent = project(ctx, x, kv_a_proj.matrix().slice(0, rank));
    s.key = project(ctx, x, kv_a_proj.matrix().slice(rank, shared));
    s.c = ctx.arena.template take<T>(x.rows(), rank);
    kv_a_layernorm.forward(ctx, s.latent, s.c);
    if constexpr (rotates) {
      rope<T>(ctx, per_query(s.q), nope, config_of<C>.rope_theta, batch, starts);
      rope<T>(ctx, s.key.reshaped(x.rows(), 1, shared), 0, config_of<C>.rope_theta, batch, starts);
    }
    s.o = ctx.arena.template take<T>(x.rows(), heads * value_dim);
    if (needs_keys(batch, starts)) {
      s.kv = project(ctx, s.c, kv_b_proj.matrix());
      s.log_sum = ctx.arena.template take<T>(heads, x.rows());
      attention<T>(ctx, per_query(s.q), per_key(s.kv), s.key, batch, scale, per_value(s.o), s.log_sum, starts);
    }
    if (cache) {
      append_rows<T>(ctx, s.c, batch, starts, cache->latents, 0);
      if constexpr (shared > 0) append_rows<T>(ctx, s.key, batch, starts, cache->latents, rank);
      latent_attention<T>(ctx, per_query(s.q), kv_b_proj.matrix(), cache->latents, starts, batch, scale, per_value(s.o));
      cache->advance(batch);
    }
    linear<T>(ctx, s.o, o_proj.matrix(), y);
    return s;
  }

  /// dx [tokens, hidden] is overwritten, the parameters' gradients are added to. `saved` is of a forward without a cache.
  template <class Ctx>
  void backward(Ctx& ctx, View<const T, 2> x, const Batch& batch, const Saved& s, View<const T, 2> dy, View<T, 2> dx) {
    auto scope = ctx.arena.scope();
    auto like = [&](View<T, 2> v) { return ctx.arena.template take<T>(v.rows(), v.cols()); };
    auto d_o = like(s.o), d_q = like(s.q), d_kv = like(s.kv), d_key = like(s.key), d_c = like(s.c);
    project_backward(ctx, s.o, o_proj.matrix(), o_proj.grad_matrix(), dy, d_o);
    attention_backward<T>(ctx, per_query(s.q), per_key(s.kv), s.key, batch, scale, per_value(s.o), s.log_sum, per_value(d_o), per_query(d_q),
                          per_key(d_kv), d_key);
    if constexpr (rotates) {
      rope_backward<T>(ctx, per_query(d_q), nope, config_of<C>.rope_theta, batch);
      rope_backward<T>(ctx, d_key.reshaped(x.rows(), 1, shared), 0, config_of<C>.rope_theta, batch);
    }
    project_backward(ctx, s.c, kv_b_proj.matrix(), kv_b_proj.grad_matrix(), d_kv, d_c);
    kv_a_layernorm.backward(ctx, s.latent, {}, d_c, d_c);
    const auto w = kv_a_proj.matrix(), dw = kv_a_proj.grad_matrix();
    project_backward(ctx, x, w.slice(0, rank), dw.slice(0, rank), d_c, dx);
    if constexpr (shared > 0) project_backward(ctx, x, w.slice(rank, shared), dw.slice(rank, shared), d_key, dx, true);
    if constexpr (q_rank > 0) {
      auto d_low = like(s.q_latent);
      project_backward(ctx, s.q_normed, q_b_proj.matrix(), q_b_proj.grad_matrix(), d_q, d_low);
      q_a_layernorm.backward(ctx, s.q_latent, {}, d_low, d_low);
      project_backward(ctx, x, q_a_proj.matrix(), q_a_proj.grad_matrix(), d_low, dx, true);
    } else {
      project_backward(ctx, x, q_proj.matrix(), q_proj.grad_matrix(), d_q, dx, true);
    }
  }

 private:
  static inline const T scale = static_cast<T>(1 / std::sqrt(static_cast<double>(query_dim)));

  static Param<T> matrix(Index out, Index in) { return {{out, in}, Init::normal, Role::matrix, config_of<C>.init_std}; }
  static View<T, 3> per_query(View<T, 2> x) { return x.reshaped(x.rows(), heads, query_dim); }
  static View<T, 3> per_key(View<T, 2> x) { return x.reshaped(x.rows(), heads, nope + value_dim); }
  static View<T, 3> per_value(View<T, 2> x) { return x.reshaped(x.rows(), heads, value_dim); }

  /// Whether a sequence begins with this batch, so that keys and values of every head are formed.
  static bool needs_keys(const Batch& batch, std::span<const Index> starts) {
    if (starts.empty()) return true;
    for (Index s = 0; s < batch.sequences(); ++s)
      if (batch.length(s) > 0 && starts[static_cast<std::size_t>(batch.slot(s))] == 0) return true;
    return false;
  }

  template <class Ctx> static View<T, 2> project(Ctx& ctx, View<const T, 2> x, View<const T, 2> w) {
    auto y = ctx.arena.template take<T>(x.rows(), w.rows());
    linear<T>(ctx, x, w, y);
    return y;
  }
  template <class Ctx>
  static void project_backward(Ctx& ctx, View<const T, 2> x, View<const T, 2> w, View<T, 2> dw, View<const T, 2> dy, View<T, 2> dx,
                               bool accumulate = false) {
    linear_backward_weight<T>(ctx, x, dy, dw);
    linear_backward_input<T>(ctx, dy, w, dx, accumulate);
  }
};

}  // namespace braid
