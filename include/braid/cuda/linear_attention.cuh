// Linear attention over whole sequences (prefill): Eq. (1) for any gate and update in chunks of 32 tokens; two kernels, on Hopper side by
// side where few blocks walk the sequences, and two more where long sequences are cut into segments. No allocation, no synchronisation.
// One include, one call on raw device pointers; see linear_attention below.
#pragma once

#include <braid/core/linear_attention.hpp>
#include <braid/cuda/context.cuh>
#include <braid/cuda/plan.hpp>
#include <braid/cuda/prepare.cuh>
#include <braid/cuda/recurrence.cuh>
#include <braid/cuda/recurrence_sm90.cuh>
#include <braid/cuda/segments.cuh>

namespace braid::cuda {

/// Inputs of `linear_attention`: device pointers unless said otherwise, row-major, null = absent. `T` is bf16 or fp16, `G` the type of
/// gate and beta (T or float). N packed sequences, T tokens, H key heads, HV value heads (value head h reads key head h / (HV / H)).
template <class T, class G = T> struct PrefillInputs {
  Index tokens = 0, heads = 0, value_heads = 0, key_dim = 0, value_dim = 0;
  const Index* offsets = nullptr;  ///< [N + 1], device memory, from 0 ascending to T; null: one sequence. With N = 1, {0, T} is taken for granted
  Index sequences = 1;
  std::span<const Index> host_offsets = {};  ///< the same in host memory, optional: checked before the launch

  const T* q = nullptr;  ///< [T, H, K]
  const T* k = nullptr;  ///< [T, H, K]
  const T* v = nullptr;  ///< [T, HV, V]
  /// Per channel [T, HV, K], per head [T, HV]; null without decay. The gate's raw input or (LogDecay) log alpha itself. Per channel, alpha
  /// below 2^-27 is taken for 2^-27, which changes the state by an eighth of its rounding in fp32 (chunk_matrices.cuh).
  const G* gate = nullptr;
  const G* beta = nullptr;  ///< [T, HV]; null for updates that use none

  const float* A_log = nullptr;    ///< [HV], log of the gate's rate; null for LogDecay
  const float* dt_bias = nullptr;  ///< per channel [HV, K], per head [HV]; null for LogDecay

  bool normalize = false;   ///< q and k are L2-normalised first: x / sqrt(sum x^2 + 1e-6)
  bool beta_logit = false;  ///< beta = sigmoid(.)
  float scale = 0;          ///< multiplies the output, o = scale * S^T q; usually 1 / sqrt(K)

  const float* initial_state = nullptr;  ///< [N, HV, K, V], key-first; null: zero
};

template <class T> struct PrefillOutputs {
  T* o = nullptr;                ///< [T, HV, V]
  float* final_state = nullptr;  ///< [N, HV, K, V]; null: not wanted. May be the initial state's memory
  /// State after every `checkpoint_interval` tokens of a sequence (a multiple of 32), for prefix caching. Checkpoint j of sequence n is
  /// entry offsets[n] / checkpoint_interval + j of [T / checkpoint_interval, HV, K, V]. Null: not wanted.
  float* checkpoints = nullptr;
  Index checkpoint_interval = 0;
};

/// Scratch of a call, from the caller: device memory aligned to 256 bytes, its content meaningless before and after.
struct Workspace {
  void* data = nullptr;
  std::size_t bytes = 0;
};

/// Which recurrence kernel runs.
enum class Path : unsigned char {
  automatic,  ///< by compute capability
  portable,   ///< sm_80 and up
  hopper      ///< sm_90a
};

/// How a call is carried out.
struct PrefillOptions {
  Path path = Path::automatic;
  Split split = Split::automatic;  ///< whether one long sequence may be spread over the card (plan.hpp)
};

/// Bytes of workspace that `linear_attention<Gate, Update>` needs.
template <class Update>
constexpr std::size_t workspace_bytes(Index tokens, Index sequences, Index value_heads, Index key_dim, Index value_dim, Split split = Split::automatic) {
  return PrefillPlan::make(Record{static_cast<int>(key_dim), strength_of<Update>()}, tokens, sequences, value_heads, value_dim, split).bytes;
}

namespace detail {

template <class Gate, class Update, class T, class G>
void check_prefill(const PrefillInputs<T, G>& in, const PrefillOutputs<T>& out, const Workspace& workspace, const PrefillPlan& plan) {
  constexpr std::string_view where = "cuda::linear_attention";
  static_assert(braid::detail::check_gate<Gate>() && braid::detail::check_update<Update>());
  static_assert(std::is_same_v<T, __nv_bfloat16> || std::is_same_v<T, __half>, "braid: q, k and v are __nv_bfloat16 or __half");
  static_assert(std::is_same_v<G, T> || std::is_same_v<G, float>, "braid: gate and beta have the type of q, k and v, or float");
  require(in.tokens >= 0 && in.tokens < (Index{1} << 31), where, "0 to 2^31 - 1 tokens", in.tokens);
  require(in.sequences >= 1 && in.sequences < (Index{1} << 24), where, "1 to 2^24 sequences", in.sequences);
  require(in.offsets != nullptr || in.sequences == 1, where, "offsets for more than one sequence", "a null pointer");
  require(in.heads > 0 && in.value_heads > 0 && in.value_heads % in.heads == 0, where, "value_heads a positive multiple of heads",
          braid::detail::text(in.value_heads, " and ", in.heads));
  require(in.value_heads <= 4096, where, "at most 4096 value heads", in.value_heads);
  require(plan.slot_count * in.value_heads < (Index{1} << 31), where, "fewer than 2^31 chunks of 32 tokens over all value heads",
          plan.slot_count * in.value_heads);
  require(in.key_dim == 64 || in.key_dim == 128, where, "key_dim 64 or 128", in.key_dim);
  require(in.value_dim > 0 && in.value_dim % value_tile == 0 && in.value_dim <= 1024, where, "value_dim a multiple of 64, at most 1024",
          in.value_dim);
  if (!in.host_offsets.empty()) {
    require(static_cast<Index>(in.host_offsets.size()) == in.sequences + 1, where, braid::detail::text(in.sequences + 1, " host offsets"),
            in.host_offsets.size());
    check_offsets(in.host_offsets, in.tokens, where);
  }
  auto present = [&](const void* pointer, bool needed, const char* name, std::size_t alignment) {
    require(!needed || pointer != nullptr, where, braid::detail::text("the array `", name, "`"), "a null pointer");
    require(reinterpret_cast<std::uintptr_t>(pointer) % alignment == 0, where,
            braid::detail::text("`", name, "` aligned to ", alignment, " bytes"), pointer);
  };
  const bool some = in.tokens > 0;
  constexpr bool raw = !gate_is_given<Gate>;
  present(in.q, some, "q", 16);
  present(in.k, some, "k", 16);
  present(in.v, some, "v", 16);
  present(in.gate, some && Gate::decay != Decay::none, "gate", Gate::decay == Decay::per_channel ? 16 : sizeof(G));
  present(in.beta, some && Update::uses_beta, "beta", sizeof(G));
  present(in.A_log, raw, "A_log", 4);
  present(in.dt_bias, raw, "dt_bias", Gate::decay == Decay::per_channel ? 16 : 4);
  present(in.offsets, false, "offsets", 8);
  present(in.initial_state, false, "initial_state", 4);
  present(out.o, some, "o", 16);
  present(out.final_state, false, "final_state", 4);
  present(out.checkpoints, false, "checkpoints", 4);
  if (out.checkpoints != nullptr)
    require(out.checkpoint_interval > 0 && out.checkpoint_interval % chunk_tokens == 0, where, "a checkpoint interval that is a multiple of 32",
            out.checkpoint_interval);
  present(workspace.data, plan.bytes > 0, "workspace", 256);
  require(workspace.bytes >= plan.bytes, where, braid::detail::text("a workspace of ", plan.bytes, " bytes"),
          braid::detail::text(workspace.bytes, " bytes"));
}

/// True if the program holds sm_90a code for this kernel and this device. Built for other targets its body is empty and needs hardly any register.
template <auto Kernel> bool has_hopper_code(const Device& device) { return code_of<Kernel>(device).registers >= 64; }

template <class T, class G>
RecurrenceArguments<T> recurrence_arguments(const PrefillInputs<T, G>& in, const PrefillOutputs<T>& out, const void* records) {
  RecurrenceArguments<T> args;
  args.records = static_cast<const std::byte*>(records);
  args.v = in.v, args.o = out.o;
  args.initial_state = in.initial_state, args.final_state = out.final_state;
  args.checkpoints = out.checkpoints, args.checkpoint_chunks = static_cast<int>(out.checkpoint_interval / chunk_tokens);
  args.tokens = in.tokens, args.sequences = static_cast<int>(in.sequences);
  args.value_heads = static_cast<int>(in.value_heads), args.value_dim = static_cast<int>(in.value_dim);
  args.scale = in.scale;
  args.order = TimeOrder::make(in.offsets, in.tokens, in.sequences, in.value_heads, in.value_heads);
  args.offsets = args.order.offsets;
  return args;
}

/// On `multiprocessors` of the device. Unless the last round of a persistent grid would be nearly full, a block for each item is faster.
template <class C, class Policy>
void launch_prepare(const Device& device, const PrepareArguments<typename C::T, typename C::G>& args, Index multiprocessors, cudaStream_t stream) {
  constexpr int shared = Policy::groups * sizeof(typename Preparation<C, Policy>::Storage), reserved = 1024;  // the system takes 1 KB a block
  allow_shared<&prepare_kernel<C, Policy>>(shared);
  const Index each = std::max(1, std::min(Policy::resident, (device.shared_bytes + reserved) / (shared + reserved)));
  const Index work = (args.order.items() + Policy::groups - 1) / Policy::groups, resident = each * multiprocessors;
  const Index unused = (work + resident - 1) / resident * resident - work;
  const bool persistent = Policy::beside || 32 * unused <= work;
  launch(&prepare_kernel<C, Policy>, static_cast<unsigned>(persistent ? std::min(work, resident) : work), Policy::threads, shared, false, stream, args);
}

template <class T, class Operand, int KeyDim, Strength Kind, class Policy>
void launch_hopper_recurrence(const RecurrenceArguments<T>& args, Index units, cudaStream_t stream) {
  constexpr int shared = sizeof(typename HopperRecurrence<T, Operand, KeyDim, Kind, Policy>::Storage);
  static_assert((shared + 1024) * Policy::blocks <= 228 * 1024);
  constexpr auto kernel = &recurrence_sm90_kernel<T, Operand, KeyDim, Kind, Policy>;
  allow_shared<kernel>(shared);
  const Index blocks = (args.ready != nullptr ? args.order.columns : units * args.value_heads) * blocks_of_head(args, KeyDim, Policy::tiles);
  launch(kernel, static_cast<unsigned>(blocks), Policy::threads, shared, args.tokens > 0, stream, args);
}

/// Summaries of the segments, the states at their ends, and the walk from there. `overlap`: of kernels that wait for the one before themselves.
template <int KeyDim, class T, class Recur>
void run_segments(RecurrenceArguments<T> args, const PrefillPlan& plan, std::byte* workspace, int multiprocessors, bool overlap, cudaStream_t stream,
                  const Recur& recur) {
  args.segment_tokens = plan.segment_tokens;
  args.segment_maps = reinterpret_cast<float*>(workspace + plan.maps);
  args.segment_states = reinterpret_cast<float*>(workspace + plan.states);
  args.pass = Pass::summary;
  recur(args, plan.segments);
  auto* initial = reinterpret_cast<float*>(workspace + plan.initial);
  launch_combine_segments<KeyDim>(args, initial, multiprocessors, overlap, stream);
  if (args.initial_state != nullptr) args.initial_state = initial;
  args.pass = Pass::outputs;
  recur(args, plan.segments);
}

template <class Gate, class Update, class Operand, int KeyDim, class T, class G>
void run_prefill(const Device& device, cudaStream_t stream, const PrefillInputs<T, G>& in, const PrefillOutputs<T>& out,
                 const PrefillPlan& plan, const Workspace& workspace, const PrefillOptions& options) {
  using C = Cell<T, G, Gate, Update, KeyDim, Operand>;
  constexpr Strength kind = C::strength;
  const bool code = has_hopper_code<&recurrence_sm90_kernel<T, Operand, KeyDim, kind, HopperPolicy<1, 5, 1>>>(device);
  const bool hopper = options.path != Path::portable && device.capability == 90 && code;
  require(options.path != Path::hopper || hopper, "cuda::linear_attention",
          "compute capability 9.0 and a program built for it (-gencode=arch=compute_90a,code=sm_90a)",
          braid::detail::text("capability ", device.capability / 10.0, code ? "" : ", no such code"));
  auto* base = static_cast<std::byte*>(workspace.data);
  const bool segments = plan.segments > 0;
  const SideBySide beside = hopper && !segments && in.tokens > 0
                                ? SideBySide::make(device, in.tokens, in.sequences, in.value_heads, in.value_dim, options.split) : SideBySide{};
  const bool together = beside.columns > 0;
  const Index readers = in.value_dim / (beside.tiles * value_tile);
  auto* ready = together ? reinterpret_cast<std::uint32_t*>(base + plan.ready) : nullptr;
  auto args = recurrence_arguments(in, out, base);
  if (together) {
    args.order = TimeOrder::make(in.offsets, in.tokens, in.sequences, in.value_heads, beside.columns);
    args.ready = ready, args.reuse_places = beside.reuse_places;
    args.states = reinterpret_cast<float*>(base + plan.handed);
    args.state_flags = ready + args.order.positions() * readers;
  }
  const auto to_int = [](Index x) { return static_cast<int>(x); };
  PrepareArguments<T, G> prepare{in.q, in.k, in.gate, in.beta, in.A_log, in.dt_bias, to_int(in.heads), to_int(in.value_heads), in.normalize, in.beta_logit, base};
  prepare.order = args.order, prepare.ready = ready, prepare.readers = to_int(readers);
  prepare.state_flags = to_int(beside.columns * (in.value_dim / 16));
  if (beside.counted) {
    const Index flags = args.order.positions() * readers + prepare.state_flags;
    prepare.taken = ready + flags;
    check(cudaMemsetAsync(ready, 0, static_cast<std::size_t>(flags + 1) * sizeof *ready, stream), "cuda::linear_attention");
  }
  if (beside.reuse_places) prepare.places = to_int(beside.places(prepare.taken != nullptr ? beside.columns : PrepareSoon::groups * beside.preparing));
  if (together && beside.soon) launch_prepare<C, PrepareSoon>(device, prepare, beside.preparing, stream);
  else if (together) launch_prepare<C, PrepareMuch>(device, prepare, beside.preparing, stream);
  else if (in.tokens > 0) launch_prepare<C, PrepareBefore>(device, prepare, device.multiprocessors, stream);
  const auto recur = [&](const RecurrenceArguments<T>& pass, Index units) {
    const Index walked = pass.pass == Pass::summary ? units - in.sequences : units;  // no last segment needs a summary
    const Index tiles = walked * pass.value_heads * blocks_of_head(pass, KeyDim, 1);
    const bool in_pairs = in.value_dim % (2 * value_tile) == 0 && (together || in.tokens > short_walk * in.sequences);
    if (!hopper) launch_portable_recurrence<T, Operand, KeyDim, kind>(pass, units, stream);
    else if (together ? beside.tiles == 1 : tiles <= device.multiprocessors)
      launch_hopper_recurrence<T, Operand, KeyDim, kind, HopperPolicy<1, 5, 1>>(pass, units, stream);
    else if (in_pairs) launch_hopper_recurrence<T, Operand, KeyDim, kind, HopperPolicy<2, 5, 1>>(pass, units, stream);
    else launch_hopper_recurrence<T, Operand, KeyDim, kind, HopperPolicy<1, 3, 2>>(pass, units, stream);
  };
  if (segments) run_segments<KeyDim>(args, plan, base, device.multiprocessors, hopper, stream, recur);
  else recur(args, in.sequences);
}

}  // namespace detail

/// o_t = scale S_t^T q_t with S_t by `Gate` and `Update` from each sequence's initial state, on `stream`. Run-to-run the same bits; what a
/// sequence's bits depend on beside itself, `options.split` says. May be captured in a graph. `Operand` is the type of the matrix operands: __half (error near the
/// rounding of bf16 outputs; values of |v| up to 3e4) or __nv_bfloat16 (any range). Throws Error before any launch for arguments it cannot take.
template <class Gate, class Update, class Operand = __half, class T, class G>
void linear_attention(cudaStream_t stream, const PrefillInputs<T, G>& in, const PrefillOutputs<T>& out, const Workspace& workspace,
                      const PrefillOptions& options = {}) {
  static_assert(!update_is_dplr<Update>, "braid: for Dplr include braid/cuda/dplr.cuh");
  const Device& device = current_device();
  const Record record{static_cast<int>(in.key_dim), strength_of<Update>()};
  const PrefillPlan plan = PrefillPlan::make(record, in.tokens, in.sequences, in.value_heads, in.value_dim, options.split);
  detail::check_prefill<Gate, Update>(in, out, workspace, plan);
  if (in.key_dim == 128) detail::run_prefill<Gate, Update, Operand, 128>(device, stream, in, out, plan, workspace, options);
  else detail::run_prefill<Gate, Update, Operand, 64>(device, stream, in, out, plan, workspace, options);
}

}  // namespace braid::cuda
