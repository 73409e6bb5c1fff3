// T' of record.hpp: the inverse of I + Diag(e) M, columns scaled. fp32 substitution in two 16x16 blocks, then one composition
// T10 = -T11 M10 T00 on the matrix units. Powers of M (Neumann, Newton) are never formed: they overflow for equal keys.
#pragma once

#include <braid/cuda/intra_chunk.cuh>
#include <braid/cuda/record.hpp>

namespace braid::cuda {

/// Shared memory of one warp.
struct alignas(16) InverseScratch {
  static constexpr int column_floats = 20;
  union {
    float matrix[chunk_tokens * column_floats + 4];  ///< the diagonal blocks of Diag(e) M, transposed, read by the substitution
    struct {
      unsigned char scaled[Record::square_bytes];  ///< diagonal blocks of T Diag(column), laid out as in the record
      unsigned char lower[512];                    ///< T11 alone, 2 x 2 cores
    } image;
  };
  /// Entry (row of its block, column). Columns are padded, and the blocks shifted, so that a broadcast read of one column of each meets no bank twice.
  __device__ __forceinline__ float* entry(int row, int column) { return matrix + column * column_floats + column / 16 * 4 + row; }
};

/// Writes the record's T' section. `tiles` holds M, `rows` the strengths e of each token, `columns` the factors of T's columns. `zeros`: those of the cores
/// above the diagonal are there already.
template <class Operand>
__device__ __forceinline__ void write_inverse(const Lane& lane, const Tiles& tiles, const float (&rows)[chunk_tokens],
                                              const float (&columns)[chunk_tokens], InverseScratch& scratch, std::byte* section, bool zeros) {
  float erase[4];
#pragma unroll
  for (int s = 0; s < 4; ++s) erase[s] = rows[8 * s + lane.r];
#pragma unroll
  for (int s = 0; s < 4; ++s)
#pragma unroll
    for (int t = s & ~1; t <= s; ++t) {
      const float* m = tiles.tile[Tiles::at(s, t)];
#pragma unroll
      for (int i = 0; i < 2; ++i) *scratch.entry(s % 2 * 8 + lane.r, 8 * t + 2 * lane.c + i) = erase[s] * m[i];
    }
  ptx::Word below[4];  // Diag(e) M10 as an A operand
#pragma unroll
  for (int t = 0; t < 2; ++t)
#pragma unroll
    for (int s = 2; s < 4; ++s) {
      const float* m = tiles.tile[Tiles::at(s, t)];
      below[2 * t + s - 2] = ptx::pack<Operand>(erase[s] * m[0], erase[s] * m[1]);
    }
  __syncwarp();

  const int block = lane.index >> 4, j = lane.index & 15;
  const float* const first = scratch.entry(0, 16 * block);
  float x[16];  // row j of the block's inverse, from the right: T + T Diag(e) M = I
#pragma unroll
  for (int i = 15; i >= 0; --i) {
    const float* column = first + i * InverseScratch::column_floats;
    float sum[4] = {i == j ? 1.f : 0.f, 0.f, 0.f, 0.f};
#pragma unroll
    for (int m = (i + 1) & ~3; m < 16; m += 4) {
      const float4 a = *reinterpret_cast<const float4*>(column + m);
      if (m > i) sum[0] -= a.x * x[m];
      if (m + 1 > i) sum[1] -= a.y * x[m + 1];
      if (m + 2 > i) sum[2] -= a.z * x[m + 2];
      if (m + 3 > i) sum[3] -= a.w * x[m + 3];
    }
    x[i] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }
  __syncwarp();

  unsigned char* const scaled_row = scratch.image.scaled + Record::square_element(16 * block + j, 16 * block);
  unsigned char* const lower_row = scratch.image.lower + j / 8 * 256 + j % 8 * 16;
#pragma unroll
  for (int core = 0; core < 2; ++core) {
    ptx::Word scaled[4], plain[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int column = 8 * core + 2 * i;
      const float2 factor = *reinterpret_cast<const float2*>(&columns[16 * block + column]);
      scaled[i] = ptx::pack<Operand>(x[column] * factor.x, x[column + 1] * factor.y);
      plain[i] = ptx::pack<Operand>(x[column], x[column + 1]);
    }
    *reinterpret_cast<uint4*>(scaled_row + core * 128) = make_uint4(scaled[0], scaled[1], scaled[2], scaled[3]);
    if (block == 1) *reinterpret_cast<uint4*>(lower_row + core * 128) = make_uint4(plain[0], plain[1], plain[2], plain[3]);
  }
  __syncwarp();

  // Operands: T11 as A (cores (0,0), (1,0), (0,1), (1,1)), T00 Diag(column) as B (cores transposed, k-major per column tile).
  const int matrix = lane.index >> 3, row = lane.index & 7;
  ptx::Word t11[4], t00[4];
  ptx::ldmatrix(t11, ptx::shared_address(scratch.image.lower) + ((matrix & 1) * 2 + (matrix >> 1)) * 128 + row * 16);
  ptx::ldmatrix_transposed(t00, ptx::shared_address(scratch.image.scaled) + ((matrix & 1) * 4 + (matrix >> 1)) * 128 + row * 16);
  float y[2][4] = {}, z[2][4] = {};
#pragma unroll
  for (int n = 0; n < 2; ++n) ptx::mma<Operand>(y[n], below[0], below[1], below[2], below[3], t00[2 * n], t00[2 * n + 1]);
#pragma unroll
  for (int n = 0; n < 2; ++n) {
    const ptx::Word upper = ptx::movmatrix_transposed(ptx::pack<Operand>(y[n][0], y[n][1]));
    const ptx::Word lower = ptx::movmatrix_transposed(ptx::pack<Operand>(y[n][2], y[n][3]));
    ptx::mma<Operand>(z[n], t11[0], t11[1], t11[2], t11[3], upper, lower);
  }

  auto* out = reinterpret_cast<ptx::Word*>(section) + lane.index;
  const auto* image = reinterpret_cast<const ptx::Word*>(scratch.image.scaled) + lane.index;
#pragma unroll
  for (int s = 0; s < 4; ++s)
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const int core = (s * 4 + t) * 32;
      if (s < t && zeros) continue;
      if (s / 2 == t / 2) out[core] = image[core];
      else if (s < t) out[core] = 0;
      else out[core] = ptx::pack<Operand>(-z[t][2 * (s - 2)], -z[t][2 * (s - 2) + 1]);
    }
}

}  // namespace braid::cuda
