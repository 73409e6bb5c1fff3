// Products of a warp's 16 values with the sections of a record in shared memory, by mma.sync (sm_80 and up).
#pragma once

#include <braid/cuda/ptx/mma.cuh>
#include <braid/cuda/record.hpp>

namespace braid::cuda {

/// A: value x k operand words (a[4i..4i+3] for step i); d[4j..4j+3]: value x columns 8j..8j+7. See recurrence_fragments.cuh.
template <class Operand> struct ChunkProducts {
  using Word = ptx::Word;
  int row, half, quarter;  // row of a matrix that this lane addresses, and which of the four matrices it belongs to

  __device__ __forceinline__ explicit ChunkProducts(int lane) : row(lane % 8), half(lane / 8 % 2), quarter(lane / 16) {}

  /// d += A rows^T: rows is [32][16 Steps] in panels (kd, qd), its tokens become columns.
  template <int Steps>
  __device__ __forceinline__ void add_rows(float (&d)[16], const Word (&a)[4 * Steps], Word rows, int panel = Record::panel_bytes) const {
#pragma unroll
    for (int i = 0; i < Steps; ++i)
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) {
        Word b[4];
        ptx::ldmatrix(b, rows + (2 * i + half) * panel + (16 * pair + 8 * quarter + row) * 16);
        two(d + 8 * pair, a + 4 * i, b);
      }
  }
  /// d += A square^T: square is [32][32] in cores (Z, T'), zero above its diagonal.
  __device__ __forceinline__ void add_square(float (&d)[16], const Word (&a)[8], Word square) const {
    Word b[3][4];
    load_square(b, square);
    add_square(d, a, b);
  }
  /// The same in two steps: b holds the quadrants on and below the diagonal.
  __device__ __forceinline__ void load_square(Word (&b)[3][4], Word square) const {
    const Word at = square + Record::square_element(8 * quarter + row, 8 * half);
    ptx::ldmatrix(b[0], at);
    ptx::ldmatrix(b[1], at + Record::square_element(16, 0));
    ptx::ldmatrix(b[2], at + Record::square_element(16, 16));
  }
  __device__ __forceinline__ static void add_square(float (&d)[16], const Word (&a)[8], const Word (&b)[3][4]) {
    two(d, a, b[0]);
    two(d + 8, a, b[1]);
    two(d + 8, a + 4, b[2]);
  }
  /// d += A rows: rows is [32][8 Blocks] in panels (kg), A is value x token.
  template <int Blocks> __device__ __forceinline__ void add_outer(float (&d)[4 * Blocks], const Word (&a)[8], Word rows) const {
#pragma unroll
    for (int i = 0; i < 2; ++i)
#pragma unroll
      for (int pair = 0; pair < Blocks / 2; ++pair) {
        Word b[4];
        ptx::ldmatrix_transposed(b, rows + (2 * pair + quarter) * Record::panel_bytes + (16 * i + 8 * half + row) * 16);
        two(d + 8 * pair, a + 4 * i, b);
      }
  }

 private:
  __device__ __forceinline__ static void two(float* d, const Word* a, const Word (&b)[4]) {
    ptx::mma<Operand>(*reinterpret_cast<float(*)[4]>(d), a[0], a[1], a[2], a[3], b[0], b[1]);
    ptx::mma<Operand>(*reinterpret_cast<float(*)[4]>(d + 4), a[0], a[1], a[2], a[3], b[2], b[3]);
  }
};

}  // namespace braid::cuda
