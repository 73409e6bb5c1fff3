// Preparation: a group of two or four warps turns 32 tokens of one value head into the record the recurrence consumes (record.hpp). Fused in
// it: L2 norm of q and k, gate, sigmoid of beta, decay products, M, Z, the triangular inverse. Serves sm_80 and up.
//
// Each warp owns a part of the channels, so that a row of q, k or the gate is read by one group at one time, once (with a warp per
// chunk the chunks in flight exceed L2 and every row is fetched several times). Norms, M and Z are sums over the warps, through shared memory.
#pragma once

#include <braid/cuda/chunk_matrices.cuh>
#include <braid/cuda/gate.cuh>
#include <braid/cuda/prepare_arguments.hpp>
#include <braid/cuda/ptx/barrier.cuh>
#include <braid/cuda/ptx/memory.cuh>
#include <braid/cuda/triangular_inverse.cuh>

#include <cstddef>

namespace braid::cuda {

/// Body of the preparation for one group of warps.
template <class C, class P> class Preparation {
  using T = typename C::T;
  using G = typename C::G;
  using Operand = typename C::Operand;
  using Word = ptx::Word;
  static constexpr int K = C::key_dim, warp_channels = K / P::warps, steps = warp_channels / 16;
  static constexpr Decay decay = C::Gate::decay;
  static constexpr bool raw_gate = !gate_is_given<typename C::Gate>;

  /// A warp's channels of 32 tokens of one array, in shared memory, 16-byte pieces swizzled: reading four channels of eight tokens meets
  /// no bank twice.
  template <class E> struct alignas(16) Rows {
    static constexpr int row_bytes = warp_channels * static_cast<int>(sizeof(E)), pieces = row_bytes / 16;
    unsigned char data[chunk_tokens * row_bytes];

    __device__ __forceinline__ static int offset(int row, int byte) {
      const int turn = sizeof(E) == 4 ? (steps == 1 ? 0 : (row & 1) * 64) : steps == 1 ? 0 : steps == 2 ? (row >> 1 & 1) * 32 : (row & 3) * 32;
      return row * row_bytes + (byte ^ turn);
    }
    /// Starts copying; tokens past the end become zeros.
    __device__ __forceinline__ void load(const E* base, int row_stride, const Lane& lane, int tokens, ptx::CachePolicy policy) {
      constexpr int rows = 32 / pieces;  // of one copy of the warp; the swizzle repeats after them
      const int first = lane.index / pieces, piece = lane.index % pieces;
      const ptx::Word to = ptx::shared_address(data + offset(first, 16 * piece));
      const E* from = base + static_cast<Index>(first) * row_stride + piece * (16 / static_cast<int>(sizeof(E)));
      const Index step = static_cast<Index>(rows) * row_stride;
#pragma unroll
      for (int i = 0; i < pieces; ++i, from += step) ptx::copy16_async<P::beside>(to + i * rows * row_bytes, from, first + i * rows < tokens, policy);
    }
    /// Four channels (16 step + 4c ..) of token 8s + r.
    __device__ __forceinline__ ptx::Four<E> read(const Lane& lane, int s, int step) const {
      const unsigned char* const first = data + offset(lane.r, (16 * step + 4 * lane.c) * static_cast<int>(sizeof(E)));
      return *reinterpret_cast<const ptx::Four<E>*>(first + 8 * s * row_bytes);  // eight rows further on the swizzle is the same
    }
    __device__ __forceinline__ void read(float (&x)[4], const Lane& lane, int s, int step) const {
      ptx::unpack<E>(x, read(lane, s, step));
    }
  };
  struct Keys {
    Rows<T> q, k;
  };
  /// What a warp has of an item. Once multiplied, q and k make room for the warp's part of the tiles of M and Z.
  struct Inputs {
    static constexpr int tiles_in_keys = sizeof(Keys) / (32 * sizeof(float4));
    Keys keys;
    std::conditional_t<decay == Decay::per_channel, Rows<G>, char> gate;
    float bias[raw_gate && decay == Decay::per_channel ? warp_channels : 4];  ///< dt_bias
    float4 more[tiles_in_keys > 8 ? 2 : 10 - tiles_in_keys][32];

    __device__ __forceinline__ float4* part(int tile) {
      return tile < tiles_in_keys ? reinterpret_cast<float4*>(&keys) + tile * 32 : more[tile - tiles_in_keys];
    }
    /// Before the parts are written.
    __device__ __forceinline__ typename ChunkDecays<Operand>::Scratch& decays() {
      static_assert(sizeof(more) >= sizeof(typename ChunkDecays<Operand>::Scratch));
      return *reinterpret_cast<typename ChunkDecays<Operand>::Scratch*>(&more);
    }
  };
  /// What is known of each token of the current item.
  struct alignas(16) Tokens {
    float q_factor[chunk_tokens], k_factor[chunk_tokens];  ///< 1 / norm
    float qk[chunk_tokens];                                ///< q_i . k_i, the diagonal of Z
    float rate;                                            ///< of the gate
  };
  /// The strengths of each token of the current item.
  struct alignas(16) Strengths {
    float erase[chunk_tokens];   ///< e
    float column[chunk_tokens];  ///< factor of each column of T (without erasing: of Z and kg)
    float write[C::strength == Strength::two ? chunk_tokens : 1];  ///< w
    int place, position;         ///< of its record
    bool zeros;                  ///< of the cores above the diagonals of Z and T' are there, from the first record in this place
  };
  struct alignas(16) Item {
    int number = 0;             ///< in the order of time
    int position = 0, head = 0;
    int first = 0, tokens = 0;  ///< of the packed batch; none: the slot is unused
    TimeOrder::Place place = {0, -1};
  };
  /// One decay per head: products over the chunk, and between[i][j] = prod_{j<t<=i} alpha_t.
  struct alignas(16) ScalarDecay {
    float prefix[chunk_tokens], suffix[chunk_tokens], between[chunk_tokens][chunk_tokens + 4];
  };

 public:
  static constexpr int turns = P::helped ? 2 : 1;  ///< with a helper, every other item has what it reads apart
  struct Storage {
    Inputs inputs[P::warps];
    float2 tiles[turns][10][32];             ///< M
    InverseScratch inverse;
    float norms[3][P::warps][chunk_tokens];  ///< q.q, k.k, q.k
    Tokens tokens;
    Strengths strengths[turns];
    Item following[turns];
    ptx::Barrier with_helper, placed;        ///< placed: the current item has its place
    bool impatient;                          ///< has waited for a place in vain
    std::conditional_t<decay == Decay::per_head, ScalarDecay, char> scalar;
  };

  __device__ __forceinline__ Preparation(const PrepareArguments<T, G>& args, Storage* storage, int group, int warp)
      : args_(args), storage_(storage[group]), group_(group), warp_(warp), channel_(warp_ * warp_channels), share_(args.value_heads / args.heads),
        policy_(ptx::evict_first()), inputs_(storage_.inputs[warp_]) {}

  /// Prepares work items as one of `groups`, first item `number`: beside the recurrence in the order of time, in which it waits for them, else from
  /// the end, so that the records written last, still in L2, are those read first.
  __device__ __forceinline__ void run(int number, int groups) {
    const int items = args_.order.items();
    item_ = find(number);
    load();
    if constexpr (P::beside)
      if (is_planner()) storage_.impatient = false;
    let_recurrence_start(number, groups);
#pragma unroll 1
    while (item_.number < items) {
      const bool work = item_.tokens > 0;
      if (work) {
        const int next = token_factors(groups);
        ptx::copy_wait<0>();
        __syncwarp();
        const Tiles tiles = multiply();
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 10; ++i) inputs_.part(i)[lane_.index] = make_float4(tiles.tile[i][0], tiles.tile[i][1], tiles.tile[i][2], tiles.tile[i][3]);
        if constexpr (!P::helped)
          if (is_planner()) following() = find(next);
        barrier();
        reduce();
      } else {
        if constexpr (P::beside)
          if (warp_ == P::warps - 1) pass_over();
        if constexpr (P::helped) {
          tell_helper();
        } else {
          barrier();  // as in token_factors
          if (is_planner()) following() = find(take_number(groups));
        }
      }
      if constexpr (P::helped) barrier_with_helper();
      else barrier();
      item_ = following();
      load();
      if (!P::helped && work && warp_ == 0) finish();
      take_turn();
    }
  }
  __device__ __forceinline__ static void init_with_helper(Storage& storage) {
    storage.with_helper.init((P::warps + 1) * 32);
    storage.placed.init(1);
  }
  /// What the helper does meanwhile. Items are taken, not dealt out.
  __device__ __forceinline__ void help(int number, int groups) {
    item_ = find(number);
#pragma unroll 1
    while (item_.number < args_.order.items()) {
      wait_for_place();
      if (lane_.index == 0) following() = find(take_number(groups));
      barrier_with_helper();
      if (item_.tokens > 0) finish();
      item_ = following();
      take_turn();
    }
  }

 private:
  /// Waits for the group's other warps.
  __device__ __forceinline__ void barrier() const {
    if constexpr (P::groups == 1) __syncthreads();
    else ptx::named_barrier(1 + group_, P::warps * 32);
  }
  /// M and the strengths of an item are there, and the next item is found. The helper comes here when it has done with the item before, so what that has
  /// left may be written again.
  __device__ __forceinline__ void barrier_with_helper() const {
    if constexpr (ptx::copies_in_bulk) {
      storage_.with_helper.arrive();  // a named barrier would do, but racecheck loses its way where a warp has two
      storage_.with_helper.wait(turn_);
    }
  }
  /// A group takes its next item once the current one has its place: while it waits for that, nobody else could prepare the next, and a column would wait.
  __device__ __forceinline__ void tell_helper() const {
    if constexpr (ptx::copies_in_bulk)
      if (is_planner()) storage_.placed.arrive();
  }
  __device__ __forceinline__ void wait_for_place() const {
    if constexpr (ptx::copies_in_bulk) storage_.placed.wait(turn_);
  }
  __device__ __forceinline__ void take_turn() {
    if constexpr (P::helped) turn_ ^= 1;
  }
  __device__ __forceinline__ Strengths& strengths() const { return storage_.strengths[P::helped ? turn_ : 0]; }
  __device__ __forceinline__ Item& following() const { return storage_.following[P::helped ? turn_ : 0]; }
  __device__ __forceinline__ float2 (&tiles() const)[10][32] { return storage_.tiles[P::helped ? turn_ : 0]; }
  /// The thread that finds items and chooses places, of a warp that does not invert.
  __device__ __forceinline__ bool is_planner() const { return warp_ == P::warps - 1 && lane_.index == 0; }

  /// Lets the recurrence start once all records are marked as not ready. Without flags it may start and wait for this kernel's end.
  __device__ __forceinline__ void let_recurrence_start(int number, int groups) {
    bool speaks = true;  // for its block
    if constexpr (P::beside) {
      if (!P::helped && args_.taken == nullptr) {
        const int begin = number + (warp_ * 32 + lane_.index) * groups, step = P::warps * 32 * groups;
        for (int item = begin; item < args_.order.items(); item += step)  // the group's own: nobody else may clear what it has set
          if (args_.order.position(item) < args_.order.positions())
            for (int reader = 0; reader < args_.readers; ++reader) flag(args_.order.position(item), reader) = ReadyFlag::none;
        for (int i = begin; i < args_.state_flags; i += step) flag(args_.order.positions(), i) = 0;
        __syncthreads();  // all groups have cleared theirs
        speaks = group_ == P::groups - 1 && is_planner();  // of the group that starts last: the fence takes 2 us
        if (speaks) __threadfence();
      }
    }
    if (speaks) ptx::launch_dependents();
    // Groups start one after the other: the first records come soon, then as evenly as they are read, and not all groups want the same units at once.
    if constexpr (P::beside) {
      const auto begin = clock64(), wait = static_cast<long long>(number) * P::spread_clocks / groups;
      while (clock64() - begin < wait) __nanosleep(100);
    }
  }
  /// Sets the current item's flags, from the warp that has written T', behind a barrier that follows what the others have written; whoever sees one
  /// makes the copy engine see the record (HopperRecurrence::Flags).
  __device__ __forceinline__ void publish() {
    if constexpr (P::beside) {
      __syncwarp();
      if (lane_.index > 0) return;
      ptx::fence_release();
      for (int i = 0; i < args_.readers; ++i) ptx::store_relaxed(&flag(strengths().position, i), ReadyFlag::at(strengths().place));
    }
  }
  /// The end of an item, by one warp.
  __device__ __forceinline__ void finish() {
    if constexpr (C::record.erases()) invert();
    publish();
  }

  /// The item of a number; from `items` on: none.
  __device__ __forceinline__ Item find(int number) const {
    const TimeOrder& order = args_.order;
    Item item;
    item.number = number;
    if (number >= order.items()) return item;
    item.position = order.position(P::beside ? number : order.items() - 1 - number);
    if (item.position >= order.positions()) return item;
    if constexpr (P::beside) item.place = order.place(number, args_.places);
    const TimeOrder::Piece piece = order.piece(item.position);
    item.first = static_cast<int>(piece.token(item.position)), item.tokens = piece.tokens(item.position), item.head = piece.head;
    return item;
  }
  /// The group's next item: the first that nobody has taken, so that slow multiprocessors take fewer; or every `groups`-th.
  __device__ __forceinline__ int take_number(int groups) const {
    return !P::helped && args_.taken == nullptr ? item_.number + groups : groups + static_cast<int>(atomicAdd(args_.taken, 1u));
  }
  __device__ __forceinline__ Word& flag(int position, int reader) const { return args_.ready[position * args_.readers + reader]; }
  /// Whether all readers have fetched the record that was in the current item's place before.
  __device__ __forceinline__ bool place_is_free() const {
    bool free = true;
    for (int reader = 0; reader < args_.readers && item_.place.before >= 0; ++reader)
      free &= ptx::load_acquire(&flag(item_.place.before, reader)) == ReadyFlag::consumed;
    return free;
  }
  /// Where the current item's record goes: to its place once that is free, else where it would lie without all this. One thread waits a while for the
  /// recurrence, so as not to run far ahead of it, but not for ever: that may start only when this kernel has ended. Having waited in vain, the group shares
  /// no more places.
  __device__ __forceinline__ int choose_place(bool free) {
    bool& impatient = storage_.impatient;
    for (int tries = impatient ? 0 : 60; !free && tries > 0; --tries) {
      __nanosleep(100);
      free = place_is_free();
    }
    impatient |= !free;
    return impatient ? item_.position : item_.place.position;
  }
  /// Of an item without tokens, by the planner's warp: its place is the next item's at once, which expects zeros there.
  __device__ __forceinline__ void pass_over() {
    if (args_.places == 0 || item_.position >= args_.order.positions()) return;
    if (item_.number < args_.places) {
      for (int core = C::record.z(); core < C::record.a(); core += 128) reinterpret_cast<Word*>(record(item_.position) + core)[lane_.index] = 0;
      __syncwarp();
    }
    if (lane_.index > 0) return;
    choose_place(place_is_free());
    ptx::fence_release();
    for (int reader = 0; reader < args_.readers && !storage_.impatient; ++reader) ptx::store_relaxed(&flag(item_.position, reader), ReadyFlag::consumed);
  }

  __device__ __forceinline__ std::byte* record(int place) const { return args_.records + static_cast<Index>(place) * C::record.bytes(); }
  /// Row of a [T, heads] array.
  __device__ __forceinline__ Index row(int heads, int head, int token = 0) const { return static_cast<Index>(item_.first + token) * heads + head; }
  /// Starts reading the warp's channels of the current item: q and k, then the rest.
  __device__ __forceinline__ void load() {
    const int tokens = item_.tokens, head = item_.head;
    if (tokens > 0) {
      const Index at = row(args_.heads, share_ == 1 ? head : head / share_) * K + channel_;
      inputs_.keys.q.load(args_.q + at, args_.heads * K, lane_, tokens, policy_);
      inputs_.keys.k.load(args_.k + at, args_.heads * K, lane_, tokens, policy_);
    }
    ptx::copy_commit();
    if constexpr (decay == Decay::per_channel) {
      if (tokens > 0) {
        inputs_.gate.load(args_.gate + row(args_.value_heads, head) * K + channel_, args_.value_heads * K, lane_, tokens, policy_);
        if constexpr (raw_gate)
          if (lane_.index < warp_channels / 4)
            ptx::copy16_async(ptx::shared_address(inputs_.bias + 4 * lane_.index), args_.dt_bias + head * K + channel_ + 4 * lane_.index);
      }
    }
    ptx::copy_commit();
  }

  /// Norms and q.k of each token from the diagonals of q q^T, q k^T and k k^T (exact products of 16-bit inputs), and its strengths.
  /// Returns the number of the next item, as one of `groups`, to the thread that finds it.
  __device__ __forceinline__ int token_factors(int groups) {
    Word beta_bits = 0;
    if constexpr (C::Update::uses_beta)
      if (warp_ == 1 && lane_.index < item_.tokens) beta_bits = ptx::load_bits(args_.beta + row(args_.value_heads, item_.head, lane_.index));
    bool free = false;  // asked here, used behind the barrier, as the gate's rate is
    float log_rate = 0.f;
    int next = 0;
    if (is_planner()) {
      if constexpr (decay == Decay::per_channel && raw_gate) log_rate = args_.A_log[item_.head];
      if constexpr (P::beside) free = place_is_free();
    }
    ptx::copy_wait<1>();
    __syncwarp();
    const Keys& keys = inputs_.keys;
    const int tokens = item_.tokens;
    const bool diagonal = lane_.c == lane_.r / 2, odd = lane_.r & 1;  // this lane has column r of row r, as the second of its two
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      float qq[4] = {}, kx[4] = {};
#pragma unroll
      for (int i = 0; i < steps; ++i) {
        const uint2 q = keys.q.read(lane_, s, i), k = keys.k.read(lane_, s, i);
        ptx::mma<T>(qq, q.x, k.x, q.y, k.y, q.x, q.y);  // its k.q half is of no use, but the operand serves both
        ptx::mma<T>(kx, q.x, k.x, q.y, k.y, k.x, k.y);
      }
      if (diagonal) {
        storage_.norms[0][warp_][8 * s + lane_.r] = odd ? qq[1] : qq[0];
        storage_.norms[1][warp_][8 * s + lane_.r] = odd ? kx[3] : kx[2];
        storage_.norms[2][warp_][8 * s + lane_.r] = odd ? kx[1] : kx[0];
      }
    }
    barrier();
    const int token = lane_.index;
    auto sum = [&](int which) {
      float x = 0;
#pragma unroll
      for (int w = 0; w < P::warps; ++w) x += storage_.norms[which][w][token];
      return x;
    };
    constexpr float epsilon = static_cast<float>(l2_norm_epsilon);
    auto factor = [&](float norm2) { return args_.normalize ? rsqrtf(norm2 + epsilon) : 1.f; };
    Strengths& out = strengths();
    if (warp_ == 0) {
      const float q_factor = factor(sum(0)), k_factor = factor(sum(1));
      storage_.tokens.q_factor[token] = q_factor;
      storage_.tokens.k_factor[token] = k_factor;
      storage_.tokens.qk[token] = sum(2) * q_factor * k_factor;
    }
    if (warp_ == 1) {
      const float norm2 = sum(1), k_factor = factor(norm2), used = norm2 * k_factor * k_factor;
      const float raw = ptx::from_bits<G>(beta_bits);
      const float beta = args_.beta_logit ? ptx::reciprocal(1.f + ptx::exp2(-ptx::log2_e * raw)) : raw;
      const float write = token < tokens ? C::Update::template write<float>(beta, used) : 0.f;
      out.erase[token] = token < tokens ? C::Update::template erase<float>(beta, used) : 0.f;
      out.column[token] = C::strength == Strength::two ? 1.f : write;
      if constexpr (C::strength == Strength::two) out.write[token] = write;
    }
    if constexpr (decay == Decay::per_head)
      if (warp_ == 2 % P::warps) scalar_decays();
    if (is_planner()) {
      out.place = out.position = item_.position;
      out.zeros = false;
      if constexpr (P::beside) out.place = choose_place(free), out.zeros = item_.place.before >= 0 && !storage_.impatient;
      if constexpr (P::helped) tell_helper();
      else next = take_number(groups);
      if constexpr (decay == Decay::per_channel) storage_.tokens.rate = raw_gate ? __expf(log_rate) : 0.f;
    }
    barrier();
    return next;
  }
  __device__ __forceinline__ void scalar_decays() {
    const int token = lane_.index;
    const DecayFactor<typename C::Gate> factor(raw_gate ? __expf(args_.A_log[item_.head]) : 0.f, raw_gate ? args_.dt_bias[item_.head] : 0.f);
    const float alpha = token < item_.tokens ? factor(ptx::to_float(args_.gate[row(args_.value_heads, item_.head, token)])) : 1.f;
    float prefix = alpha, suffix = __shfl_down_sync(0xFFFFFFFFu, alpha, 1);
    if (token == 31) suffix = 1.f;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
      const float before = __shfl_up_sync(0xFFFFFFFFu, prefix, d), after = __shfl_down_sync(0xFFFFFFFFu, suffix, d);
      if (token >= d) prefix *= before;
      if (token + d < 32) suffix *= after;
    }
    storage_.scalar.prefix[token] = prefix;
    storage_.scalar.suffix[token] = suffix;
    float between = 1.f;
#pragma unroll
    for (int i = 0; i < chunk_tokens; ++i) {
      const float a = __shfl_sync(0xFFFFFFFFu, alpha, i);
      between = i > token ? between * a : 1.f;
      storage_.scalar.between[i][token] = between;
    }
  }

  /// Four channels of a token of slot s times its factor.
  __device__ __forceinline__ void read_scaled(float (&x)[4], const Rows<T>& rows, int s, int step, float factor) const {
    rows.read(x, lane_, s, step);
#pragma unroll
    for (int i = 0; i < 4; ++i) x[i] *= factor;
  }
  /// Decays::scale log2 alpha of 16 channels; of tokens past the end: zero.
  __device__ __forceinline__ void read_log_decays(float (&logs)[4][4], int tokens, float rate, const float (&bias)[4], int step) const {
    using Gate = typename C::Gate;
    using Decays = ChunkDecays<Operand>;
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      inputs_.gate.read(logs[s], lane_, s, step);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        logs[s][i] = LogDecayFactor<Gate, Decays::scale>(rate, bias[i])(logs[s][i]);
        if constexpr (!reaches_no_deeper<Gate>()) logs[s][i] = ptx::max_nan(logs[s][i], Decays::scale * Decays::deepest);
      }
    }
    if (tokens < chunk_tokens) {
      __syncwarp();  // a branch, not 16 selections
#pragma unroll
      for (int s = 0; s < 4; ++s)
#pragma unroll
        for (int i = 0; i < 4; ++i) logs[s][i] = 8 * s + lane_.r < tokens ? logs[s][i] : 0.f;
    }
  }
  template <class Gate> BRAID_FN static constexpr bool reaches_no_deeper() {
    if constexpr (gate_is_bounded<Gate>) return Gate::floor * ptx::log2_e >= ChunkDecays<Operand>::deepest;
    else return false;
  }

  /// This warp's part of M and Z; writes its channels of kd, qd, kg and a.
  __device__ __forceinline__ Tiles multiply() {
    const Strengths& strengths = this->strengths();
    const Keys& keys = inputs_.keys;
    if constexpr (decay == Decay::per_channel) {
      const float head_rate = storage_.tokens.rate;
      ChunkMatrices<Operand> matrices;
#pragma unroll 1
      for (int step = 0; step < steps; ++step) {
        float bias[4] = {};
        if constexpr (raw_gate) {
          const float4 b = *reinterpret_cast<const float4*>(inputs_.bias + 16 * step + 4 * lane_.c);
          bias[0] = b.x, bias[1] = b.y, bias[2] = b.z, bias[3] = b.w;
        }
        float logs[4][4];
        read_log_decays(logs, item_.tokens, head_rate, bias, step);
        const ChunkDecays<Operand> decays(lane_, logs, inputs_.decays());
        const Rows16 rows = matrices.add(decays, [&](int s, float (&k)[4], float (&q)[4]) {
          read_scaled(q, keys.q, s, step, storage_.tokens.q_factor[8 * s + lane_.r]);
          read_scaled(k, keys.k, s, step, storage_.tokens.k_factor[8 * s + lane_.r]);
        });
        write_rows(strengths, step, rows);
        if (decays.has_total(lane_)) store_decay(record(strengths.place) + C::record.a(), channel_ + 16 * step + 4 * lane_.c, decays.total);
        __syncwarp();
      }
      return matrices.tiles(lane_);
    } else {  // M and Z are plain products times a scalar for each pair of tokens, which `reduce` applies
      Tiles tiles = {};
      float prefix[4], suffix[4], total[4];
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        if constexpr (decay == Decay::per_head) {
          prefix[s] = storage_.scalar.prefix[8 * s + lane_.r], suffix[s] = storage_.scalar.suffix[8 * s + lane_.r];
          total[s] = storage_.scalar.prefix[31];
        } else {
          prefix[s] = suffix[s] = total[s] = 1.f;
        }
      }
#pragma unroll 1
      for (int step = 0; step < steps; ++step) {
        Quad q[4], k[4];
        Rows16 rows;
#pragma unroll
        for (int s = 0; s < 4; ++s) {
          float x[4];
          read_scaled(x, keys.q, s, step, storage_.tokens.q_factor[8 * s + lane_.r]);
          q[s] = pack_quad<Operand>(x);
          read_scaled(x, keys.k, s, step, storage_.tokens.k_factor[8 * s + lane_.r]);
          k[s] = pack_quad<Operand>(x);
          rows.minus_kd[s] = multiply_quad<Operand>(negate_quad<Operand>(k[s]), equal_quad(prefix[s]));
          rows.qd[s] = multiply_quad<Operand>(q[s], equal_quad(prefix[s]));
          rows.kg[s] = multiply_quad<Operand>(k[s], equal_quad(suffix[s]));
        }
#pragma unroll
        for (int s = 0; s < 4; ++s)
#pragma unroll
          for (int t = 0; t <= s; ++t) multiply_tile<Operand>(tiles.tile[Tiles::at(s, t)], k[s], q[s], k[t]);
        write_rows(strengths, step, rows);
        if (lane_.r == 0) store_decay(record(strengths.place) + C::record.a(), channel_ + 16 * step + 4 * lane_.c, total);
      }
      return tiles;
    }
  }
  /// kd, qd and kg of 16 channels.
  __device__ __forceinline__ void write_rows(const Strengths& token, int step, const Rows16& rows) const {
    const int channel = channel_ + 16 * step + 4 * lane_.c;
    std::byte* const start = record(token.place);
    std::byte* const rows_q = start + Record::row_element(lane_.r, channel, C::record.qd_panel());
    std::byte* const rows_g = start + Record::row_element(lane_.r, channel);
#pragma unroll
    for (int s = 0; s < 4; ++s) {
      const int row = 8 * s + lane_.r;
      std::byte *const at = rows_q + s * Record::row_element(8, 0), *const at_g = rows_g + s * Record::row_element(8, 0);
      store(at + C::record.qd(), rows.qd[s]);
      if constexpr (C::strength == Strength::none && !C::unit_write)
        store(at_g + C::record.kg(), multiply_quad<Operand>(rows.kg[s], equal_quad(token.column[row])));
      else store(at_g + C::record.kg(), rows.kg[s]);
      if constexpr (C::strength == Strength::one) store(at + C::record.kd(), rows.minus_kd[s]);
      else if constexpr (C::strength == Strength::two) store(at + C::record.kd(), multiply_quad<Operand>(rows.minus_kd[s], equal_quad(token.erase[row])));
    }
  }
  __device__ __forceinline__ static Quad equal_quad(float x) {
    const Word word = ptx::pack<Operand>(x, x);
    return {{word, word}};
  }
  __device__ __forceinline__ static void store(std::byte* at, const Quad& x) {
    *reinterpret_cast<uint2*>(at) = make_uint2(x.word[0], x.word[1]);
  }

  /// T', by one warp.
  __device__ __forceinline__ void invert() {
    Tiles m;
#pragma unroll
    for (int i = 0; i < 10; ++i) {
      const float2 x = tiles()[i][lane_.index];
      m.tile[i][0] = x.x, m.tile[i][1] = x.y;
    }
    const Strengths& token = strengths();
    write_inverse<Operand>(lane_, m, token.erase, token.column, storage_.inverse, record(token.place) + C::record.t(), token.zeros);
  }

  /// Sums the warps' parts, a few tiles each; keeps M, writes Z.
  __device__ __forceinline__ void reduce() {
    if constexpr (C::strength == Strength::two)
      if (warp_ == P::warps - 1) reinterpret_cast<float*>(record(strengths().place) + C::record.w())[lane_.index] = strengths().write[lane_.index];
    std::byte* const z = record(strengths().place) + (C::record.z() + 4 * lane_.index);
    const auto write = [z](int s, int t, Word pair) { *reinterpret_cast<Word*>(z + static_cast<unsigned>(4 * s + t) * 128u) = pair; };
#pragma unroll
    for (int first = 0; first < 10; first += P::warps) {
      const int tile = first + warp_;
      if (tile >= 10) break;
      const int s = tile < 1 ? 0 : tile < 3 ? 1 : tile < 6 ? 2 : 3, t = tile - s * (s + 1) / 2;
      float4 x = storage_.inputs[0].part(tile)[lane_.index];
#pragma unroll
      for (int w = 1; w < P::warps; ++w) {
        const float4 y = storage_.inputs[w].part(tile)[lane_.index];
        x.x += y.x, x.y += y.y, x.z += y.z, x.w += y.w;
      }
      if constexpr (decay != Decay::per_channel) {
        float2 between = {1.f, 1.f};
        if constexpr (decay == Decay::per_head)
          between = *reinterpret_cast<const float2*>(&storage_.scalar.between[8 * s + lane_.r][8 * t + 2 * lane_.c]);
        const bool keep0 = s > t || lane_.r > 2 * lane_.c, keep1 = s > t || lane_.r > 2 * lane_.c + 1;
        x = {keep0 ? x.x * between.x : 0.f, keep1 ? x.y * between.y : 0.f, keep0 ? x.z * between.x : 0.f, keep1 ? x.w * between.y : 0.f};
      }
      if constexpr (C::record.erases()) tiles()[tile][lane_.index] = make_float2(x.x, x.y);
      if (s == t) {
        const float qk = storage_.tokens.qk[8 * s + lane_.r];
        if (lane_.r == 2 * lane_.c) x.z = qk;
        if (lane_.r == 2 * lane_.c + 1) x.w = qk;
      }
      if constexpr (C::strength == Strength::none && !C::unit_write) {
        const float2 column = *reinterpret_cast<const float2*>(&strengths().column[8 * t + 2 * lane_.c]);
        x.z *= column.x, x.w *= column.y;
      }
      write(s, t, ptx::pack<Operand>(x.z, x.w));
    }
    for (int s = warp_; s < 3 && !strengths().zeros; s += P::warps)  // above the diagonal: cores (0, 1..3), (1, 2..3), (2, 3)
      for (int t = s + 1; t < 4; ++t) write(s, t, 0);
  }

  const PrepareArguments<T, G>& args_;
  Storage& storage_;
  Lane lane_;
  int group_, warp_;         ///< of the block, of the group; a helper counts as the group's first
  int channel_;              ///< the warp's first
  int turn_ = 0;
  int share_;           ///< value heads that share a key head
  ptx::CachePolicy policy_;  ///< of inputs: beside the recurrence, records are what should stay in L2
  Inputs& inputs_;
  Item item_;             ///< the current one
};

/// A persistent grid.
template <class C, class P>
__global__ void __maxnreg__(P::registers) prepare_kernel(const __grid_constant__ PrepareArguments<typename C::T, typename C::G> args) {
  using Body = Preparation<C, P>;
  extern __shared__ __align__(16) unsigned char prepare_shared[];
  auto* const storage = reinterpret_cast<typename Body::Storage*>(prepare_shared);
  constexpr int workers = P::groups * P::warps;
  const int warp = static_cast<int>(threadIdx.x) / 32, block = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x), groups = blocks * P::groups;
  if constexpr (P::helped) {
    if (threadIdx.x < P::groups) Body::init_with_helper(storage[threadIdx.x]);
    __syncthreads();
    if (warp >= workers) return Body(args, storage, warp - workers, 0).help((warp - workers) * blocks + block, groups);
  }
  Body(args, storage, warp / P::warps, warp % P::warps).run(warp / P::warps * blocks + block, groups);
}

}  // namespace braid::cuda
