// The one place where the CPU backend starts threads.
#pragma once

#include <braid/cpu/context.hpp>

#include <exception>

namespace braid::cpu {

/// Number of the calling thread within `parallel_for`, 0 <= n < ctx.threads().
inline int thread_number() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

/// Calls f(i) for 0 <= i < count on the context's threads. Which thread takes which i is fixed, so results do not depend on timing.
/// Inside a parallel region it runs serially. An exception thrown by `f` is rethrown to the caller.
template <class F> void parallel_for(const Context& ctx, Index count, F&& f) {
#ifdef _OPENMP
  if (count > 1 && ctx.threads() > 1 && !omp_in_parallel()) {
    std::exception_ptr error;
#pragma omp parallel for schedule(static) num_threads(ctx.threads())
    for (Index i = 0; i < count; ++i) {
      try {
        f(i);
      } catch (...) {
#pragma omp critical
        error = std::current_exception();
      }
    }
    if (error) std::rethrow_exception(error);
    return;
  }
#endif
  (void)ctx;
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
