// The recurrence over chunks on Hopper: Eqs. (8)-(9) from the records of record.hpp, one block per (sequence, value head, 64 values).
//
// The state S^T (value x key) lives in the accumulators of one warpgroup for the whole sequence; its 16-bit copy is the register operand
// of every product that reads it, so it never passes through shared memory. A producer warp keeps a ring of stages (record and values of
// a chunk) filled by asynchronous copies. E^T, O^T and R^T are value x token.
#pragma once

#include <braid/cuda/ptx/barrier.cuh>
#include <braid/cuda/ptx/math.cuh>
#include <braid/cuda/ptx/memory.cuh>
#include <braid/cuda/ptx/wgmma.cuh>
#include <braid/cuda/recurrence_arguments.hpp>

namespace braid::cuda {

/// Values per block: the M of wgmma.
inline constexpr int value_tile = 64;

/// Stages of the ring and blocks per multiprocessor.
template <int Stages, int Blocks> struct HopperPolicy {
  static constexpr int stages = Stages, blocks = Blocks, threads = 160;
};

template <class T, class Operand, int KeyDim, Strength Kind, class Policy> class HopperRecurrence {
  using Word = ptx::Word;
  using Arguments = RecurrenceArguments<T>;
  static constexpr Record layout{KeyDim, Kind};
  static constexpr int panels = KeyDim / 64, steps = KeyDim / 16;
  static constexpr int value_stride = 144;  // bytes per token of the value tile: 128 and padding against bank conflicts
  static constexpr int output_stride = 48;  // bytes per token of a warp's output tile: 32 and padding

 public:
  struct Storage {
    struct alignas(1024) Stage {
      unsigned char record[layout.shared_bytes()];
    };
    Stage stage[Policy::stages];
    alignas(16) unsigned char values[Policy::stages][chunk_tokens * value_stride];
    alignas(16) unsigned char output[4][chunk_tokens * output_stride];
    ptx::Barrier full[Policy::stages], empty[Policy::stages];
  };

  __device__ __forceinline__ HopperRecurrence(const Arguments& args, Storage& storage, int sequence, int head, int tile, int value_dim)
      : args_(args), storage_(storage), range_(sequence_range(args, sequence)), sequence_(sequence), head_(head), tile_(tile),
        value_dim_(value_dim), warp_(__shfl_sync(0xFFFFFFFFu, static_cast<int>(threadIdx.x) / 32, 0)), lane_(static_cast<int>(threadIdx.x) % 32) {}

  __device__ __forceinline__ void run() {
    if (threadIdx.x == 0) {
      for (int i = 0; i < Policy::stages; ++i) {
        storage_.full[i].init(1 + 32);
        storage_.empty[i].init(4);
      }
      ptx::fence_barrier_init();
    }
    __syncthreads();
    if (warp_ == 4) produce();
    else consume();
  }

 private:
  __device__ __forceinline__ int tokens_in(int chunk) const {
    const Index left = range_.length - static_cast<Index>(chunk) * chunk_tokens;
    return left < chunk_tokens ? static_cast<int>(left) : chunk_tokens;
  }
  __device__ __forceinline__ int chunk_count() const { return static_cast<int>(chunks(range_.length)); }
  /// Element (token of the sequence, this head, first value of the tile) of v and o.
  __device__ __forceinline__ Index value_offset(Index token) const {
    return ((range_.begin + token) * args_.value_heads + head_) * value_dim_ + tile_ * value_tile;
  }

  __device__ __forceinline__ void produce() {
    const Index stride = args_.value_heads * static_cast<Index>(layout.bytes());
    const std::byte* next = args_.records + record_index(first_slot(range_.begin, sequence_), head_, args_.value_heads) * layout.bytes();
    const T* value = args_.v + value_offset(0) + lane_ % 8 * 8;
    const int value_row = args_.value_heads * value_dim_;
    const Index value_step = static_cast<Index>(chunk_tokens) * value_row;
    ptx::wait_for_previous_grid();
    int stage = 0, parity = 1;
    for (int chunk = 0, count = chunk_count(); chunk < count; ++chunk, next += stride, value += value_step) {
      storage_.empty[stage].wait(parity);
      const int tokens = tokens_in(chunk);
      ptx::Barrier& full = storage_.full[stage];
      if (lane_ == 0) {
        full.arrive_expect(layout.bytes());
        ptx::bulk_load(ptx::shared_address(storage_.stage[stage].record), next, layout.bytes(), full);
      }
      // 32 x 128 bytes of values: a bulk copy a row would serialise over the lanes.
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int token = lane_ / 8 + 4 * i;
        ptx::copy16_async(ptx::shared_address(storage_.values[stage]) + token * value_stride + lane_ % 8 * 16,
                          value + (token < tokens ? token * value_row : 0), token < tokens);
      }
      full.arrive_after_copies();
      if (++stage == Policy::stages) stage = 0, parity ^= 1;
    }
  }

  __device__ __forceinline__ void consume() {
    const int count = chunk_count();
    float s[KeyDim / 2], o[16];
    Word operand[KeyDim / 4], pending[8];
    load_state(s);
    pack_words(operand, s);
    int stage = 0, parity = 0;
    for (int chunk = 0; chunk < count; ++chunk) {
      const Word base = ptx::shared_address(storage_.stage[stage].record);
      storage_.full[stage].wait(parity);
      float e[16];
      ptx::wgmma_pin(operand);
      ptx::wgmma_fence();
      if constexpr (layout.erases()) multiply_rows(e, operand, base + layout.kd());
      ptx::wgmma_commit();
      multiply_rows(o, operand, base + layout.qd());
      ptx::wgmma_commit();
      // In the shadow of the products: the previous chunk's output and the values.
      if (chunk > 0) store_output(pending, chunk - 1);
      Word values[8];
      load_values(values, storage_.values[stage]);
      Word r[8];
      if constexpr (layout.erases()) {
        ptx::wgmma_wait<1>();
        ptx::wgmma_pin(e);
        Word difference[8];
        subtract(difference, values, e, stage, tokens_in(chunk));
        float product[16];
        ptx::wgmma_pin(difference);
        ptx::wgmma_fence();
        multiply_square(product, difference, base + layout.t(), 0);
        ptx::wgmma_commit();
        decay_state(s, storage_.stage[stage].record + layout.a());  // here and no earlier: ptxas would wait for the products above
        ptx::wgmma_wait<0>();
        ptx::wgmma_pin(product);
        ptx::wgmma_pin(o);
        pack_words(r, product);
      } else {
        convert(r, values, tokens_in(chunk));
        ptx::wgmma_wait<0>();
        decay_state(s, storage_.stage[stage].record + layout.a());
        ptx::wgmma_pin(o);
      }
      ptx::wgmma_pin(r);
      ptx::wgmma_pin(s);
      ptx::wgmma_fence();
      const auto kg = ptx::descriptor(base + layout.kg(), Record::panel_bytes, 1024, ptx::Swizzle::bytes128);
#pragma unroll
      for (int i = 0; i < 2; ++i) ptx::wgmma<Operand, true>(s, r + 4 * i, kg + i * (2048 >> 4), 1);
      ptx::wgmma_commit();
      multiply_square(o, r, base + layout.z(), 1);
      ptx::wgmma_commit();
      ptx::wgmma_wait<1>();
      ptx::wgmma_pin(s);
      pack_words(operand, s);
      ptx::wgmma_wait<0>();
      ptx::wgmma_pin(o);
      if (lane_ == 0) storage_.empty[stage].arrive();
#pragma unroll
      for (int i = 0; i < 8; ++i) pending[i] = ptx::pack<T>(o[2 * i] * args_.scale, o[2 * i + 1] * args_.scale);
      if (args_.checkpoints != nullptr) store_checkpoint(s, chunk);
      if (++stage == Policy::stages) stage = 0, parity ^= 1;
    }
    if (count > 0) store_output(pending, count - 1);
    if (args_.final_state != nullptr) store_state(s, args_.final_state + state_offset(sequence_));
  }

  template <int N> __device__ __forceinline__ static void pack_words(Word (&words)[N], const float (&x)[2 * N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) words[i] = ptx::pack<Operand>(x[2 * i], x[2 * i + 1]);
  }

  /// d = S^T rows^T, rows [32][K] swizzled.
  __device__ __forceinline__ static void multiply_rows(float (&d)[16], const Word (&a)[KeyDim / 4], Word rows) {
    const auto b = ptx::descriptor(rows, 16, 1024, ptx::Swizzle::bytes128);
#pragma unroll
    for (int i = 0; i < steps; ++i)
      ptx::wgmma<Operand, false>(d, a + 4 * i, b + ((i / 4 * Record::panel_bytes + i % 4 * 32) >> 4), i > 0);
  }
  /// d = a square^T (+ d), square [32][32] in cores.
  __device__ __forceinline__ static void multiply_square(float (&d)[16], const Word (&a)[8], Word square, int accumulate) {
    const auto b = ptx::descriptor(square, 128, 512, ptx::Swizzle::none);
#pragma unroll
    for (int i = 0; i < 2; ++i) ptx::wgmma<Operand, false>(d, a + 4 * i, b + i * (256 >> 4), i > 0 || accumulate);
  }

  /// S <- Diag(a) S.
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
  /// V - E as an operand. Rows of tokens past the end are zero whatever the tile holds there.
  __device__ __forceinline__ void subtract(Word (&out)[8], const Word (&v)[8], const float (&e)[16], int stage, int tokens) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      float x = ptx::low<T>(v[i]), y = ptx::high<T>(v[i]);
      if constexpr (Kind == Strength::two) {
        const auto* w = reinterpret_cast<const float2*>(storage_.stage[stage].record + layout.w());
        const float2 strength = w[i / 2 * 4 + lane_ % 4];
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

  /// words[2j + h] = outputs of values 16 warp + 8h + r, tokens 8j + 2c, 8j + 2c + 1; turned in shared memory, 32 bytes per token.
  __device__ __forceinline__ void store_output(const Word (&words)[8], int chunk) const {
    const unsigned char* tile = storage_.output[warp_];
    const Word at = ptx::shared_address(tile) + (lane_ / 16 * 8 + lane_ % 8) * output_stride + lane_ / 8 % 2 * 16;
    __syncwarp();
    ptx::stmatrix_transposed(at, *reinterpret_cast<const Word(*)[4]>(&words[0]));
    ptx::stmatrix_transposed(at + 16 * output_stride, *reinterpret_cast<const Word(*)[4]>(&words[4]));
    __syncwarp();
    const int tokens = tokens_in(chunk);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = lane_ / 2 + 16 * i;
      if (token < tokens) {
        T* out = args_.o + value_offset(static_cast<Index>(chunk) * chunk_tokens + token) + 16 * warp_ + lane_ % 2 * 8;
        *reinterpret_cast<uint4*>(out) = *reinterpret_cast<const uint4*>(tile + token * output_stride + lane_ % 2 * 16);
      }
    }
  }

  /// Element of a [.., HV, K, V] array of states that the lane's accumulator 0 holds.
  __device__ __forceinline__ Index state_offset(Index entry) const {
    return ((entry * args_.value_heads + head_) * KeyDim + lane_ % 4 * 2) * value_dim_ + tile_ * value_tile + 16 * warp_ + lane_ / 4;
  }
  /// Key and value of accumulator i, relative to accumulator 0.
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

  const Arguments& args_;
  Storage& storage_;
  SequenceRange range_;
  int sequence_, head_, tile_, value_dim_, warp_, lane_;
};

/// Block (sequence, value head, value tile), the tile fastest.
template <class T, class Operand, int KeyDim, Strength Kind, class Policy>
__global__ void __launch_bounds__(Policy::threads, Policy::blocks)
    recurrence_sm90_kernel(const __grid_constant__ RecurrenceArguments<T> args, int value_dim) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Body = HopperRecurrence<T, Operand, KeyDim, Kind, Policy>;
  extern __shared__ __align__(1024) unsigned char recurrence_shared[];
  const int tiles = value_dim / value_tile, block = static_cast<int>(blockIdx.x);
  Body(args, *reinterpret_cast<typename Body::Storage*>(recurrence_shared), block / tiles / args.value_heads, block / tiles % args.value_heads,
       block % tiles, value_dim).run();
#endif
}

}  // namespace braid::cuda
