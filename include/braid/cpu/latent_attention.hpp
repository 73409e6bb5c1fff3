// MLA as multi-query attention on the cached latents ("absorbed" form): keys and values of the heads are never formed.
//
// With kv_b = [W_k; W_v] per head, q . (W_k c) = (W_k^T q) . c and sum_i p_i W_v c_i = W_v sum_i p_i c_i.
#pragma once

#include <braid/core/batch.hpp>
#include <braid/core/view.hpp>
#include <braid/cpu/gemm.hpp>
#include <braid/cpu/online_softmax.hpp>
#include <braid/cpu/slots.hpp>

#include <algorithm>
#include <span>

namespace braid::cpu {

namespace detail {

/// How the work of one sequence is cut: its (token, head) pairs are `rows` rows, all of which see the same latents. Rows are cut in tiles;
/// where one tile holds them all (decoding), the keys are cut instead. The cut depends on the sequence alone.
struct LatentPlan {
  static constexpr Index tile = 64, split = 512, block = 128;
  Index rows = 0, keys = 0;

  Index tiles() const { return (rows + tile - 1) / tile; }
  Index splits() const { return rows <= tile ? (keys + split - 1) / split : 1; }
  Index tasks() const { return tiles() * splits(); }
  Index split_size() const { return rows <= tile ? split : keys; }
};

/// Calls f(first token, tokens) for runs of neighbouring sequences that `wanted` names.
template <class W, class F> void sequence_runs(const Batch& batch, W&& wanted, F&& f) {
  for (Index s = 0; s < batch.sequences();) {
    if (!wanted(s)) {
      ++s;
      continue;
    }
    const Index first = batch.begin(s);
    while (s < batch.sequences() && wanted(s)) ++s;
    if (const Index count = (s < batch.sequences() ? batch.begin(s) : batch.tokens()) - first) f(first, count);
  }
}

}  // namespace detail

/// Attention of new tokens to the latents of their slots, for the sequences whose `starts` entry is above 0 (rows of o of others are left
/// as they are). q [tokens, heads, key + shared], kv_b [heads (key + value), rank], `latents` [slots, capacity, rank + shared] with the new
/// tokens already in place, behind starts[slot] earlier ones; o [tokens, heads, value].
template <class T>
void latent_attention(Context& ctx, View<const T, 3> q, View<const T, 2> kv_b, View<const T, 3> latents, std::span<const Index> starts,
                      const Batch& batch, std::type_identity_t<T> scale, View<T, 3> o) {
  using detail::LatentPlan;
  const Index tokens = batch.tokens(), heads = q.shape[1], value_dim = o.shape[2], rank = kv_b.cols();
  const Index key_dim = kv_b.rows() / heads - value_dim, latent_dim = latents.shape[2], shared_dim = latent_dim - rank;
  require_shape(q, {tokens, heads, key_dim + shared_dim}, "latent_attention: q");
  require_shape(o, {tokens, heads, value_dim}, "latent_attention: o");
  require_shape(kv_b, {heads * (key_dim + value_dim), rank}, "latent_attention: kv_b");
  check_slots(batch, std::min(latents.rows(), static_cast<Index>(starts.size())), "latent_attention: latents");

  auto start = [&](Index s) { return starts[static_cast<std::size_t>(batch.slot(s))]; };
  auto wanted = [&](Index s) { return start(s) > 0; };
  auto plan = [&](Index s) {
    return wanted(s) && batch.length(s) ? LatentPlan{batch.length(s) * heads, start(s) + batch.length(s)} : LatentPlan{};
  };
  Index tasks = 0, tile = 0;
  for (Index s = 0; s < batch.sequences(); ++s) {
    tasks += plan(s).tasks();
    tile = std::max(tile, std::min(plan(s).rows, LatentPlan::tile));
  }
  if (tasks == 0) return;

  auto scope = ctx.arena.scope();
  auto query = ctx.arena.template take<T>(tokens, heads, latent_dim);  // scale [W_k^T q | shared part]
  auto mixed = ctx.arena.template take<T>(tokens, heads, rank);        // sum_i p_i c_i
  auto partial = ctx.arena.template take<T>(tasks, tile, rank);
  auto maximum = ctx.arena.template take<T>(tasks, tile), sum = ctx.arena.template take<T>(tasks, tile);
  auto scores = ctx.arena.template take<T>(ctx.threads(), LatentPlan::tile, LatentPlan::block);

  const Index q_stride = heads * (key_dim + shared_dim);
  parallel_for(ctx, heads, [&](Index h) {
    detail::sequence_runs(batch, wanted, [&](Index first, Index count) {
      const T* in = q.row(first) + h * (key_dim + shared_dim);
      T* out = query.row(first) + h * latent_dim;
      gemm_nn<T>(count, rank, key_dim, scale, in, q_stride, kv_b.row(h * (key_dim + value_dim)), rank, out, heads * latent_dim, false);
      for (Index t = 0; t < count; ++t)
        for (Index c = 0; c < shared_dim; ++c) out[t * heads * latent_dim + rank + c] = scale * in[t * q_stride + key_dim + c];
    });
  });

  parallel_for(ctx, tasks, [&](Index task) {
    Index s = 0, part = task;
    for (; part >= plan(s).tasks(); ++s) part -= plan(s).tasks();
    const LatentPlan p = plan(s);
    const Index row = part / p.splits() * LatentPlan::tile, rows = std::min(LatentPlan::tile, p.rows - row);
    const Index begin = part % p.splits() * p.split_size(), end = std::min(p.keys, begin + p.split_size());
    const T* cache = latents.row(batch.slot(s));
    T* x = scores.row(thread_number());
    detail::OnlineSoftmax<T> softmax{rows, rank, partial.row(task), rank, maximum.row(task), sum.row(task)};
    softmax.start();
    for (Index j = begin; j < end; j += LatentPlan::block) {
      const Index cols = std::min(LatentPlan::block, end - j);
      gemm_nt<T>(rows, cols, latent_dim, T(1), query.row(batch.begin(s)) + row * latent_dim, latent_dim, cache + j * latent_dim, latent_dim, x,
                 LatentPlan::block, false);
      softmax.add(x, LatentPlan::block, cols, [&](Index r) { return start(s) + (row + r) / heads + 1 - j; }, cache + j * latent_dim, latent_dim);
    }
  });

  parallel_ranges(ctx, tokens, 1 + 16 / heads, [&](Index begin, Index end) {
    Index s = 0, first_task = 0;
    for (Index t = begin; t < end; ++t) {
      for (; t >= batch.begin(s + 1); ++s) first_task += plan(s).tasks();
      const LatentPlan p = plan(s);
      if (p.rows == 0) continue;
      for (Index h = 0; h < heads; ++h) {
        const Index row = (t - batch.begin(s)) * heads + h;
        detail::merge_softmax<T>(p.splits(), first_task + row / LatentPlan::tile * p.splits(), row % LatentPlan::tile, partial, maximum, sum,
                                 &mixed(t, h, Index{0}));
      }
    }
  });

  parallel_for(ctx, heads, [&](Index h) {
    detail::sequence_runs(batch, wanted, [&](Index first, Index count) {
      gemm_nt<T>(count, value_dim, rank, T(1), mixed.row(first) + h * rank, heads * rank, kv_b.row(h * (key_dim + value_dim) + key_dim), rank,
                 o.row(first) + h * value_dim, heads * value_dim, false);
    });
  });
}

}  // namespace braid::cpu
