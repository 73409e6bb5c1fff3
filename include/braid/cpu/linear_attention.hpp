// Linear attention on the CPU: every update and every gate, token by token or chunkwise, with gradients to every input.
// Work is split over (sequence, value head), and further over value columns when there are fewer of those than threads.
#pragma once

#include <braid/core/linear_attention.hpp>
#include <braid/cpu/context.hpp>
#include <braid/cpu/linear_attention_chunkwise_backward.hpp>
#include <braid/cpu/linear_attention_recurrent.hpp>
#include <braid/cpu/parallel.hpp>

#include <array>

namespace braid::cpu {

namespace detail {

/// How a call is cut into tasks: heads outermost, so that ragged sequences spread over the threads.
struct HeadTasks {
  Index sequences, heads, group, panels, value_dim;
  std::span<const Index> offsets;

  template <class T> HeadTasks(const Context& ctx, const LinearAttentionInputs<T>& in, const std::array<Index, 2>& whole) {
    offsets = in.offsets.empty() ? std::span<const Index>(whole) : in.offsets;
    sequences = static_cast<Index>(offsets.size()) - 1, heads = in.value_heads, group = in.value_heads / in.heads;
    value_dim = in.value_dim;
    const Index wanted = ctx.threads() / std::max<Index>(1, sequences * heads), packs = padded<T>(value_dim) / (2 * Pack<T>::lanes);
    panels = std::clamp<Index>(std::min(wanted, packs), 1, value_dim);
  }
  Index lanes() const { return heads * panels; }
  Index count() const { return lanes() * sequences; }
  Index width() const { return panels == 1 ? value_dim : (value_dim + panels - 1) / panels; }
  Index longest() const {
    Index n = 0;
    for (Index s = 0; s < sequences; ++s) n = std::max(n, offsets[s + 1] - offsets[s]);
    return n;
  }
  HeadTask operator[](Index i) const {
    const Index sequence = i % sequences, lane = i / sequences, head = lane / panels, panel = lane % panels;
    const Index column = value_dim * panel / panels, end = value_dim * (panel + 1) / panels;
    const Index begin = offsets[sequence];
    return {sequence, begin, offsets[sequence + 1] - begin, head, head / group, column, end - column, lane};
  }
};

/// What `memory` of `linear_attention_kept` values holds for a task. Chunk c of sequence n is number offsets[n] / chunk + n + c: no two meet,
/// and no sum over lengths is needed.
template <class T, class Element>
KeptChunks<Element> kept_chunks(const LinearAttentionInputs<T>& in, const HeadTasks& tasks, const HeadTask& task, Index chunk, Element* memory) {
  const Index K = padded<T>(in.key_dim), V = padded<T>(tasks.width()), values = KeptChunks<T>::values(K, V, chunk);
  if (memory == nullptr) return {nullptr, K, V, chunk, 0};
  const Index lanes = tasks.lanes(), number = task.begin / chunk + task.sequence;
  return {memory + (number * lanes + task.lane) * values, K, V, chunk, lanes * values};
}

/// Gates > 0 would let the state grow without bound: one pass over the array, before any work.
template <class Gate, class T> void check_log_decay(const Context& ctx, const LinearAttentionInputs<T>& in, std::string_view where) {
  if constexpr (gate_is_given<Gate> && Gate::decay != Decay::none) {
    const Index row = in.value_heads * decay_width<Gate>(in.key_dim);
    parallel_ranges(ctx, in.tokens, 256, [&](Index begin, Index end) {
      Index wrong = 0;
      for (Index i = begin * row; i < end * row; ++i) wrong += !(in.gate[i] <= T(0));
      if (wrong == 0) return;
      for (Index i = begin * row; i < end * row; ++i)
        require(in.gate[i] <= T(0), where, "log decays <= 0 in `gate`",
                braid::detail::text(in.gate[i], " at token ", i / row, ", entry ", i % row));
    });
  }
}

template <class Form> inline constexpr bool is_recurrent = std::is_same_v<Form, Recurrent>;
template <class Form> inline constexpr Index chunk_of = Form::chunk;
template <> inline constexpr Index chunk_of<Recurrent> = 0;

/// to[i] = sum of `lanes` consecutive rows of `width` entries, for `rows` results.
template <class T> void sum_lanes(const Context& ctx, const T* from, Index rows, Index lanes, Index width, T* to) {
  parallel_ranges(ctx, rows, 64, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i)
      for (Index j = 0; j < width; ++j) {
        T total = 0;
        for (Index lane = 0; lane < lanes; ++lane) total += from[(i * lanes + lane) * width + j];
        to[i * width + j] = total;
      }
  });
}

/// to[lane group] = sum over sequences and over the panels of a head; from [sequences, heads * panels, width].
template <class T> void sum_partials(const T* from, const HeadTasks& tasks, Index width, T* to) {
  for (Index h = 0; h < tasks.heads; ++h)
    for (Index j = 0; j < width; ++j) {
      T total = 0;
      for (Index n = 0; n < tasks.sequences; ++n)
        for (Index p = 0; p < tasks.panels; ++p) total += from[((n * tasks.heads + h) * tasks.panels + p) * width + j];
      to[h * width + j] = total;
    }
}

/// `linear_attention` and its gradients for any size of chunk, so that sizes share their code.
template <class Gate, class Update, bool recurrent, class T>
BRAID_NOINLINE void run_forward(Context& ctx, const LinearAttentionInputs<T>& in, const LinearAttentionOutputs<T>& out,
                                [[maybe_unused]] Index chunk) {
  check_linear_attention<Gate, Update>(in);
  require(in.tokens == 0 || out.o != nullptr, "linear_attention", "the array `o`", "a null pointer");
  require(!recurrent || out.kept == nullptr, "linear_attention", "no array `kept`: token by token nothing is kept", "one");
  check_log_decay<Gate>(ctx, in, "linear_attention");
  const std::array<Index, 2> whole{0, in.tokens};
  const HeadTasks tasks(ctx, in, whole);

  auto scope = ctx.arena.scope();
  if constexpr (recurrent) {
    auto scratch = ctx.arena.take<T>(ctx.threads(), recurrent_scratch<Gate, Update>(in, tasks.width()));
    parallel_for(ctx, tasks.count(), [&](Index i) {
      recurrent_forward<Gate, Update>(in, out, tasks[i], scratch.row(thread_number()));
    });
  } else {
    auto scratch = ctx.arena.take<T>(ctx.threads(), chunkwise_scratch<Gate, Update>(in, tasks.width(), chunk));
    parallel_for(ctx, tasks.count(), [&](Index i) {
      const HeadTask task = tasks[i];
      chunkwise_forward<Gate, Update>(in, out, task, chunk, kept_chunks(in, tasks, task, chunk, out.kept), scratch.row(thread_number()));
    });
  }
}

template <class Gate, class Update, bool recurrent, class T>
BRAID_NOINLINE void run_backward(Context& ctx, const LinearAttentionInputs<T>& in, const LinearAttentionGradients<T>& out,
                                 [[maybe_unused]] Index chunk) {
  constexpr auto where = "linear_attention_backward";
  check_linear_attention<Gate, Update>(in, where);
  require(in.tokens == 0 || out.d_o != nullptr, where, "the array `d_o`", "a null pointer");
  require(!recurrent || out.kept == nullptr, where, "no array `kept`: token by token nothing is kept", "one");
  check_log_decay<Gate>(ctx, in, where);
  const std::array<Index, 2> whole{0, in.tokens};
  const HeadTasks tasks(ctx, in, whole);
  const Index K = in.key_dim, lanes = tasks.lanes(), G = decay_width<Gate>(K);

  auto scope = ctx.arena.scope();
  auto lane_array = [&](T* wanted, bool split, Index width) {
    return wanted && split ? ctx.arena.take<T>(in.tokens, lanes, width).data : wanted;
  };
  auto partial_array = [&](T* wanted, Index width) {
    return wanted ? ctx.arena.take_zero<T>(tasks.sequences, lanes, width).data : nullptr;
  };
  const bool split_keys = lanes != in.heads, split_values = tasks.panels > 1;
  GradientSink<T> sink{
      .q = lane_array(out.d_q, split_keys, K), .k = lane_array(out.d_k, split_keys, K), .gate = lane_array(out.d_gate, split_values, G),
      .beta = lane_array(out.d_beta, split_values, 1), .a = lane_array(out.d_a, split_values, K),
      .b = lane_array(out.d_b, split_values, K), .A_log = partial_array(out.d_A_log, 1), .dt_bias = partial_array(out.d_dt_bias, G),
      .key_lanes = split_keys ? lanes : in.heads, .value_lanes = split_values ? lanes : tasks.heads, .lanes = lanes,
      .key_by_lane = split_keys, .value_by_lane = split_values};

  const Index longest = tasks.longest();
  if constexpr (recurrent) {
    auto scratch = ctx.arena.take<T>(ctx.threads(), recurrent_backward_scratch<Gate, Update>(in, tasks.width(), longest));
    parallel_for(ctx, tasks.count(), [&](Index i) {
      recurrent_backward<Gate, Update>(in, out, tasks[i], sink, longest, scratch.row(thread_number()));
    });
  } else {
    const Index chunks = out.kept ? 0 : (longest + chunk - 1) / chunk;
    auto scratch = ctx.arena.take<T>(ctx.threads(), chunkwise_backward_scratch<Gate, Update>(in, tasks.width(), chunk, chunks));
    parallel_for(ctx, tasks.count(), [&](Index i) {
      const HeadTask task = tasks[i];
      chunkwise_backward<Gate, Update>(in, out, task, sink, chunk, kept_chunks(in, tasks, task, chunk, out.kept), chunks,
                                       scratch.row(thread_number()));
    });
  }

  auto gather = [&](const T* from, Index heads, Index width, T* to) {
    if (to && from != to) sum_lanes(ctx, from, in.tokens * heads, lanes / heads, width, to);
  };
  gather(sink.q, in.heads, K, out.d_q), gather(sink.k, in.heads, K, out.d_k);
  gather(sink.gate, tasks.heads, G, out.d_gate), gather(sink.beta, tasks.heads, 1, out.d_beta);
  gather(sink.a, tasks.heads, K, out.d_a), gather(sink.b, tasks.heads, K, out.d_b);
  if (out.d_A_log) sum_partials(sink.A_log, tasks, 1, out.d_A_log);
  if (out.d_dt_bias) sum_partials(sink.dt_bias, tasks, G, out.d_dt_bias);
}

}  // namespace detail

/// o_t = scale S_t^T q_t with S_t by Eq. (1) of the paper (or section 6.2 for Dplr), for every sequence and value head.
///
/// `Form` is Recurrent (token by token) or Chunkwise<Size> (Eqs. 2-9). Shapes and meaning of the arrays: LinearAttentionInputs and
/// LinearAttentionOutputs; `o` and `final_state` are overwritten. Throws Error for missing arrays, sizes that disagree, offsets that
/// descend, and (LogDecay) log decays > 0 or NaN, which one pass over `gate` looks for before any work. Scratch comes from
/// ctx.arena. Results do not depend on the number of threads.
template <class Gate, class Update, class Form = Chunkwise<64>, class T>
void linear_attention(Context& ctx, const LinearAttentionInputs<T>& in, const LinearAttentionOutputs<T>& out) {
  detail::run_forward<Gate, Update, detail::is_recurrent<Form>>(ctx, in, out, detail::chunk_of<Form>);
}

/// Values of type T that `linear_attention` keeps for the backward in this form: with LinearAttentionOutputs::kept its forward sweep is saved,
/// for V (K + 2 C) values a chunk of C tokens and value head. 0 for Recurrent.
template <class Form = Chunkwise<64>, class T> Index linear_attention_kept(const Context& ctx, const LinearAttentionInputs<T>& in) {
  constexpr Index chunk = detail::chunk_of<Form>;
  if constexpr (chunk == 0) return 0;
  else {
    const std::array<Index, 2> whole{0, in.tokens};
    const detail::HeadTasks tasks(ctx, in, whole);
    return (in.tokens / chunk + tasks.sequences) * tasks.lanes() *
           detail::KeptChunks<T>::values(padded<T>(in.key_dim), padded<T>(tasks.width()), chunk);
  }
}

/// Gradients of `linear_attention` with respect to every input, from the inputs and, if it is given, what the forward kept.
/// Gradients not wanted are null; the others are overwritten. Errors as `linear_attention`. The same number of threads gives the same
/// bits; when there are fewer (sequence, head) pairs than threads, gradients are summed over column panels in a fixed order.
template <class Gate, class Update, class Form = Chunkwise<64>, class T>
void linear_attention_backward(Context& ctx, const LinearAttentionInputs<T>& in, const LinearAttentionGradients<T>& out) {
  detail::run_backward<Gate, Update, detail::is_recurrent<Form>>(ctx, in, out, detail::chunk_of<Form>);
}

}  // namespace braid::cpu
