// Warp-wide matrix instructions of sm_80 and up: mma.sync, ldmatrix, stmatrix, movmatrix.
//
// Fragments, with r = lane / 4 and c = lane % 4 (PTX ISA, "Matrix fragments for mma.m16n8k16"): a word holds two 16-bit elements,
//   A (16 x 16)  a0 = (r, 2c..2c+1)   a1 = (r + 8, 2c..)   a2 = (r, 2c + 8..)   a3 = (r + 8, 2c + 8..)
//   B (16 x 8)   b0 = (2c..2c+1, r)   b1 = (2c + 8.., r)
//   D (16 x 8)   d0, d1 = (r, 2c), (r, 2c + 1)     d2, d3 = (r + 8, 2c), (r + 8, 2c + 1)
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <type_traits>

namespace braid::cuda::ptx {

using Word = std::uint32_t;  ///< two 16-bit elements, the first in the low half

/// The 32-bit address of shared memory, as instructions take it.
__device__ __forceinline__ Word shared_address(const void* pointer) {
  return static_cast<Word>(__cvta_generic_to_shared(pointer));
}

/// d += A B, fp32 accumulation. `Operand` is __half or __nv_bfloat16.
template <class Operand>
__device__ __forceinline__ void mma(float (&d)[4], Word a0, Word a1, Word a2, Word a3, Word b0, Word b1) {
  if constexpr (std::is_same_v<Operand, __half>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  } else {
    static_assert(std::is_same_v<Operand, __nv_bfloat16>, "braid: matrix operands are __half or __nv_bfloat16");
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
  }
}

/// The same over half as many k, m16n8k8, in fp16: a0, a1 and b0 alone.
__device__ __forceinline__ void mma_fp16_k8(float (&d)[4], Word a0, Word a1, Word b0) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "r"(a0), "r"(a1), "r"(b0));
}
/// d += A B of m16n8k8 in tf32: the 13 low bits of an operand are not looked at. Lane's elements: a0 = (r, c), a1 = (r + 8, c),
/// a2 = (r, c + 4), a3 = (r + 8, c + 4), b0 = (c, r), b1 = (c + 4, r), d as above.
__device__ __forceinline__ void mma_tf32(float (&d)[4], float a0, float a1, float a2, float a3, float b0, float b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a0)), "r"(__float_as_uint(a1)), "r"(__float_as_uint(a2)), "r"(__float_as_uint(a3)),
        "r"(__float_as_uint(b0)), "r"(__float_as_uint(b1)));
}

/// Four 8x8 matrices; lane l passes the shared address of row l % 8 of matrix l / 8. word[i] = (r, 2c..2c+1) of matrix i.
__device__ __forceinline__ void ldmatrix(Word (&word)[4], Word address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3]) : "r"(address) : "memory");
}
/// The same, each matrix transposed: word[i] = (2c..2c+1, r) of matrix i.
__device__ __forceinline__ void ldmatrix_transposed(Word (&word)[4], Word address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(word[0]), "=r"(word[1]), "=r"(word[2]), "=r"(word[3]) : "r"(address) : "memory");
}
/// The inverse of ldmatrix_transposed. sm_90.
__device__ __forceinline__ void stmatrix_transposed(Word address, const Word (&word)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(word[0]), "r"(word[1]),
               "r"(word[2]), "r"(word[3]) : "memory");
}
/// Transposes one 8x8 matrix held as (r, 2c..2c+1).
__device__ __forceinline__ Word movmatrix_transposed(Word word) {
  Word out;
  asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(out) : "r"(word));
  return out;
}

}  // namespace braid::cuda::ptx
