// Counts the heap allocations of a test program: replaces operator new. Include it in one source file.
#pragma once

#include <cstdlib>
#include <new>

namespace allocations {
inline long count = 0;
}

// Not inlined: a compiler that sees both through would call the pair mismatched.
__attribute__((noinline)) void* operator new(std::size_t bytes) {
  ++allocations::count;
  if (void* p = std::malloc(bytes ? bytes : 1)) return p;
  throw std::bad_alloc();
}
__attribute__((noinline)) void operator delete(void* p) noexcept { std::free(p); }
__attribute__((noinline)) void operator delete(void* p, std::size_t) noexcept { std::free(p); }
