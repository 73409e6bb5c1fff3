// A causal language model: token embedding, a stack of hybrid blocks, a final norm and an output head.
#pragma once

#include <braid/layers/embedding.hpp>
#include <braid/layers/linear_attention.hpp>
#include <braid/layers/mla.hpp>
#include <braid/models/stack.hpp>

#include <span>

namespace braid {

/// A language model as a type: its sizes are `C`, its two kinds of layers `Linear<C>` and `Full<C>`, in the order that `C` gives.
///
///   constexpr braid::Config mine = [] { auto c = braid::kimi_linear_48b; c.layers = 8; c.ratio = {7, 1}; return c; }();
///   using Model = braid::CausalLm<mine, braid::Kda, braid::Mla>;
///
/// Parameters have the names of the published checkpoint. One thread uses a model at a time; its context says where it runs.
template <Config C, template <Config> class Linear = Kda, template <Config> class Full = Mla> class CausalLm {
 public:
  using T = scalar_t<C.dtype>;
  using Stack = braid::Stack<C, Linear, Full>;
  using Cache = typename Stack::Cache;
  static constexpr Config config = C;

  /// Number of parameters, as the published counts have it.
  static constexpr Index parameter_count = Stack::parameter_count + C.hidden + Index{C.vocab} * C.hidden * (C.tied ? 1 : 2);
  /// Parameters that take part in the products of one token: the output head, and all else but the experts it is not sent to and
  /// the token embedding, which is looked up.
  static constexpr Index activated_count = Stack::activated_count + C.hidden + Index{C.vocab} * C.hidden;
  /// Bytes of the cache of one sequence of `tokens` tokens.
  static constexpr std::size_t cache_bytes(Index tokens) { return Stack::cache_bytes(tokens); }

  /// Parameters are allocated and zero: load a checkpoint next.
  template <class Ctx> explicit CausalLm(Ctx& ctx) : parameters_(ctx.memory(), *this) {}
  /// Parameters are allocated and drawn at random; the same seed gives the same model.
  template <class Ctx> CausalLm(Ctx& ctx, Seed seed) : CausalLm(ctx) { initialize(*this, seed); }
  CausalLm(const CausalLm&) = delete;  // a Param points into the storage beside it
  CausalLm& operator=(const CausalLm&) = delete;

  /// Room for `slots` sequences of up to `capacity` tokens each.
  template <class Ctx> Cache cache(Ctx& ctx, Index slots, Index capacity) const { return Cache(ctx.memory(), slots, capacity); }

  /// Logits [tokens, vocab] of every position of one sequence. Throws Error for a token id outside the vocabulary.
  template <class Ctx> Tensor<T, 2> forward(Ctx& ctx, std::span<const Token> tokens) const {
    return forward(ctx, tokens, Batch(static_cast<Index>(tokens.size())));
  }
  /// Logits [tokens, vocab] of every position of a packed batch.
  template <class Ctx> Tensor<T, 2> forward(Ctx& ctx, std::span<const Token> tokens, const Batch& batch) const {
    Tensor<T, 2> logits(ctx.memory(), batch.tokens(), C.vocab);
    forward(ctx, tokens, batch, logits.view());
    return logits;
  }
  /// The same into the caller's `logits` [tokens, vocab], continuing the sequences of `cache` if there is one. A steady call
  /// allocates nothing. `probe(l, x)` sees the input of every layer l and, with l = layers, the final norm's output.
  template <class Ctx, class Probe = NoProbe>
  void forward(Ctx& ctx, std::span<const Token> tokens, const Batch& batch, View<T, 2> logits, Cache* cache = nullptr,
               Probe&& probe = {}) const {
    require_shape(logits, {batch.tokens(), C.vocab}, "CausalLm::forward: logits");
    auto scope = ctx.arena.scope();
    head().logits(ctx, hidden(ctx, tokens, batch, cache, probe), logits);
  }
  /// Logits [sequences, vocab] of the last position of every sequence: prefill, a chunk of it, or one step of decoding.
  /// Sequences must not be empty.
  template <class Ctx>
  void next_logits(Ctx& ctx, std::span<const Token> tokens, const Batch& batch, Cache& cache, View<T, 2> logits) const {
    require_shape(logits, {batch.sequences(), C.vocab}, "CausalLm::next_logits: logits");
    for (Index s = 0; s < batch.sequences(); ++s)
      require(batch.length(s) > 0, "CausalLm::next_logits", "at least one token per sequence", detail::text("sequence ", s, " without tokens"));
    auto scope = ctx.arena.scope();
    const auto x = hidden(ctx, tokens, batch, &cache, NoProbe{});
    auto last = ctx.arena.template take<T>(batch.sequences(), C.hidden);
    gather_last<T>(ctx, x, batch, last);
    head().logits(ctx, last, logits);
  }

  /// Cross-entropy of `targets` (one per token; below 0: not counted): its mean in nats, and how many targets were named right.
  template <class Ctx>
  CrossEntropy loss(Ctx& ctx, std::span<const Token> tokens, std::span<const Token> targets, const Batch& batch) const {
    auto scope = ctx.arena.scope();
    const auto x = hidden(ctx, tokens, batch, nullptr, NoProbe{});
    return head().loss(ctx, x, targets);
  }
  /// The same, and adds the gradient of the mean to the `grad` of every parameter (allocated by the first call).
  template <class Ctx>
  CrossEntropy gradients(Ctx& ctx, std::span<const Token> tokens, std::span<const Token> targets, const Batch& batch) {
    parameters_.allocate_gradients(*this);
    check_tokens(tokens, batch);
    auto scope = ctx.arena.scope();
    auto x = ctx.arena.template take<T>(batch.tokens(), C.hidden);
    embed_tokens_.forward(ctx, tokens, x);
    typename Stack::Saved saved;
    const auto y = stack_.forward(ctx, x, batch, saved);
    auto normed = ctx.arena.template take<T>(batch.tokens(), C.hidden);
    const auto norm_saved = norm_.forward(ctx, y, normed);

    auto d_normed = ctx.arena.template take<T>(batch.tokens(), C.hidden);
    const CrossEntropy loss = head().loss_backward(ctx, normed, targets, d_normed);
    auto d_x = ctx.arena.template take<T>(batch.tokens(), C.hidden);
    norm_.backward(ctx, y, norm_saved, d_normed, d_x);
    stack_.backward(ctx, batch, saved, d_x);
    embed_tokens_.backward(ctx, tokens, d_x);
    return loss;
  }

  ParamStorage<T>& parameters() { return parameters_; }
  const ParamStorage<T>& parameters() const { return parameters_; }

  /// Calls v(name, layer or Param) with the published names: model.embed_tokens.weight, model.layers.N..., lm_head.weight.
  template <class V> void visit(V&& v) {
    v("model.embed_tokens", embed_tokens_);
    v("model.layers", stack_);
    v("model.norm", norm_);
    if constexpr (!C.tied) v("lm_head", lm_head_);
  }

 private:
  Embedding<T>& head() { return C.tied ? embed_tokens_ : lm_head_; }
  const Embedding<T>& head() const { return C.tied ? embed_tokens_ : lm_head_; }

  void check_tokens(std::span<const Token> tokens, const Batch& batch) const {
    require(static_cast<Index>(tokens.size()) == batch.tokens(), "CausalLm", detail::text(batch.tokens(), " tokens, as the batch says"),
            tokens.size());
  }

  /// The final norm's output, in the arena.
  template <class Ctx, class Probe>
  View<T, 2> hidden(Ctx& ctx, std::span<const Token> tokens, const Batch& batch, Cache* cache, Probe&& probe) const {
    check_tokens(tokens, batch);
    if (cache) cache->check(batch);
    auto x = ctx.arena.template take<T>(batch.tokens(), C.hidden);
    embed_tokens_.forward(ctx, tokens, x);
    stack_.forward(ctx, x, batch, cache, probe);
    auto normed = ctx.arena.template take<T>(batch.tokens(), C.hidden);
    norm_.forward(ctx, x, normed);
    probe(C.layers, View<const T, 2>(normed));
    if (cache) cache->advance(batch);
    return normed;
  }

  Embedding<T> embed_tokens_{C.vocab, C.hidden, config_of<C>.init_std};
  Embedding<T> lm_head_{C.vocab, C.hidden, config_of<C>.init_std};  // unbound and unused if tied
  Stack stack_;
  RmsNorm<T> norm_{C.hidden, config_of<C>.norm_eps};
  ParamStorage<T> parameters_;  // last: binds the members above
};

}  // namespace braid
