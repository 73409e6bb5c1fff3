// The recurrence over chunks on Hopper: Eqs. (8)-(9) from the records of record.hpp. A block walks 64 or 128 values of a head of a sequence; beside the
// preparation, one after the other, those of its column (time_order.hpp).
//
// The state S^T (value x key) of 64 values lives in the accumulators of one warpgroup for the whole sequence; its 16-bit copy is the register
// operand of every product that reads it, so it never passes through shared memory. One more warp keeps a ring of stages filled with the records of
// chunks, another with their values, others carry outputs from shared memory away. E^T, O^T and R^T are value x token.
//
// The kernel may run beside the preparation, which writes the records in the order of time: then the copying warp waits for a record's flag, and
// says when it has fetched the record, so that its place may be used again (time_order.hpp). The flags are cleared before this kernel may start,
// and the preparation waits a limited time for a place, so no order of blocks can lock up.
//
// What bounds the kernel at few heads is the chain E, R, S of one chunk after the other, in which issuing a product blocks its warp. What is off that
// chain stands where the warpgroup would wait for a product: the decay of S behind E and R, outputs and the next values behind S.
#pragma once

#include <braid/cuda/chunk_products.cuh>
#include <braid/cuda/ptx/barrier.cuh>
#include <braid/cuda/ptx/memory.cuh>
#include <braid/cuda/ptx/wgmma.cuh>
#include <braid/cuda/recurrence_fragments.cuh>

namespace braid::cuda {

/// Value tiles of a block, a warpgroup each; stages of the ring; blocks per multiprocessor.
template <int Tiles, int Stages, int Blocks> struct HopperPolicy {
  static constexpr int tiles = Tiles, stages = Stages, blocks = Blocks;
  /// One warp fetches records, one values, one for each tile carries outputs away; where two blocks share a multiprocessor one fetches both. Registers
  /// are handed out by warpgroups: with two tiles there are three, all compiled for 168, of which those that copy leave some to those that walk.
  static constexpr bool values_apart = Blocks == 1;
  static constexpr int consumers = 4 * Tiles, values_warp = values_apart ? 1 + Tiles : 0, threads = 32 * (consumers + 1 + Tiles + values_apart);
  static constexpr bool moves_registers = Tiles == 2;
  static constexpr int walking_registers = 208, copying_registers = 88;
  static_assert(Tiles == 1 || (Tiles == 2 && 128 * (2 * walking_registers + copying_registers) <= 65536));
};

template <class T, class Operand, int KeyDim, Strength Kind, class Policy>
class HopperRecurrence : RecurrenceFragments<T, Operand, KeyDim> {
  using Base = RecurrenceFragments<T, Operand, KeyDim>;
  using Word = ptx::Word;
  using Base::args_, Base::group_, Base::lane_, Base::walk_, Base::warp_;
  static constexpr Record layout{KeyDim, Kind};
  static constexpr int steps = KeyDim / 16, output_buffers = 2, walks_known = 2;
  static constexpr bool one_walk = Policy::blocks > 1;  ///< of a block: it does not run beside the preparation

 public:
  struct Storage {
    alignas(128) unsigned char record[Policy::stages][layout.bytes()];
    alignas(16) unsigned char values[Policy::stages][Policy::tiles][chunk_tokens * Base::value_stride];
    alignas(16) unsigned char output[output_buffers][Policy::tiles][chunk_tokens * Base::value_stride];
    ptx::Barrier full[Policy::stages], empty[Policy::stages], output_full[output_buffers], output_empty[output_buffers];
    ptx::Barrier walk_full[walks_known], walk_empty[walks_known];
    Walk walk[walks_known];
  };

  __device__ __forceinline__ HopperRecurrence(const RecurrenceArguments<T>& args, Storage& storage) : Base(args, nullptr), storage_(ptx::uniform(storage)) {}

  __device__ __forceinline__ void run() {
    if (threadIdx.x == 0) {
      for (int i = 0; i < Policy::stages; ++i) {
        storage_.full[i].init(1 + 32);
        storage_.empty[i].init(32 * Policy::consumers);
      }
      for (int i = 0; i < output_buffers; ++i) {
        storage_.output_full[i].init(Policy::consumers);
        storage_.output_empty[i].init(32 * Policy::tiles);
      }
      for (int i = 0; i < walks_known; ++i) {
        storage_.walk_full[i].init(1);
        storage_.walk_empty[i].init(Policy::threads - 32);
      }
      ptx::fence_barrier_init();
    }
    __syncthreads();
    if (args_.pass == Pass::summary) ptx::launch_dependents();
    if (args_.pass == Pass::outputs) ptx::wait_for_previous_grid();  // for the states before the walks
    if (group_ < Policy::tiles) {
      if constexpr (Policy::moves_registers) ptx::take_registers<Policy::walking_registers>();
      this->wants_outputs() ? consume<true>() : consume<false>();
    } else {
      if constexpr (Policy::moves_registers) ptx::leave_registers<Policy::copying_registers>();
      if (warp_ == 0) fetch_walks();
      else if (warp_ == Policy::values_warp) fetch_values();
      else carry_away(warp_ - 1);
    }
  }

 private:
  struct Ring {
    int stage = 0, parity = 0;
    __device__ __forceinline__ void advance() {
      if (++stage == Policy::stages) stage = 0, parity ^= 1;
    }
  };
  /// The walks of the block as its warps see them, one after the other, each once the fetching warp has announced it.
  struct Walks {
    int number = 0;  ///< of the next walk
    __device__ __forceinline__ bool next(HopperRecurrence& body) {
      const int slot = number % walks_known;
      body.storage_.walk_full[slot].wait(number++ / walks_known & 1);
      body.walk_ = &body.storage_.walk[slot];
      return __any_sync(~0u, body.walk_->active);
    }
    __device__ __forceinline__ void done(HopperRecurrence& body) { body.storage_.walk_empty[(number - 1) % walks_known].arrive(); }
  };

  /// The block's walks as the fetching warp finds them: one, or the pieces of its column.
  struct Search {
    int position, end;
    __device__ __forceinline__ explicit Search(const HopperRecurrence& body) : position(0), end(1) {
      if (!body.beside()) return;
      const TimeOrder& order = body.args_.order;
      position = body.column() * order.length, end = min(position + order.length, order.positions());
    }
    /// The next walk; none: not active.
    __device__ __forceinline__ Walk next(const HopperRecurrence& body) {
      while (position < end) {
        Walk walk;
        if (body.beside()) {
          const TimeOrder::Piece piece = body.args_.order.piece(position);
          walk = find_piece(body.args_, piece, body.reader() * Policy::tiles), position = piece.last;
        } else {
          walk = find_walk(body.args_, blockIdx.x, KeyDim, Policy::tiles), ++position;
        }
        if (walk.active) return walk;
      }
      return {};
    }
  };
  /// Finds the walks of the block and fetches their records; each walk is found and announced halfway through the one before.
  __device__ __forceinline__ void fetch_walks() {
    if constexpr (one_walk)  // walks may be short: their state is on its way while the offsets are read
      if (args_.pass == Pass::whole && args_.initial_state != nullptr)
        this->template prefetch_state<Policy::tiles>(place_walk(args_, blockIdx.x, KeyDim, Policy::tiles));
    if (!beside()) ptx::wait_for_previous_grid();
    Search search(*this);
    Ring at;
    int number = 0;
    announce(search.next(*this), number);
    for (Walks walks; walks.next(*this);) fetch_records(at, [&] { announce(search.next(*this), number); });
  }
  /// Tells all warps of the next walk, or, if it is not active, that there are no more.
  __device__ __forceinline__ void announce(const Walk& walk, int& number) {
    const int slot = number % walks_known;
    storage_.walk_empty[slot].wait((number / walks_known & 1) ^ 1);
    if (lane_ == 0) {
      storage_.walk[slot] = walk;
      storage_.walk_full[slot].arrive();
    }
    __syncwarp();
    if (number++ > 0 && walk.active && walk.first && args_.initial_state != nullptr) this->template prefetch_state<Policy::tiles>(walk);
  }
  /// Fetches the records of the current walk; calls `halfway` once.
  template <class Halfway> __device__ __forceinline__ void fetch_records(Ring& at, const Halfway& halfway) {
    const int count = this->chunk_count();
    const std::byte* const records = args_.records + walk_->record * static_cast<Index>(layout.bytes());
    Values values(*this);
    Flags flags(*this);
    Ring last;
    int chunk = 0;
#pragma unroll 1
    for (int part = 0; part < 2; ++part) {  // with the search outside, the loop's instructions stay together
#pragma unroll 1
      for (const int until = part == 0 ? count / 2 : count; chunk < until; ++chunk) {
        if (flags.used()) flags.wait_for_record(*this, chunk, count);
        storage_.empty[at.stage].wait(at.parity ^ 1);
        const std::byte* from = flags.used() ? args_.records + flags.place(chunk) * layout.bytes() : records + chunk * static_cast<Index>(layout.bytes());
        ptx::Barrier& full = storage_.full[at.stage];
        if (lane_ == 0) {
          full.arrive_expect(layout.bytes());
          ptx::bulk_load(ptx::shared_address(storage_.record[at.stage]), from, layout.bytes(), full);
        }
        if constexpr (!Policy::values_apart) values.fetch(*this, chunk, at.stage);
        if (args_.reuse_places && chunk > 0) {
          storage_.full[last.stage].wait(last.parity);
          flags.release(*this, chunk - 1);
        }
        last = at;
        at.advance();
      }
      if (part == 0) halfway();
    }
    if (args_.reuse_places && count > 0) {
      storage_.full[last.stage].wait(last.parity);
      flags.release(*this, count - 1);
    }
  }
  __device__ __forceinline__ void fetch_values() {
    Ring at;
    for (Walks walks; walks.next(*this); walks.done(*this)) {
      const int count = this->chunk_count();
      Values values(*this);
      for (int chunk = 0; chunk < count; ++chunk) {
        storage_.empty[at.stage].wait(at.parity ^ 1);
        values.fetch(*this, chunk, at.stage);
        at.advance();
      }
    }
  }
  /// Copies 32 x 128 bytes of values for each tile, by cp.async: a bulk copy a row would serialise over the lanes.
  struct Values {
    const T* next;
    int row;
    ptx::CachePolicy policy;
    bool once;  ///< beside the preparation, whose records should stay in L2

    __device__ __forceinline__ explicit Values(const HopperRecurrence& body)
        : next(body.args_.v + body.value_offset(0) + body.lane_ % 8 * 8), row(body.args_.value_heads * body.args_.value_dim),
          policy(ptx::evict_first()), once(body.args_.ready != nullptr) {}

    __device__ __forceinline__ void copy(Word to, const T* from, bool there) const {
      if (once) ptx::copy16_async<true>(to, from, there, policy);
      else ptx::copy16_async(to, from, there);
    }
    __device__ __forceinline__ void fetch(const HopperRecurrence& body, int chunk, int stage) {
      const int tokens = body.value_tokens_in(chunk), first = body.lane_ / 8;
      const Word to = ptx::shared_address(body.storage_.values[stage]) + first * Base::value_stride + body.lane_ % 8 * 16;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const bool there = first + 4 * i < tokens;
        const T* from = next + (there ? (first + 4 * i) * row : 0);
#pragma unroll
        for (int tile = 0; tile < Policy::tiles; ++tile)
          copy(to + (tile * chunk_tokens + 4 * i) * Base::value_stride, from + tile * value_tile, there);
      }
      body.storage_.full[stage].arrive_after_copies();
      next += static_cast<Index>(chunk_tokens) * row;
    }
  };
  /// The flags of the walk's records (time_order.hpp), 32 looked at at once, a lane each.
  struct Flags {
    std::uint32_t* first = nullptr;  ///< of the walk's first record; null: unused
    int step = 0;                    ///< from chunk to chunk
    int begin = 0, end = 0;          ///< chunks known to be written
    Word flag = 0;                   ///< of chunk begin + lane

    __device__ __forceinline__ explicit Flags(const HopperRecurrence& body) {
      const RecurrenceArguments<T>& args = body.args_;
      if (!body.beside()) return;
      step = body.readers();
      first = args.ready + static_cast<Index>(body.walk_->record) * step + body.reader();
    }
    __device__ __forceinline__ bool used() const { return first != nullptr; }
    /// Waits until the preparation has written the record of `chunk`.
    __device__ __forceinline__ void wait_for_record(const HopperRecurrence& body, int chunk, int count) {
      if (chunk < end) return;
      unsigned missing;
      do {
        flag = chunk + body.lane_ >= count ? ReadyFlag::none : ptx::load_acquire(first + (chunk + body.lane_) * step);
        missing = __ballot_sync(~0u, flag == ReadyFlag::none);
      } while (missing & 1);
      __syncwarp();
      ptx::fence_async_global();
      begin = chunk, end = chunk + (missing == 0 ? 32 : __ffs(static_cast<int>(missing)) - 1);
    }
    __device__ __forceinline__ Index place(int chunk) const { return ReadyFlag::place(__shfl_sync(~0u, flag, chunk - begin)); }
    /// Says that the record of `chunk` has been fetched. Relaxed: the barrier that was waited for says that it has been read.
    __device__ __forceinline__ void release(const HopperRecurrence& body, int chunk) const {
      if (body.lane_ == 0) ptx::store_relaxed(first + chunk * step, ReadyFlag::consumed);
    }
  };

  __device__ __forceinline__ void carry_away(int tile) {
    if (!this->wants_outputs()) {
      for (Walks walks; walks.next(*this);) walks.done(*this);
      return;
    }
    int carried = 0;
    for (Walks walks; walks.next(*this); walks.done(*this)) carry_walk(tile, carried);
  }
  __device__ __forceinline__ void carry_walk(int tile, int& carried) {
    T* out = args_.o + this->value_offset(0) + tile * value_tile + lane_ % 8 * 8;
    const int row = args_.value_heads * args_.value_dim, count = this->chunk_count();
    const Index step = static_cast<Index>(chunk_tokens) * row;
    for (int chunk = 0; chunk < count; ++chunk, ++carried, out += step) {
      const int buffer = carried % output_buffers;
      storage_.output_full[buffer].wait(carried / output_buffers & 1);
      const int tokens = this->tokens_in(chunk);
      uint4 piece[8];
#pragma unroll
      for (int i = 0; i < 8; ++i)
        piece[i] = *reinterpret_cast<const uint4*>(storage_.output[buffer][tile] + (lane_ / 8 + 4 * i) * Base::value_stride + lane_ % 8 * 16);
      storage_.output_empty[buffer].arrive();
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int token = lane_ / 8 + 4 * i;
        if (token >= tokens) continue;
        if (args_.ready != nullptr) __stcs(reinterpret_cast<uint4*>(out + token * row), piece[i]);  // so that records stay in L2
        else *reinterpret_cast<uint4*>(out + token * row) = piece[i];
      }
    }
  }

  template <bool Outputs> __device__ __forceinline__ void consume() {
    float s[KeyDim / 2], o[16] = {}, e[16] = {};
    Word operand[KeyDim / 4], values[8], r[8];  // r holds E and R in turn
    constexpr bool both = Outputs && layout.erases();  // E and O are one product
    constexpr int shadowed = !layout.erases() ? steps : both && !one_walk ? steps / 2 : 0;  // of the decay of S behind E, the rest behind R
    // V is added to E behind its product, which shortens the chain. For other types ptxas then wants more registers than there are (C7511), and the
    // product adds it.
    constexpr bool v_late = Kind == Strength::one && std::is_same_v<T, __nv_bfloat16>;
    // One warpgroup alone waits for R, and mma.sync has it sooner, in the same bits. For other types C7511 again.
    constexpr bool r_at_once = v_late && Policy::tiles == 1 && !one_walk;
    const bool checkpoints = this->wants_checkpoints();
    Ring at;
    int passed = 0;
#pragma unroll 1
    for (Walks walks; next_state(s, walks);) {
      const int count = this->chunk_count();
      this->pack_words(operand, s);
      if (count > 0) {
        storage_.full[at.stage].wait(at.parity);
        load_values(values, at.stage);
      }
#pragma unroll 1
      for (int chunk = 0; chunk < count;) {  // what stores a checkpoint would be in the way of the loop's instructions
        const int until = checkpoints ? min(count, this->next_checkpoint(chunk)) : count;
#pragma unroll 1
        for (; chunk < until; ++chunk, ++passed) {
          const unsigned char* record = storage_.record[at.stage];
          const Word base = ptx::shared_address(record);
          if constexpr (layout.erases() && !v_late) this->unpack_values(e, values, Kind == Strength::two ? record + layout.w() : nullptr);
          if constexpr (both && !v_late) {
#pragma unroll
            for (int i = 0; i < 16; ++i) o[i] = 0.f;
          }
          if constexpr (Outputs) ptx::wgmma_pin(o);
          ptx::wgmma_pin(operand);
          ptx::wgmma_pin(e);
          ptx::wgmma_fence();
          if constexpr (both) multiply_both(e, o, operand, base, !v_late);
          else if constexpr (layout.erases()) multiply_rows(e, operand, base + layout.kd(), !v_late);
          else if constexpr (Outputs) multiply_rows(o, operand, base + layout.qd(), 0);
          if constexpr (Outputs || layout.erases()) ptx::wgmma_commit();
          if constexpr (shadowed > 0) {
            ptx::wgmma_wait<1>();  // waits for nothing, but without it ptxas lets nobody touch S before E is there
            ptx::wgmma_pin(s);
            this->template decay_state<0, shadowed>(s, record + layout.a());
            ptx::wgmma_pin(s);
          }
          [[maybe_unused]] Word t[3][4];
          if constexpr (r_at_once) ChunkProducts<Operand>(lane_).load_square(t, base + layout.t());
          float v[16];
          if constexpr (v_late) {
            this->unpack_values(v, values, nullptr);
            ptx::wgmma_pin(v);
          }
          if constexpr (Outputs || layout.erases()) ptx::wgmma_wait<0>();
          if constexpr (Outputs) ptx::wgmma_pin(o);
          if constexpr (layout.erases()) {
            ptx::wgmma_pin(e);
            if constexpr (v_late) {
#pragma unroll
              for (int i = 0; i < 16; ++i) e[i] += v[i];
            }
            this->pack_words(r, e);
            float own[16];
            float(&product)[16] = both ? e : own;  // its accumulators must lie beside those of O, and E's do
            if constexpr (r_at_once) {
#pragma unroll
              for (int i = 0; i < 16; ++i) product[i] = 0.f;
              ChunkProducts<Operand>::add_square(product, r, t);
            } else {
              ptx::wgmma_pin(r);
              ptx::wgmma_fence();
              multiply_square(product, r, base + layout.t(), 0);
              ptx::wgmma_commit();
            }
            this->template decay_state<shadowed>(s, record + layout.a());
            if constexpr (!r_at_once) {
              ptx::wgmma_wait<0>();
              ptx::wgmma_pin(product);
            }
            this->pack_words(r, product);
          } else {
            this->convert(r, values);
          }
          ptx::wgmma_pin(r);
          ptx::wgmma_pin(s);
          ptx::wgmma_fence();
          if constexpr (Outputs) {
            if constexpr (both) multiply_z(e, o, r, base);
            else multiply_square(o, r, base + layout.z(), 1);
            ptx::wgmma_commit();
          }
          const auto kg = ptx::descriptor(base + layout.kg(), 128, Record::panel_bytes);
#pragma unroll
          for (int i = 0; i < 2; ++i) ptx::wgmma<Operand, true>(s, r + 4 * i, kg + i * (256 >> 4), 1);
          ptx::wgmma_commit();
          const Ring used = at;
          at.advance();
          if (chunk + 1 < count) {
            storage_.full[at.stage].wait(at.parity);
            load_values(values, at.stage);
          }
          if constexpr (Outputs) {
            storage_.output_empty[passed % output_buffers].wait((passed / output_buffers & 1) ^ 1);
            ptx::wgmma_wait<1>();
            ptx::wgmma_pin(o);
            pass_output(o, passed % output_buffers);
          }
          ptx::wgmma_wait<0>();
          ptx::wgmma_pin(s);
          this->pack_words(operand, s);
          storage_.empty[used.stage].arrive();  // every lane for what it has read
        }
        if (checkpoints) this->store_checkpoint(s, chunk - 1);
      }
      if constexpr (one_walk) {
        this->store_state(s, this->state_after(), this->width());
        break;  // a loop would cost registers
      }
    }
  }

  /// Whether the block walks a column beside the preparation, not one walk after it.
  __device__ __forceinline__ bool beside() const { return Policy::blocks == 1 && args_.ready != nullptr; }
  /// Blocks that read a record. The columns count from the last block on: what a column waits for, an earlier block walks, so that all goes well also
  /// where not all blocks run at the same time.
  __device__ __forceinline__ int readers() const { return static_cast<int>(gridDim.x) / args_.order.columns; }
  __device__ __forceinline__ int column() const { return (static_cast<int>(gridDim.x) - 1 - static_cast<int>(blockIdx.x)) / readers(); }
  __device__ __forceinline__ int reader() const { return static_cast<int>(blockIdx.x) % readers(); }
  /// This warp's flag of a state that a column hands on, and its part of it: KeyDim / 8 times four floats, `threads` of them from one to the next.
  struct Handed {
    static constexpr int threads = 128 * Policy::tiles;
    std::uint32_t* flag;
    float4* state;
    __device__ __forceinline__ Handed(const HopperRecurrence& body, int column) {
      const int block = column * body.readers() + body.reader();
      flag = body.args_.state_flags + block * Policy::consumers + threadIdx.x / 32;
      state = reinterpret_cast<float4*>(body.args_.states) + static_cast<Index>(block) * (KeyDim / 8 * threads) + threadIdx.x;
    }
  };
  /// Stores the state after the walk before, if any, and loads the one before the next; false if there is no next. An initial state is on its way while
  /// the other is stored, half by half. A state that is handed on may be long in coming, so it is waited for last.
  __device__ __forceinline__ bool next_state(float (&s)[KeyDim / 2], Walks& walks) {
    float* after = nullptr;
    int width = 0;
    if (__any_sync(~0u, walks.number > 0)) {
      if (beside() && !__any_sync(~0u, walk_->last)) hand_on(s);
      else after = this->state_after(), width = this->width();
      walks.done(*this);
    }
    const bool more = walks.next(*this);
    const bool handed = beside() && !__any_sync(~0u, walk_->first);
    const float* const before = more ? this->state_before() : nullptr;
    exchange_state<0>(s, before, after, width);
    if (handed) load_handed(s);
    return more;
  }
  /// With two tiles a block, 32 accumulators after the other: where walks are short, all at once took a tenth longer.
  template <int First> __device__ __forceinline__ void exchange_state(float (&s)[KeyDim / 2], const float* from, float* to, int width) const {
    constexpr int last = First + (Policy::tiles == 2 ? 32 : KeyDim / 2);
    float next[KeyDim / 2];
    this->template load_state<First, last>(next, from);
    this->template store_state<First, last>(s, to, width);
#pragma unroll
    for (int i = First; i < last; ++i) s[i] = next[i];
    if constexpr (last < KeyDim / 2) exchange_state<last>(s, from, to, width);
  }
  __device__ __forceinline__ void load_handed(float (&s)[KeyDim / 2]) const {
    const Handed from(*this, column());
    while (__any_sync(~0u, ptx::load_acquire(from.flag) == 0)) __nanosleep(100);
    __syncwarp();
#pragma unroll
    for (int i = 0; i < KeyDim / 8; ++i) {
      const float4 x = __ldcg(from.state + i * Handed::threads);
      s[4 * i] = x.x, s[4 * i + 1] = x.y, s[4 * i + 2] = x.z, s[4 * i + 3] = x.w;
    }
  }
  __device__ __forceinline__ void hand_on(const float (&s)[KeyDim / 2]) const {
    const Handed to(*this, column() - 1);
#pragma unroll
    for (int i = 0; i < KeyDim / 8; ++i) __stcg(to.state + i * Handed::threads, make_float4(s[4 * i], s[4 * i + 1], s[4 * i + 2], s[4 * i + 3]));
    __syncwarp();
    if (lane_ == 0) {
      ptx::fence_release();
      ptx::store_relaxed(to.flag, 1);
    }
  }

  __device__ __forceinline__ void load_values(Word (&values)[8], int stage) const { Base::load_values(values, storage_.values[stage][group_]); }

  /// d = S^T rows^T (+ d), rows [32][K] in panels.
  __device__ __forceinline__ static void multiply_rows(float (&d)[16], const Word (&a)[KeyDim / 4], Word rows, int accumulate) {
    const auto b = ptx::descriptor(rows, layout.qd_panel(), 128);
#pragma unroll
    for (int i = 0; i < steps; ++i) ptx::wgmma<Operand, false>(d, a + 4 * i, b + (2 * i * layout.qd_panel() >> 4), i > 0 || accumulate);
  }
  /// e = S^T kd^T (+ e), o = S^T qd^T (+ o).
  __device__ __forceinline__ static void multiply_both(float (&e)[16], float (&o)[16], const Word (&a)[KeyDim / 4], Word record, int accumulate) {
    const auto b = ptx::descriptor(record + layout.kd(), layout.qd_panel(), 128);
#pragma unroll
    for (int i = 0; i < steps; ++i) ptx::wgmma_pair<Operand, false>(e, o, a + 4 * i, b + (2 * i * layout.qd_panel() >> 4), i > 0 || accumulate);
  }
  /// d = a square^T (+ d), square [32][32] in cores.
  __device__ __forceinline__ static void multiply_square(float (&d)[16], const Word (&a)[8], Word square, int accumulate) {
    const auto b = ptx::descriptor(square, 128, 512);
#pragma unroll
    for (int i = 0; i < 2; ++i) ptx::wgmma<Operand, false>(d, a + 4 * i, b + i * (256 >> 4), i > 0 || accumulate);
  }

  /// o += R^T Z^T, and into e, which nobody needs any more, the same with the 32 rows before Z: with accumulators that are a pair in one product and
  /// alone in another, ptxas serialises all products (C7511).
  __device__ __forceinline__ static void multiply_z(float (&e)[16], float (&o)[16], const Word (&r)[8], Word record) {
    static_assert(layout.z() >= Record::square_bytes);
    const auto b = ptx::descriptor(record + layout.z() - Record::square_bytes, 128, 512);
#pragma unroll
    for (int i = 0; i < 2; ++i) ptx::wgmma_pair<Operand, false>(e, o, r + 4 * i, b + i * (256 >> 4), 1);
  }

  /// Hands O of a chunk, [token][value] in shared memory, to the warp that carries it away. The buffer is known to be empty.
  __device__ __forceinline__ void pass_output(const float (&o)[16], int buffer) {
    Word words[8];  // words[2j + h]: values 8h + r, tokens 8j + 2c, 8j + 2c + 1
#pragma unroll
    for (int i = 0; i < 8; ++i) words[i] = ptx::pack<T>(o[2 * i] * args_.scale, o[2 * i + 1] * args_.scale);
    const Word at = ptx::shared_address(storage_.output[buffer][group_]) + (lane_ / 16 * 8 + lane_ % 8) * Base::value_stride +
                    (16 * warp_ + lane_ / 8 % 2 * 8) * 2;
    ptx::stmatrix_transposed(at, *reinterpret_cast<const Word(*)[4]>(&words[0]));
    ptx::stmatrix_transposed(at + 16 * Base::value_stride, *reinterpret_cast<const Word(*)[4]>(&words[4]));
    __syncwarp();
    if (lane_ == 0) storage_.output_full[buffer].arrive();
  }

  Storage& storage_;
};

template <class T, class Operand, int KeyDim, Strength Kind, class Policy>
__global__ void __launch_bounds__(Policy::threads, Policy::blocks)
    recurrence_sm90_kernel(const __grid_constant__ RecurrenceArguments<T> args) {
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Body = HopperRecurrence<T, Operand, KeyDim, Kind, Policy>;
  extern __shared__ __align__(128) unsigned char recurrence_shared[];
  auto& storage = *reinterpret_cast<typename Body::Storage*>(recurrence_shared);
  Body(args, storage).run();
  // The stream goes on when this grid has ended; the preparation, which may still be writing for others, must have ended too.
  if (blockIdx.x == gridDim.x - 1) ptx::wait_for_previous_grid();
#endif
}

}  // namespace braid::cuda
