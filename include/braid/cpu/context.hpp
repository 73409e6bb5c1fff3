// The CPU backend's context: memory, scratch and the number of threads. Pass it first to every operation.
#pragma once

#include <braid/core/memory.hpp>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <thread>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace braid::cpu {

namespace detail {
class HostMemory final : public Memory {
 public:
  void* allocate(std::size_t bytes) override {
    const std::size_t unit = bytes < 4 * huge_page ? alignment : huge_page, rounded = (bytes + unit - 1) / unit * unit;
    void* pointer = std::aligned_alloc(unit, rounded);
    require(pointer != nullptr, "cpu memory", braid::detail::text(bytes, " bytes"), "no memory left");
#if defined(__linux__)
    if (unit == huge_page) madvise(pointer, rounded, MADV_HUGEPAGE);  // if refused, reading is slower and no more
#endif
    return pointer;
  }
  void free(void* pointer) noexcept override { std::free(pointer); }
  void zero(void* pointer, std::size_t bytes) override { std::memset(pointer, 0, bytes); }

 private:
  /// Large memory begins and ends with a page of this size: two cores read weights half as fast again from large pages.
  static constexpr std::size_t huge_page = std::size_t{2} << 20;
};
}  // namespace detail

/// Memory of the host. One for the program.
inline Memory& host_memory() {
  static detail::HostMemory memory;
  return memory;
}

/// What the operations of namespace braid::cpu take first. Not thread-safe: one context per calling thread.
class Context {
 public:
  /// `threads` = 0: as many as this process may use. Throws Error if it is negative.
  explicit Context(int threads = 0) : threads_(threads) {
    require(threads >= 0, "cpu::Context", "threads >= 0", threads);
    if (threads_ == 0) threads_ = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }
  Context(const Context&) = delete;
  Context& operator=(const Context&) = delete;

  int threads() const { return threads_; }
  Memory& memory() const { return host_memory(); }

  Arena arena{host_memory()};  ///< scratch of the operations

 private:
  int threads_;
};

}  // namespace braid::cpu
