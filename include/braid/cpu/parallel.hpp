// The one place where the CPU backend uses threads.
#pragma once

#include <braid/cpu/context.hpp>
#include <braid/cpu/workers.hpp>

namespace braid::cpu {

/// Number of the calling thread within `parallel_for`, 0 <= n < ctx.threads(): which part of the scratch is its own.
inline int thread_number() { return detail::thread_place.number; }

/// Calls f(i) for 0 <= i < count on the context's threads. Which thread takes which i depends on timing, so what f(i) computes must
/// not. Inside another parallel_for it runs serially. An exception thrown by `f` is rethrown to the caller.
template <class F> void parallel_for(const Context& ctx, Index count, F&& f) {
  if (count > 1 && ctx.threads() > 1 && !detail::thread_place.working)
    detail::Workers::instance().run(ctx.threads(), count, f);
  else
    for (Index i = 0; i < count; ++i) f(i);
}

/// Splits [0, count) into one contiguous range per thread (fewer if `grain` elements each cannot be had) and calls f(begin, end).
template <class F> void parallel_ranges(const Context& ctx, Index count, Index grain, F&& f) {
  Index parts = grain > 0 ? (count + grain - 1) / grain : 1;
  if (parts > ctx.threads()) parts = ctx.threads();
  if (parts < 1) parts = 1;
  parallel_for(ctx, parts, [&](Index p) { f(count * p / parts, count * (p + 1) / parts); });
}

}  // namespace braid::cpu
