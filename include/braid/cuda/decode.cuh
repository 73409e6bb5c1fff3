// Decoding: one token (or up to eight) for each of N sequences against a fp32 state in place. Any gate, any update, head sizes 64 and 128.
#pragma once

#include <braid/cuda/context.cuh>
#include <braid/cuda/decode_kernel.cuh>

namespace braid::cuda {

/// Inputs of `decode`. Device pointers unless said otherwise; `T` is bf16, fp16 or float, `G` the type of gate and beta (T or float).
/// N sequences with `tokens` tokens each, H key heads, HV value heads (a multiple of H), K key_dim, V value_dim.
template <class T, class G = T> struct DecodeInputs {
  Index sequences = 0, tokens = 1, heads = 0, value_heads = 0, key_dim = 0, value_dim = 0;

  const T* q = nullptr;  ///< [N, tokens, H, K]
  const T* k = nullptr;  ///< [N, tokens, H, K]
  const T* v = nullptr;  ///< [N, tokens, HV, V]
  /// Per channel [N, tokens, HV, K], per head [N, tokens, HV]; null without decay. The gate's raw input or (LogDecay) log alpha.
  const G* gate = nullptr;
  const G* beta = nullptr;  ///< [N, tokens, HV]; null for updates that use none
  const T* a = nullptr;     ///< [N, tokens, HV, K], Dplr only
  const T* b = nullptr;     ///< [N, tokens, HV, K], Dplr only

  const float* A_log = nullptr;    ///< [HV]; null for LogDecay
  const float* dt_bias = nullptr;  ///< per channel [HV, K], per head [HV]; null for LogDecay

  bool normalize = false;   ///< q and k are L2-normalised first
  bool beta_logit = false;  ///< beta = sigmoid(.)
  float scale = 0;          ///< multiplies the output; usually 1 / sqrt(K)

  /// [N]: the state each sequence continues, no two alike. A sequence whose slot is outside [0, slot_count) is skipped: nothing
  /// of it is read or written. Null: sequence n continues slot n.
  const int* slots = nullptr;
  Index slot_count = 0;

  /// Speculative tokens. With a journal in the outputs the call leaves its own tokens out of the state and records them; the
  /// next call is given that record as `replay`, with the number of tokens to keep, [N] in 0..tokens, and brings the state up to
  /// them before its own. The bits are those of having decoded just the kept tokens.
  const float* replay = nullptr;   ///< [N, HV, tokens, journal_floats]; another array than `journal`
  const int* accepted = nullptr;   ///< [N]
};

template <class T> struct DecodeOutputs {
  T* o = nullptr;            ///< [N, tokens, HV, V]
  float* states = nullptr;   ///< [slot_count, HV, K, V], key-first, in place
  float* journal = nullptr;  ///< [N, HV, tokens, journal_floats<Update>(K, V)]; null: the tokens enter the state
};

/// Tokens that one call may take per sequence.
inline constexpr Index max_decode_tokens = 8;

namespace detail {

inline void require_aligned(const void* pointer, std::size_t bytes, std::string_view where, const char* name) {
  require(reinterpret_cast<std::uintptr_t>(pointer) % bytes == 0, where, braid::detail::text("`", name, "` aligned to ", bytes, " bytes"),
          pointer);
}

template <class Gate, class Update, class T, class G> void check_decode(const DecodeInputs<T, G>& in, const DecodeOutputs<T>& out) {
  constexpr std::string_view where = "cuda::decode";
  static_assert(braid::detail::check_gate<Gate>() && braid::detail::check_update<Update>());
  require(in.sequences >= 0 && in.sequences <= 65535, where, "0 to 65535 sequences", in.sequences);
  require(in.tokens >= 1 && in.tokens <= max_decode_tokens, where, "1 to 8 tokens per sequence", in.tokens);
  require(in.heads > 0 && in.value_heads > 0 && in.value_heads % in.heads == 0, where, "value_heads a positive multiple of heads",
          braid::detail::text(in.value_heads, " and ", in.heads));
  require((in.key_dim == 64 || in.key_dim == 128) && (in.value_dim == 64 || in.value_dim == 128), where,
          "key_dim and value_dim of 64 or 128", braid::detail::text(in.key_dim, " and ", in.value_dim));
  require(in.slot_count >= (in.slots ? 1 : in.sequences), where, "as many slots as the sequences need", in.slot_count);
  auto present = [&](const void* pointer, bool needed, const char* name, std::size_t alignment) {
    require(!needed || pointer != nullptr, where, braid::detail::text("the array `", name, "`"), "a null pointer");
    require_aligned(pointer, alignment, where, name);
  };
  constexpr bool dplr = update_is_dplr<Update>, raw = !gate_is_given<Gate>;
  present(in.q, true, "q", 4 * sizeof(T));
  present(in.k, true, "k", 4 * sizeof(T));
  present(in.v, true, "v", 4 * sizeof(T));
  present(in.gate, Gate::decay != Decay::none, "gate", sizeof(G));
  present(in.beta, Update::uses_beta, "beta", sizeof(G));
  present(in.a, dplr, "a", 4 * sizeof(T));
  present(in.b, dplr, "b", sizeof(T));
  present(in.A_log, raw, "A_log", 4);
  present(in.dt_bias, raw, "dt_bias", 4);
  present(in.slots, false, "slots", 4);
  present(in.replay, false, "replay", 16);
  present(in.accepted, in.replay != nullptr, "accepted", 4);
  present(out.o, true, "o", 4 * sizeof(T));
  present(out.states, true, "states", 16);
  present(out.journal, false, "journal", 16);
  require(out.journal == nullptr || out.journal != in.replay, where, "a journal other than the one replayed", "the same pointer");
}

/// Few states: small blocks, so that all multiprocessors take part. Many: fewer, wider ones. Measured on an H200 (docs/kernels/decode.md).
constexpr DecodePolicy few_states(int key_dim) { return {16, key_dim / 32}; }
inline constexpr DecodePolicy many_states{64, 8};
inline constexpr Index few_states_limit = 128;  ///< (sequence, head) pairs

template <class Gate, class Update, int K, int V, int Columns, int Warps, bool Many, class T, class G>
void launch_decode_kernel(const Device& device, cudaStream_t stream, const DecodeParams<T, G>& params) {
  constexpr auto kernel = &decode_kernel<Gate, Update, T, G, K, V, Columns, Warps, Many>;
  const bool overlap = DecodePolicy{Columns, Warps}.overlaps() && code_of<kernel>(device).architecture >= 90;
  const dim3 grid(static_cast<unsigned>(params.value_heads * (V / Columns)), static_cast<unsigned>(params.sequences));
  launch(kernel, grid, 32 * Warps, 0, overlap, stream, params);
}

template <class Gate, class Update, int K, int V, class T, class G>
void launch_decode(const Device& device, cudaStream_t stream, const DecodeInputs<T, G>& in, const DecodeOutputs<T>& out) {
  auto to_int = [](Index x) { return static_cast<int>(x); };
  const DecodeParams<T, G> params{in.q, in.k, in.v, in.gate, in.beta, in.a, in.b, in.A_log, in.dt_bias, out.o, out.states, in.slots,
                                  in.replay, in.accepted, out.journal, to_int(in.sequences), to_int(in.tokens), to_int(in.heads),
                                  to_int(in.value_heads), to_int(in.slot_count), in.scale, in.normalize, in.beta_logit};
  constexpr DecodePolicy few = few_states(K), many = many_states;
  if (in.tokens > 1 || in.replay || out.journal) launch_decode_kernel<Gate, Update, K, V, many.columns, many.warps, true>(device, stream, params);
  else if (in.sequences * in.value_heads <= few_states_limit) launch_decode_kernel<Gate, Update, K, V, few.columns, few.warps, false>(device, stream, params);
  else launch_decode_kernel<Gate, Update, K, V, many.columns, many.warps, false>(device, stream, params);
}

}  // namespace detail

/// Advances each sequence's state by its tokens and reads it, one launch, no workspace. Deterministic; a sequence's bits do not depend
/// on the others. Throws Error, before any launch, for arguments it cannot take. Ordered in its stream like any launch; on sm_90 a kernel behind it that is
/// launched as a programmatic dependent may start early, and waits for it itself (griddepcontrol.wait).
template <class Gate, class Update, class T, class G>
void decode(cudaStream_t stream, const DecodeInputs<T, G>& in, const DecodeOutputs<T>& out) {
  const Device& device = current_device();
  if (in.sequences == 0) return;
  detail::check_decode<Gate, Update>(in, out);
  if (in.key_dim == 128 && in.value_dim == 128) detail::launch_decode<Gate, Update, 128, 128>(device, stream, in, out);
  else if (in.key_dim == 128) detail::launch_decode<Gate, Update, 128, 64>(device, stream, in, out);
  else if (in.value_dim == 128) detail::launch_decode<Gate, Update, 64, 128>(device, stream, in, out);
  else detail::launch_decode<Gate, Update, 64, 64>(device, stream, in, out);
}

}  // namespace braid::cuda
