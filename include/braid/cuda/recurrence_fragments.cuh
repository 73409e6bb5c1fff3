// What every recurrence kernel over chunks shares: where its tokens lie, and the forms in which a warp holds states, values and outputs.
//
// A warp owns 16 values of a block's 64. With r = lane / 4 and c = lane % 4, both wgmma (m64) and mma.sync (m16) give it of a value x n
// product d[4j + 2h + i] = (value 8h + r, column 8j + 2c + i); packed in pairs these are the A operand of the next product.
#pragma once

#include <braid/cuda/ptx/math.cuh>
#include <braid/cuda/recurrence_arguments.hpp>

namespace braid::cuda {

template <class T, class Operand, int KeyDim> class RecurrenceFragments {
 protected:
  using Word = ptx::Word;
  static constexpr int values_per_block = 64;
  static constexpr int value_stride = 144;  // bytes per token of a value tile in shared memory: 128 and padding against bank conflicts

  __device__ __forceinline__ RecurrenceFragments(const RecurrenceArguments<T>& args, int sequence, int head, int tile, int value_dim)
      : args_(args), range_(sequence_range(args, sequence)), sequence_(sequence), head_(head), tile_(tile), value_dim_(value_dim),
        warp_(__shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32, 0)), lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ __forceinline__ int tokens_in(int chunk) const {
    const Index left = range_.length - static_cast<Index>(chunk) * chunk_tokens;
    return left < chunk_tokens ? static_cast<int>(left) : chunk_tokens;
  }
  __device__ __forceinline__ int chunk_count() const { return static_cast<int>(chunks(range_.length)); }
  /// Element (token of the sequence, this head, first value of the tile) of v and o.
  __device__ __forceinline__ Index value_offset(Index token) const {
    return ((range_.begin + token) * args_.value_heads + head_) * value_dim_ + tile_ * values_per_block;
  }

  template <int N> __device__ __forceinline__ static void pack_words(Word (&words)[N], const float (&x)[2 * N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) words[i] = ptx::pack<Operand>(x[2 * i], x[2 * i + 1]);
  }

  /// S <- Diag(a) S, a float [K] in shared memory.
  __device__ __forceinline__ void decay_state(float (&s)[KeyDim / 2], const unsigned char* a) const {
    const auto* decay = reinterpret_cast<const float2*>(a) + lane_ % 4;
#pragma unroll
    for (int j = 0; j < KeyDim / 8; ++j) {
      const float2 x = decay[4 * j];
      s[4 * j] *= x.x, s[4 * j + 1] *= x.y, s[4 * j + 2] *= x.x, s[4 * j + 3] *= x.y;
    }
  }

  /// words[2j + h] = values 16 warp + 8h + r of tokens 8j + 2c, 8j + 2c + 1.
  __device__ __forceinline__ void load_values(Word (&words)[8], const unsigned char* tile) const {
    const Word at = ptx::shared_address(tile) + (lane_ / 16 * 8 + lane_ % 8) * value_stride + (16 * warp_ + lane_ / 8 % 2 * 8) * 2;
    ptx::ldmatrix_transposed(*reinterpret_cast<Word(*)[4]>(&words[0]), at);
    ptx::ldmatrix_transposed(*reinterpret_cast<Word(*)[4]>(&words[4]), at + 16 * value_stride);
  }
  /// Diag(w) V - E as an operand, with w null for one. Tokens past the end give zero whatever the tile holds there.
  __device__ __forceinline__ void subtract(Word (&out)[8], const Word (&v)[8], const float (&e)[16], const unsigned char* w, int tokens) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float x = ptx::low<T>(v[i]), y = ptx::high<T>(v[i]);
      if (w != nullptr) {
        const float2 strength = reinterpret_cast<const float2*>(w)[i / 2 * 4 + lane_ % 4];
        x *= strength.x, y *= strength.y;
      }
      out[i] = ptx::pack<Operand>(x - e[2 * i], y - e[2 * i + 1]);
    }
    if (tokens < chunk_tokens) mask(out, tokens);
  }
  __device__ __forceinline__ void convert(Word (&out)[8], const Word (&v)[8], int tokens) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = ptx::pack<Operand>(ptx::low<T>(v[i]), ptx::high<T>(v[i]));
    if (tokens < chunk_tokens) mask(out, tokens);
  }
  __device__ __forceinline__ void mask(Word (&words)[8], int tokens) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int token = i / 2 * 8 + lane_ % 4 * 2;
      words[i] = token + 1 < tokens ? words[i] : token < tokens ? words[i] & 0xFFFFu : 0u;
    }
  }

  /// Element of a [.., HV, K, V] array of states that the lane's accumulator 0 holds, and the rest relative to it.
  __device__ __forceinline__ Index state_offset(Index entry) const {
    return ((entry * args_.value_heads + head_) * KeyDim + lane_ % 4 * 2) * value_dim_ + tile_ * values_per_block + 16 * warp_ + lane_ / 4;
  }
  __device__ __forceinline__ int state_step(int i) const { return (i / 4 * 8 + i % 2) * value_dim_ + i / 2 % 2 * 8; }
  __device__ __forceinline__ void load_state(float (&s)[KeyDim / 2]) const {
    const float* from = args_.initial_state == nullptr ? nullptr : args_.initial_state + state_offset(sequence_);
#pragma unroll
    for (int i = 0; i < KeyDim / 2; ++i) s[i] = from == nullptr ? 0.f : from[state_step(i)];
  }
  __device__ __forceinline__ void store_state(const float (&s)[KeyDim / 2], float* to) const {
#pragma unroll
    for (int i = 0; i < KeyDim / 2; ++i) to[state_step(i)] = s[i];
  }
  __device__ __forceinline__ void store_checkpoint(const float (&s)[KeyDim / 2], int chunk) const {
    const int every = args_.checkpoint_chunks;
    if ((chunk + 1) % every != 0 || tokens_in(chunk) < chunk_tokens) return;
    store_state(s, args_.checkpoints + state_offset(range_.begin / (every * chunk_tokens) + (chunk + 1) / every - 1));
  }

  const RecurrenceArguments<T>& args_;
  SequenceRange range_;
  int sequence_, head_, tile_, value_dim_, warp_, lane_;
};

}  // namespace braid::cuda
