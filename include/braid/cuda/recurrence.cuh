// The recurrence over chunks for sm_80 and up: Eqs. (8)-(9) from the records of record.hpp (or, for general DPLR, dplr_record.hpp), one
// block per (sequence, value head, 64 values).
//
// The same form as recurrence_sm90.cuh with mma.sync for wgmma and cp.async for bulk copies: a warp holds 16 values x all keys of the
// state in its accumulators for the whole sequence, and the 16-bit copy of that is the register operand of every product with it.
#pragma once

#include <braid/cuda/chunk_products.cuh>
#include <braid/cuda/context.cuh>
#include <braid/cuda/dplr_record.hpp>
#include <braid/cuda/ptx/barrier.cuh>
#include <braid/cuda/ptx/memory.cuh>
#include <braid/cuda/recurrence_fragments.cuh>

namespace braid::cuda {

/// Stages of the ring and blocks per multiprocessor. Two stages fit the 99 KB that a block has on the smallest devices of sm_80 and up.
template <int Stages, int Blocks> struct PortablePolicy {
  static constexpr int stages = Stages, blocks = Blocks, threads = 128;
};

/// What a chunk's record holds and how it moves the state: by an update of rank one, or by general DPLR.
template <Strength Kind> struct RankOneForm {
  static constexpr bool dplr = false;
  static constexpr Strength strength = Kind;
  static constexpr Record record(int key_dim) { return {key_dim, Kind}; }
};
struct DplrForm {
  static constexpr bool dplr = true;
  static constexpr DplrRecord record(int key_dim) { return {key_dim}; }
};

template <class T, class Operand, int KeyDim, class Form, class Policy>
class PortableRecurrence : RecurrenceFragments<T, Operand, KeyDim> {
  using Base = RecurrenceFragments<T, Operand, KeyDim>;
  using Word = ptx::Word;
  using Base::args_, Base::lane_, Base::walk_, Base::warp_;
  static constexpr auto layout = Form::record(KeyDim);
  static constexpr int steps = KeyDim / 16;
  static constexpr int output_stride = 48;  // bytes per token of a warp's output tile: 32 and padding
  /// Records are copied by one instruction, not by all threads: where there is no other path for the device (record.hpp's have recurrence_sm90.cuh).
  static constexpr bool in_one_piece = Form::dplr && ptx::copies_in_bulk;

 public:
  struct Storage {
    struct alignas(128) Stage {
      unsigned char record[layout.bytes()];
    };
    Stage stage[Policy::stages];
    alignas(16) unsigned char values[Policy::stages][chunk_tokens * Base::value_stride];
    alignas(16) unsigned char output[4][chunk_tokens * output_stride];
    ptx::Barrier full[Policy::stages];  ///< of records that are copied in one piece
    Walk walk;
  };

  __device__ __forceinline__ PortableRecurrence(const RecurrenceArguments<T>& args, Storage& storage)
      : Base(args, &storage.walk), storage_(storage), products_(static_cast<int>(threadIdx.x) % 32),
        records_(args.records + storage.walk.record * static_cast<Index>(layout.bytes())) {}

  __device__ __forceinline__ void run() {
    const int count = this->chunk_count();
    if constexpr (in_one_piece) {
      if (threadIdx.x == 0) {
        for (ptx::Barrier& full : storage_.full) full.init(1);
        ptx::fence_barrier_init();
      }
      __syncthreads();
    }
    for (int i = 0; i < Policy::stages - 1; ++i) start_copy(i, count);
    float s[KeyDim / 2];
    this->load_state(s, this->state_before());
    for (int chunk = 0; chunk < count; ++chunk) {
      ptx::copy_wait<Policy::stages - 2>();
      if constexpr (in_one_piece) storage_.full[chunk % Policy::stages].wait(chunk / Policy::stages & 1);
      __syncthreads();  // this chunk is there for all, and all are done with the one before it
      start_copy(chunk + Policy::stages - 1, count);
      step(s, chunk);
      if (this->wants_checkpoints()) this->store_checkpoint(s, chunk);
    }
    this->store_state(s, this->state_after(), this->width());
  }

 private:
  __device__ __forceinline__ void start_copy(int chunk, int count) {
    if (chunk < count) {
      const int stage = chunk % Policy::stages;
      const std::byte* record = records_ + chunk * static_cast<Index>(layout.bytes());
      const Word to = ptx::shared_address(storage_.stage[stage].record);
      if constexpr (in_one_piece) {
        if (threadIdx.x == 0) {
          storage_.full[stage].arrive_expect(layout.bytes());
          ptx::bulk_load(to, record, layout.bytes(), storage_.full[stage]);
        }
      } else {
#pragma unroll 5
        for (int i = threadIdx.x; i < layout.bytes() / 16; i += Policy::threads) ptx::copy16_async(to + i * 16, record + i * 16);
      }
      const Index first = static_cast<Index>(chunk) * chunk_tokens;
      const int tokens = this->value_tokens_in(chunk);
      const Word values = ptx::shared_address(storage_.values[stage]);
#pragma unroll
      for (int i = threadIdx.x; i < chunk_tokens * 8; i += Policy::threads) {
        const int token = i / 8, last = token < tokens ? token : 0;
        ptx::copy16_async(values + token * Base::value_stride + i % 8 * 16, args_.v + this->value_offset(first + last) + i % 8 * 8, token < tokens);
      }
    }
    ptx::copy_commit();
  }

  __device__ __forceinline__ void step(float (&s)[KeyDim / 2], int chunk) {
    const unsigned char* record = storage_.stage[chunk % Policy::stages].record;
    const unsigned char* values = storage_.values[chunk % Policy::stages];
    if constexpr (Form::dplr) dplr_step(s, record, values, chunk);
    else rank_one_step(s, record, values, chunk);
  }

  __device__ __forceinline__ void rank_one_step(float (&s)[KeyDim / 2], const unsigned char* record, const unsigned char* tile, int chunk) {
    const int tokens = this->tokens_in(chunk);
    const Word base = ptx::shared_address(record);
    Word operand[KeyDim / 4], values[8], r[8];
    Base::pack_words(operand, s);
    if constexpr (layout.erases()) {
      float e[16], product[16] = {};
      this->load_values(values, tile);
      this->unpack_values(e, values, Form::strength == Strength::two ? record + layout.w() : nullptr);
      products_.template add_rows<steps>(e, operand, base + layout.kd(), layout.qd_panel());
      Word difference[8];
      Base::pack_words(difference, e);
      products_.add_square(product, difference, base + layout.t());
      Base::pack_words(r, product);
    } else {
      this->load_values(values, tile);
      this->convert(r, values);
    }
    if (this->wants_outputs()) {
      float o[16] = {};
      products_.template add_rows<steps>(o, operand, base + layout.qd(), layout.qd_panel());
      products_.add_square(o, r, base + layout.z());
      store_output(o, chunk, tokens);
    }
    this->decay_state(s, record + layout.a());
    products_.template add_outer<KeyDim / 8>(s, r, base + layout.kg());
  }

  __device__ __forceinline__ void dplr_step(float (&s)[KeyDim / 2], const unsigned char* record, const unsigned char* tile, int chunk) {
    const int tokens = this->tokens_in(chunk);
    const Word base = ptx::shared_address(record);
    Word operand[KeyDim / 4], values[8], y[8];  // y holds -Y
    Base::pack_words(operand, s);
    this->load_values(values, tile);
    this->convert(values, values);
    {
      float e[16] = {}, product[16] = {};
      products_.template add_rows<steps>(e, operand, base + layout.bd());
      products_.add_square(e, values, base + layout.abk());
      Base::pack_words(y, e);
      products_.add_square(product, y, base + layout.t());
      Base::pack_words(y, product);
    }
    if (this->wants_outputs()) {
      float o[16] = {};
      products_.template add_rows<steps>(o, operand, base + layout.qd());
      products_.add_square(o, values, base + layout.aqk());
      products_.add_square(o, y, base + layout.aqa());
      store_output(o, chunk, tokens);
    }
    this->decay_state(s, record + layout.a());
    products_.template add_outer<KeyDim / 8>(s, values, base + layout.kg());
    products_.template add_outer<KeyDim / 8>(s, y, base + layout.ag());
  }

  /// Outputs, value x token in the accumulators, turned in registers and joined to 32 bytes per token in shared memory.
  __device__ __forceinline__ void store_output(const float (&o)[16], int chunk, int tokens) const {
    unsigned char* tile = storage_.output[warp_];
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 8; ++i) {  // i = 2j + h: tokens 8j.., values 8h..
      const Word turned = ptx::movmatrix_transposed(ptx::pack<T>(o[2 * i] * args_.scale, o[2 * i + 1] * args_.scale));
      *reinterpret_cast<Word*>(tile + (i / 2 * 8 + lane_ / 4) * output_stride + i % 2 * 16 + lane_ % 4 * 4) = turned;
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = lane_ / 2 + 16 * i;
      if (token < tokens) {
        T* out = args_.o + this->value_offset(static_cast<Index>(chunk) * chunk_tokens + token) + 16 * warp_ + lane_ % 2 * 8;
        *reinterpret_cast<uint4*>(out) = *reinterpret_cast<const uint4*>(tile + token * output_stride + lane_ % 2 * 16);
      }
    }
  }

  Storage& storage_;
  ChunkProducts<Operand> products_;
  const std::byte* records_;  ///< of the walk's chunks
};

namespace detail {

template <class Body, int KeyDim, class T>
__device__ __forceinline__ void run_recurrence(const RecurrenceArguments<T>& args, unsigned char* shared) {
  auto& storage = *reinterpret_cast<typename Body::Storage*>(shared);
  if (threadIdx.x == 0) storage.walk = find_walk(args, blockIdx.x, KeyDim, 1);
  __syncthreads();
  if (storage.walk.active) Body(args, storage).run();
}

template <class T, class Operand, int KeyDim, Strength Kind, class Policy>
__global__ void __launch_bounds__(Policy::threads, Policy::blocks) recurrence_kernel(const __grid_constant__ RecurrenceArguments<T> args) {
  extern __shared__ __align__(128) unsigned char shared[];
  run_recurrence<PortableRecurrence<T, Operand, KeyDim, RankOneForm<Kind>, Policy>, KeyDim>(args, shared);
}
template <class T, class Operand, int KeyDim, class Policy>
__global__ void __launch_bounds__(Policy::threads, Policy::blocks) dplr_recurrence_kernel(const __grid_constant__ RecurrenceArguments<T> args) {
  extern __shared__ __align__(128) unsigned char shared[];
  run_recurrence<PortableRecurrence<T, Operand, KeyDim, DplrForm, Policy>, KeyDim>(args, shared);
}

/// On `units` sequences or segments.
template <class Body, class Policy, int KeyDim, auto Kernel, class T>
void launch_recurrence(const RecurrenceArguments<T>& args, Index units, cudaStream_t stream) {
  constexpr int shared = sizeof(typename Body::Storage);
  const Index blocks = units * args.value_heads * blocks_of_head(args, KeyDim, 1);
  allow_shared<Kernel>(shared);
  launch(Kernel, static_cast<unsigned>(blocks), Policy::threads, shared, false, stream, args);
}

}  // namespace detail

/// Two blocks per multiprocessor: 179 registers for KDA at K = 128, 187 for DPLR. At three (168) both would spill.
using DefaultPortablePolicy = PortablePolicy<2, 2>;

template <class T, class Operand, int KeyDim, Strength Kind>
void launch_portable_recurrence(const RecurrenceArguments<T>& args, Index units, cudaStream_t stream) {
  using Policy = DefaultPortablePolicy;
  detail::launch_recurrence<PortableRecurrence<T, Operand, KeyDim, RankOneForm<Kind>, Policy>, Policy, KeyDim,
                            &detail::recurrence_kernel<T, Operand, KeyDim, Kind, Policy>>(args, units, stream);
}
template <class T, class Operand, int KeyDim>
void launch_dplr_recurrence(const RecurrenceArguments<T>& args, Index units, cudaStream_t stream) {
  using Policy = DefaultPortablePolicy;
  detail::launch_recurrence<PortableRecurrence<T, Operand, KeyDim, DplrForm, Policy>, Policy, KeyDim,
                            &detail::dplr_recurrence_kernel<T, Operand, KeyDim, Policy>>(args, units, stream);
}

}  // namespace braid::cuda
