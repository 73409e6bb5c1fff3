// Copies between a cache, which has a slot per sequence, and a batch, which lists the slots it continues.
#pragma once

#include <braid/core/batch.hpp>
#include <braid/core/view.hpp>
#include <braid/cpu/parallel.hpp>

#include <algorithm>
#include <span>

namespace braid::cpu {

/// Throws Error unless every slot of the batch is below `slots`.
inline void check_slots(const Batch& batch, Index slots, std::string_view where) {
  for (Index s = 0; s < batch.sequences(); ++s)
    require(batch.slot(s) < slots, where, braid::detail::text("a slot below ", slots), batch.slot(s));
}

/// out[s] = cache[slot of sequence s]. cache [slots, ...], out [sequences, ...].
template <class T, int Rank> void load_slots(Context& ctx, View<const T, Rank> cache, const Batch& batch, View<T, Rank> out) {
  check_slots(batch, cache.rows(), "load_slots");
  parallel_for(ctx, batch.sequences(), [&](Index s) { std::copy_n(cache.row(batch.slot(s)), cache.stride(), out.row(s)); });
}

/// cache[slot of sequence s] = x[s]. cache [slots, ...], x [sequences, ...]. Other slots are untouched.
template <class T, int Rank> void store_slots(Context& ctx, View<const T, Rank> x, const Batch& batch, View<T, Rank> cache) {
  check_slots(batch, cache.rows(), "store_slots");
  parallel_for(ctx, batch.sequences(), [&](Index s) { std::copy_n(x.row(s), cache.stride(), cache.row(batch.slot(s))); });
}

/// Writes row t of sequence s of x [tokens, cols] to columns [column, column + cols) of cache [slots, capacity, width], at row
/// starts[slot] + t of its slot. Throws Error if it does not fit.
template <class T>
void append_rows(Context& ctx, View<const T, 2> x, const Batch& batch, std::span<const Index> starts, View<T, 3> cache, Index column) {
  check_slots(batch, std::min(cache.rows(), static_cast<Index>(starts.size())), "append_rows");
  auto start = [&](Index s) { return starts[static_cast<std::size_t>(batch.slot(s))]; };
  for (Index s = 0; s < batch.sequences(); ++s)
    require(start(s) + batch.length(s) <= cache.shape[1], "append_rows",
            braid::detail::text("at most ", cache.shape[1], " tokens in slot ", batch.slot(s)),
            braid::detail::text(start(s), " cached and ", batch.length(s), " new"));
  parallel_for(ctx, batch.sequences(), [&](Index s) {
    for (Index t = 0; t < batch.length(s); ++t)
      std::copy_n(x.row(batch.begin(s) + t), x.cols(), &cache(batch.slot(s), start(s) + t, column));
  });
}

}  // namespace braid::cpu
