// The one place where the CPU backend uses threads.
#pragma once

#include <braid/core/macros.hpp>
#include <braid/cpu/context.hpp>
#include <braid/cpu/workers.hpp>

namespace braid::cpu {

/// Number of the calling thread within `parallel_for`, 0 <= n < ctx.threads(): which part of the scratch is its own.
inline int thread_number() { return detail::thread_place.number; }

namespace detail {
/// One piece of work, whatever it is: what runs it is compiled once, and each caller's work once.
struct Piece {
  void* work;
  void (*call)(void* work, Index i);
  void operator()(Index i) const { call(work, i); }
};
BRAID_NOINLINE inline void run_pieces(int threads, Index count, Piece piece) {
  if (count > 1 && threads > 1 && !thread_place.working)
    Workers::instance().run(threads, count, piece);
  else
    for (Index i = 0; i < count; ++i) piece(i);
}
}  // namespace detail

/// Calls f(i) for 0 <= i < count on the context's threads. Which thread takes which i depends on timing, so what f(i) computes must
/// not. Inside another parallel_for it runs serially. An exception thrown by `f` is rethrown to the caller.
template <class F> void parallel_for(const Context& ctx, Index count, F&& f) {
  auto work = [&f](Index i) { f(i); };
  detail::run_pieces(ctx.threads(), count, {&work, [](void* to, Index i) { (*static_cast<decltype(work)*>(to))(i); }});
}

/// Splits [0, count) into one contiguous range per thread (fewer if `grain` elements each cannot be had) and calls f(begin, end).
template <class F> void parallel_ranges(const Context& ctx, Index count, Index grain, F&& f) {
  Index parts = grain > 0 ? (count + grain - 1) / grain : 1;
  if (parts > ctx.threads()) parts = ctx.threads();
  if (parts < 1) parts = 1;
  parallel_for(ctx, parts, [&](Index p) { f(count * p / parts, count * (p + 1) / parts); });
}

}  // namespace braid::cpu
