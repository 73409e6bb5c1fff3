// What every recurrence kernel over chunks shares: where its tokens lie, and the forms in which a warp holds states, values and outputs.
//
// A warp owns 16 values of a block's 64. With r = lane / 4 and c = lane % 4, both wgmma (m64) and mma.sync (m16) give it of a value x n
// product d[4j + 2h + i] = (value 8h + r, column 8j + 2c + i); packed in pairs these are the A operand of the next product.
#pragma once

#include <braid/cuda/ptx/math.cuh>
#include <braid/cuda/ptx/memory.cuh>
#include <braid/cuda/recurrence_arguments.hpp>

namespace braid::cuda {

template <class T, class Operand, int KeyDim> class RecurrenceFragments {
 protected:
  using Word = ptx::Word;
  static constexpr int value_stride = 144;  // bytes per token of a value tile in shared memory: 128 and padding against bank conflicts

  __device__ __forceinline__ RecurrenceFragments(const RecurrenceArguments<T>& args, const Walk* walk)
      : args_(args), walk_(walk), warp_(__shfl_sync(~0u, static_cast<int>(threadIdx.x) / 32 % 4, 0)),
        group_(__shfl_sync(~0u, static_cast<int>(threadIdx.x) / 128, 0)), lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ __forceinline__ int tokens_in(int chunk) const {
    const Index left = walk_->length - static_cast<Index>(chunk) * chunk_tokens;
    return left < chunk_tokens ? static_cast<int>(left) : chunk_tokens;
  }
  /// The same for all lanes, as far as the compiler knows.
  __device__ __forceinline__ int chunk_count() const { return static_cast<int>(__reduce_max_sync(~0u, static_cast<unsigned>(chunks(walk_->length)))); }
  /// Tokens of a chunk whose values count: none when M is walked.
  __device__ __forceinline__ int value_tokens_in(int chunk) const { return walk_->map ? 0 : tokens_in(chunk); }
  __device__ __forceinline__ bool wants_outputs() const { return args_.o != nullptr && args_.pass != Pass::summary; }
  /// Element (token of the walk, this head, first value of the block's first tile) of v and o.
  __device__ __forceinline__ Index value_offset(Index token) const {
    return ((walk_->begin + token) * args_.value_heads + walk_->head) * args_.value_dim + (walk_->map ? 0 : walk_->tile * value_tile);
  }

  template <int N> __device__ __forceinline__ static void pack_words(Word (&words)[N], const float (&x)[2 * N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) words[i] = ptx::pack<Operand>(x[2 * i], x[2 * i + 1]);
  }

  /// S <- Diag(a) S, a in shared memory (Record::decay_element), for the keys [16 First, 16 Last).
  template <int First = 0, int Last = KeyDim / 16> __device__ __forceinline__ void decay_state(float (&s)[KeyDim / 2], const unsigned char* a) const {
    const auto* decay = reinterpret_cast<const float4*>(a) + lane_ % 4;
#pragma unroll
    for (int j = First; j < Last; ++j) {
      const float4 x = decay[4 * j];
      s[8 * j] *= x.x, s[8 * j + 1] *= x.y, s[8 * j + 2] *= x.x, s[8 * j + 3] *= x.y;
      s[8 * j + 4] *= x.z, s[8 * j + 5] *= x.w, s[8 * j + 6] *= x.z, s[8 * j + 7] *= x.w;
    }
  }

  /// words[2j + h] = values 16 warp + 8h + r of tokens 8j + 2c, 8j + 2c + 1.
  __device__ __forceinline__ void load_values(Word (&words)[8], const unsigned char* tile) const {
    const Word at = ptx::shared_address(tile) + (lane_ / 16 * 8 + lane_ % 8) * value_stride + (16 * warp_ + lane_ / 8 % 2 * 8) * 2;
    ptx::ldmatrix_transposed(*reinterpret_cast<Word(*)[4]>(&words[0]), at);
    ptx::ldmatrix_transposed(*reinterpret_cast<Word(*)[4]>(&words[4]), at + 16 * value_stride);
  }
  /// Diag(w) V in fp32, to which a product adds -E; w null for one. Tokens past the end are zero in the tile, and so they stay.
  __device__ __forceinline__ void unpack_values(float (&e)[16], const Word (&v)[8], const unsigned char* w) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      e[2 * i] = ptx::low<T>(v[i]), e[2 * i + 1] = ptx::high<T>(v[i]);
      if (w != nullptr) {
        const float2 strength = reinterpret_cast<const float2*>(w)[i / 2 * 4 + lane_ % 4];
        e[2 * i] *= strength.x, e[2 * i + 1] *= strength.y;
      }
    }
  }
  /// V as an operand.
  __device__ __forceinline__ void convert(Word (&out)[8], const Word (&v)[8]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) out[i] = ptx::pack<Operand>(ptx::low<T>(v[i]), ptx::high<T>(v[i]));
  }

  /// Columns of the matrix that is walked: V, or K for M.
  __device__ __forceinline__ int width() const { return walk_->map ? KeyDim : args_.value_dim; }
  /// Element of a [.., HV, K, width] array that the lane's accumulator 0 holds, and the rest relative to it.
  __device__ __forceinline__ Index state_offset(Index entry) const {
    return ((entry * args_.value_heads + walk_->head) * KeyDim + key_of(0)) * width() + column_of(0);
  }
  __device__ __forceinline__ static int state_step(int i, int width) { return (i / 4 * 8 + i % 2) * width + i / 2 % 2 * 8; }
  __device__ __forceinline__ int key_of(int i) const { return i / 4 * 8 + lane_ % 4 * 2 + i % 2; }
  __device__ __forceinline__ int column_of(int i) const { return (walk_->tile + group_) * value_tile + 16 * warp_ + lane_ / 4 + i / 2 % 2 * 8; }

  /// Where the lane's part of the state before the walk lies; null: zero, or the identity.
  __device__ __forceinline__ const float* state_before() const {
    if (walk_->first) return args_.initial_state == nullptr ? nullptr : args_.initial_state + state_offset(walk_->sequence);
    return args_.pass == Pass::outputs ? args_.segment_states + state_offset(walk_->segment - 1) : nullptr;
  }
  /// Where that of the state after it goes; null: nowhere.
  __device__ __forceinline__ float* state_after() const {
    if (args_.pass == Pass::summary) return (walk_->map ? args_.segment_maps : args_.segment_states) + state_offset(walk_->segment);
    return walk_->last && args_.final_state != nullptr ? args_.final_state + state_offset(walk_->sequence) : nullptr;
  }
  /// Accumulators [First, Last).
  template <int First = 0, int Last = KeyDim / 2> __device__ __forceinline__ void load_state(float (&s)[KeyDim / 2], const float* from) const {
    if (from != nullptr) {
#pragma unroll
      for (int i = First; i < Last; ++i) s[i] = from[state_step(i, width())];
    } else {
      const bool map = walk_->map;
#pragma unroll
      for (int i = First; i < Last; ++i) s[i] = map && key_of(i) == column_of(i) ? 1.f : 0.f;
    }
  }
  /// Has the warp fetch the initial state of a walk's `Tiles` tiles into L2.
  template <int Tiles> __device__ __forceinline__ void prefetch_state(const Walk& walk) const {
    constexpr int lines = Tiles * value_tile * 4 / 128;  // of a key
    const float* from = args_.initial_state + (static_cast<Index>(walk.sequence) * args_.value_heads + walk.head) * KeyDim * args_.value_dim + walk.tile * value_tile;
    for (int i = lane_; i < KeyDim * lines; i += 32) ptx::prefetch(from + i / lines * args_.value_dim + i % lines * 32);
  }
  /// `width` of the walk.
  template <int First = 0, int Last = KeyDim / 2> __device__ __forceinline__ void store_state(const float (&s)[KeyDim / 2], float* to, int width) const {
    if (to == nullptr) return;
#pragma unroll
    for (int i = First; i < Last; ++i) to[state_step(i, width)] = s[i];
  }
  __device__ __forceinline__ bool wants_checkpoints() const { return args_.checkpoints != nullptr && args_.pass != Pass::summary; }
  /// Chunks of the sequence before a chunk of the walk.
  __device__ __forceinline__ Index chunks_before(int chunk) const { return (walk_->begin - walk_->sequence_begin) / chunk_tokens + chunk; }
  /// The chunk of the walk before which the next checkpoint is due, after `chunk`. The same for all lanes, as far as the compiler knows.
  __device__ __forceinline__ int next_checkpoint(int chunk) const {
    const Index every = args_.checkpoint_chunks;
    return static_cast<int>(__reduce_max_sync(~0u, static_cast<unsigned>(chunk + every - chunks_before(chunk) % every)));
  }
  __device__ __forceinline__ void store_checkpoint(const float (&s)[KeyDim / 2], int chunk) const {
    if (tokens_in(chunk) < chunk_tokens) return;
    const Index every = args_.checkpoint_chunks, done = chunks_before(chunk) + 1;
    if (done % every == 0) store_state(s, args_.checkpoints + state_offset(walk_->sequence_begin / (every * chunk_tokens) + done / every - 1), width());
  }

  const RecurrenceArguments<T>& args_;
  const Walk* walk_;  ///< in shared memory: what is rarely read takes no registers
  int warp_, group_, lane_;  ///< warp of its warpgroup, warpgroup of the block
};

}  // namespace braid::cuda
