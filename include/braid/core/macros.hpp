// The few macros of the library.
#pragma once

/// Marks a function that runs on the host and, under nvcc, on the device too. Gates and updates carry it.
#if defined(__CUDACC__)
#define BRAID_FN __host__ __device__ __forceinline__
#else
#define BRAID_FN inline
#endif

/// Keeps one copy of a heavy function template per type instead of one per caller (compile time, code size).
#if defined(__GNUC__)
#define BRAID_NOINLINE __attribute__((noinline))
#else
#define BRAID_NOINLINE
#endif
