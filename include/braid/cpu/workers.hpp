// The threads of the CPU backend. They take pieces of work as they come to them and nobody waits for one that has not begun, so that a
// processor taken away by another program costs its own share and no more.
#pragma once

#include <braid/core/types.hpp>

#include <atomic>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace braid::cpu::detail {

/// What a thread is to the work at hand.
struct ThreadPlace {
  int number = 0;        ///< 0: the caller
  bool working = false;  ///< inside `Workers::run`
};
inline thread_local ThreadPlace thread_place;

/// Calls ready() until it is true or a while (some tens of microseconds) has passed; returns what it said last.
template <class F> bool spin(F&& ready) {
  for (int i = 0; i < 2000; ++i) {
    if (ready()) return true;
#if defined(__x86_64__)
    _mm_pause();
#endif
  }
  return ready();
}

/// One for the program; threads are started when first needed and live until it ends. `run` serves one caller at a time.
class Workers {
 public:
  static Workers& instance() {
    static Workers workers;
    return workers;
  }
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  /// Calls f(i) for 0 <= i < count on up to `threads` threads, the caller among them, and returns when all are done. Another caller's
  /// work under way, or no thread to be had: the caller does it alone. Rethrows an exception of f; pieces not yet begun are then left.
  template <class F> void run(int threads, Index count, F& f) {
    std::unique_lock mine(caller_, std::try_to_lock);
    if (!mine) {
      for (Index i = 0; i < count; ++i) f(i);
      return;
    }
    start(threads - 1);
    threads_ = threads, count_ = count, work_ = &f;
    call_ = [](void* work, Index i) { (*static_cast<F*>(work))(i); };
    next_.store(0, std::memory_order_relaxed);
    epoch_.fetch_add(1);  // odd: work to be had
    epoch_.notify_all();
    take();
    epoch_.fetch_add(1);
    for (int n; (n = inside_.load()) != 0;)
      if (!spin([&] { return inside_.load() == 0; })) inside_.wait(n);
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  Workers() = default;
  ~Workers() {
    stop_ = true;
    epoch_.fetch_add(2);
    epoch_.notify_all();
    for (std::thread& thread : pool_) thread.join();
  }

  void start(int wanted) {
    while (static_cast<int>(pool_.size()) < wanted) {
      const int number = static_cast<int>(pool_.size()) + 1;
      try {
        pool_.emplace_back([this, number] { work(number); });
      } catch (const std::system_error&) {
        return;  // fewer threads, the same results
      }
    }
  }

  void work(int number) {
    thread_place.number = number;
    for (unsigned seen = 0;;) {
      if (!spin([&] { return epoch_.load() != seen; })) epoch_.wait(seen);
      seen = epoch_.load();
      if (stop_) return;
      if (seen % 2 == 0) continue;
      inside_.fetch_add(1);  // before the look at epoch_: whoever ends the work sees this thread, or this thread the end
      if (epoch_.load() == seen && number < threads_) take();
      if (inside_.fetch_sub(1) == 1) inside_.notify_one();
    }
  }

  /// Does pieces of the work at hand until none is left.
  void take() {
    thread_place.working = true;
    try {
      for (Index i; (i = next_.fetch_add(1)) < count_;) call_(work_, i);
    } catch (...) {
      next_.store(count_);
      const std::lock_guard lock(error_lock_);
      if (!error_) error_ = std::current_exception();
    }
    thread_place.working = false;
  }

  // The work at hand, written while epoch_ is even and nobody is inside.
  int threads_ = 0;
  Index count_ = 0;
  void* work_ = nullptr;
  void (*call_)(void*, Index) = nullptr;

  alignas(64) std::atomic<Index> next_{0};     // the first piece that nobody took
  alignas(64) std::atomic<unsigned> epoch_{0};
  alignas(64) std::atomic<int> inside_{0};     // workers at the work
  std::atomic<bool> stop_{false};
  std::mutex caller_, error_lock_;
  std::exception_ptr error_;
  std::vector<std::thread> pool_;
};

}  // namespace braid::cpu::detail
