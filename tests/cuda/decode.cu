// Decoding against the float64 recurrence on the same rounded inputs, for every cell of the table; speculative tokens to the bit.
#include "device.hpp"
#include "reference.hpp"

#include <braid/cuda/decode.cuh>

#include <doctest/doctest.h>

using namespace braid;
using namespace braid::test;
using bf16 = __nv_bfloat16;

/// A user's own update: Longhorn's step, beta / (1 + beta k.k), in place of beta (Table 6).
struct Longhorn {
  static constexpr bool uses_beta = true, erases = true;
  template <class T> BRAID_FN static T erase(T beta, T n) { return beta / (T(1) + beta * n); }
  template <class T> BRAID_FN static T write(T beta, T n) { return beta / (T(1) + beta * n); }
  template <class T> BRAID_FN static UpdateDerivative<T> derivative(T beta, T n) {
    const T d = T(1) + beta * n;
    return {T(1) / (d * d), -beta * beta / (d * d), T(1) / (d * d), -beta * beta / (d * d)};
  }
};

namespace {

/// Inputs of one call on the device. Problem's sequences all have `tokens` tokens; sequence n uses slot order[n] of `slots` slots.
template <class Gate, class Update, class T, class G> struct Call {
  Problem p;
  Index tokens, slot_count;
  std::vector<int> order;
  DeviceArray<T> q, k, v, a, b, o;
  DeviceArray<G> gate, beta;
  DeviceArray<float> A_log, dt_bias, states;
  DeviceArray<int> slots;

  Call(const Problem& problem, Index tokens_each)
      : p(problem), tokens(tokens_each), slot_count(2 * p.sequences() + 1), q(p.q), k(p.k), v(p.v), a(p.a), b(p.b),
        o(p.tokens() * p.value_heads * p.value_dim), gate(p.gate), beta(p.beta), A_log(p.A_log), dt_bias(p.dt_bias),
        states(slot_count * p.value_heads * p.state_size()), slots(p.sequences()) {
    std::vector<float> ids;
    for (Index n = 0; n < p.sequences(); ++n) order.push_back(static_cast<int>(2 * (p.sequences() - 1 - n) + 1)), ids.push_back(order.back());
    slots.upload(ids);
    states.upload(scatter(p.initial_state));
  }
  Index slot_size() const { return p.value_heads * p.state_size(); }
  std::vector<float> scatter(const std::vector<float>& dense) const {
    std::vector<float> all(static_cast<std::size_t>(slot_count * slot_size()), -7.25f);
    for (Index n = 0; n < p.sequences(); ++n)
      std::copy_n(dense.begin() + n * slot_size(), slot_size(), all.begin() + order[n] * slot_size());
    return all;
  }
  std::vector<float> gathered() const {
    const auto all = states.host();
    std::vector<float> dense;
    for (Index n = 0; n < p.sequences(); ++n)
      dense.insert(dense.end(), all.begin() + order[n] * slot_size(), all.begin() + (order[n] + 1) * slot_size());
    return dense;
  }
  bool others_untouched() const {
    const auto all = states.host();
    for (Index s = 0; s < slot_count; s += 2)
      for (Index i = 0; i < slot_size(); ++i)
        if (all[s * slot_size() + i] != -7.25f) return false;
    return o.guards_intact() && states.guards_intact();
  }
  cuda::DecodeInputs<T, G> inputs() const {
    return {p.sequences(), tokens, p.heads, p.value_heads, p.key_dim, p.value_dim, q, k, v, gate, beta, a, b, A_log, dt_bias,
            p.normalize, p.beta_logit, p.scale, slots, slot_count};
  }
  cuda::DecodeOutputs<T> outputs() const { return {o, states}; }
  void run() {
    cuda::decode<Gate, Update>(nullptr, inputs(), outputs());
    cuda_ok(cudaDeviceSynchronize(), "decode");
  }
};

/// fp32 arithmetic, sums of at most K products, a few hundred ulps of 2^-24 for the state; outputs add one rounding to their type.
constexpr double state_tolerance = 3e-6, bf16_tolerance = 2e-3;

template <class Gate, class Update, class T = bf16, class G = bf16>
Errors check(Shape shape, Index tokens, Index sequences, Kind kind, GateForm form) {
  shape.lengths.assign(static_cast<std::size_t>(sequences), tokens);
  const Rounding round = std::is_same_v<T, float> ? keep_float : std::is_same_v<T, __half> ? round_f16 : round_bf16;
  Problem p = make_problem(shape, kind, Gate::decay, form, round, 3, std::is_same_v<G, float> ? keep_float : round);
  if constexpr (update_is_dplr<Update>) add_dplr(p, 0.3, round);
  Call<Gate, Update, T, G> call(p, tokens);
  call.run();
  const Errors e = compare<Gate, Update>(p, call.o.host(), call.gathered());
  CAPTURE(name(kind));
  CAPTURE(sequences);
  CHECK(e.o < (std::is_same_v<T, float> ? 1e-5 : bf16_tolerance));
  CHECK(e.state < state_tolerance);
  CHECK(call.others_untouched());
  return e;
}

/// Lets the next kernel start at once, and writes a tenth of a millisecond later.
__global__ void write_late(int* to, const int* from, int count) {
  cuda::ptx::launch_dependents();
  const auto begin = clock64();
  while (clock64() - begin < 200000) {}
  for (int i = static_cast<int>(threadIdx.x); i < count; i += 32) to[i] = from[i];
}

}  // namespace

TEST_CASE("KDA, raw inputs, both gates: every kind of input, head counts, value groups") {
  if (!gpu()) return;
  for (Kind kind : hostile_kinds) {
    check<SoftplusGate, DeltaRule>({{}, 4, 4, 128, 128}, 1, 3, kind, GateForm::softplus);
    check<BoundedGate<-5>, DeltaRule>({{}, 2, 6, 128, 64}, 5, 2, kind, GateForm::bounded);
  }
  for (Index heads : {1, 3, 32, 96, 128}) check<SoftplusGate, DeltaRule>({{}, heads, heads, 128, 128}, 1, 2, Kind::random, GateForm::softplus);
}

TEST_CASE("ready inputs: every cell of the table, all head sizes, all types") {
  if (!gpu()) return;
  using Channel = LogDecay<Decay::per_channel>;
  using Head = LogDecay<Decay::per_head>;
  for (Kind kind : {Kind::slow, Kind::forget}) {
    check<Channel, DeltaRule, bf16, float>({{}, 2, 2, 64, 128}, 3, 3, kind, GateForm::given);
    check<Head, DeltaRule, __half, float>({{}, 2, 2, 128, 128}, 2, 3, kind, GateForm::given);
    check<Channel, Additive, bf16, float>({{}, 1, 2, 64, 64}, 8, 3, kind, GateForm::given);
    check<Channel, Dplr, float, float>({{}, 2, 2, 128, 128}, 4, 2, kind, GateForm::given);
    check<Channel, Dplr, bf16, float>({{}, 1, 3, 64, 64}, 1, 5, kind, GateForm::given);
  }
  check<NoDecay, DeltaRule, bf16, float>({{}, 2, 2, 64, 64}, 4, 3, Kind::same_key, GateForm::given);
  check<NoDecay, Additive, bf16, float>({{}, 2, 2, 128, 64}, 4, 3, Kind::random, GateForm::given);
  check<Channel, Longhorn, bf16, float>({{}, 2, 4, 128, 128}, 2, 3, Kind::wide_beta, GateForm::given);
}

TEST_CASE("4096 steps of slow decay do not drift") {
  if (!gpu()) return;
  using Gate = LogDecay<Decay::per_channel>;
  Problem p = make_problem({{4096}, 1, 1, 64, 64}, Kind::slow, Decay::per_channel, GateForm::given, keep_float);
  for (float& g : p.gate) g = -1e-4f;
  Call<Gate, DeltaRule, float, float> call(p, 1);
  auto in = call.inputs();
  auto out = call.outputs();
  const Index K = p.key_dim, V = p.value_dim;
  for (Index t = 0; t < 4096; ++t) {
    cuda::decode<Gate, DeltaRule>(nullptr, in, out);
    in.q += K, in.k += K, in.v += V, in.gate += K, in.beta += 1, out.o += V;
  }
  const Errors e = compare<Gate, DeltaRule>(p, call.o.host(), call.gathered());
  CHECK(e.o < 1e-5);
  CHECK(e.state < 1e-5);
}

TEST_CASE_TEMPLATE("speculative tokens: the tokens kept give the bits of having decoded just those", Update, DeltaRule, Dplr) {
  if (!gpu()) return;
  using Gate = LogDecay<Decay::per_channel>;
  const Index N = 4, T = 6, HV = 2;
  Problem p = make_problem({{T, T, T, T}, 1, HV, 128, 64}, Kind::random, Decay::per_channel, GateForm::given, round_bf16, 9);
  if constexpr (update_is_dplr<Update>) add_dplr(p, 0.3);
  const std::vector<float> kept = {0, 6, 1, 4};
  const Index floats = cuda::journal_floats<Update>(128, 64);

  Call<Gate, Update, bf16, float> plain(p, T), draft(p, T);
  DeviceArray<float> first(N * HV * T * floats), second(N * HV * T * floats);
  DeviceArray<int> accepted(N);
  accepted.upload(kept);
  plain.run();
  const auto before = draft.states.raw();
  auto out = draft.outputs();
  out.journal = first;
  cuda::decode<Gate, Update>(nullptr, draft.inputs(), out);
  CHECK(same_bits(draft.states.raw(), before));        // the state waits
  CHECK(same_bits(draft.o.raw(), plain.o.raw()));      // the outputs are those of plain decoding
  CHECK(first.guards_intact());

  auto in = draft.inputs();
  in.replay = first, in.accepted = accepted;
  out.journal = second;
  cuda::decode<Gate, Update>(nullptr, in, out);        // keeps some, drafts the same tokens again
  const auto drafted = draft.gathered();
  const auto outputs = draft.o.raw();
  CHECK(draft.others_untouched());
  for (Index n = 0; n < N; ++n) {                      // each sequence alone, cut to what was kept
    const Index keep = static_cast<Index>(kept[n]);
    Call<Gate, Update, bf16, float> one(p, T);
    for (Index t = 0; t < keep; ++t) {
      auto step = one.inputs();
      const Index token = n * T + t;
      step.sequences = 1, step.tokens = 1, step.slots = one.slots + n;
      step.q += token * 128, step.k += token * 128, step.v += token * HV * 64, step.gate += token * HV * 128, step.beta += token * HV;
      if (step.a) step.a += token * HV * 128, step.b += token * HV * 128;
      auto result = one.outputs();
      result.o += token * HV * 64;
      cuda::decode<Gate, Update>(nullptr, step, result);
    }
    const auto state = one.gathered();
    const Index size = HV * p.state_size();
    CHECK(std::equal(state.begin() + n * size, state.begin() + (n + 1) * size, drafted.begin() + n * size));
    auto rest = one.inputs();                           // and the draft after it
    auto result = one.outputs();
    rest.sequences = 1, rest.slots = one.slots + n;
    rest.q += n * T * 128, rest.k += n * T * 128, rest.v += n * T * HV * 64, rest.gate += n * T * HV * 128, rest.beta += n * T * HV;
    if (rest.a) rest.a += n * T * HV * 128, rest.b += n * T * HV * 128;
    result.o += n * T * HV * 64;
    cuda::decode<Gate, Update>(nullptr, rest, result);
    const auto o = one.o.raw();
    CHECK(std::memcmp(o.data() + n * T * HV * 64, outputs.data() + n * T * HV * 64, T * HV * 64 * sizeof(bf16)) == 0);
  }
}

TEST_CASE("a sequence does not see its neighbours, and repeats to the bit") {
  if (!gpu()) return;
  Problem p = make_problem({{2, 2, 2}, 2, 2, 128, 128}, Kind::random, Decay::per_channel, GateForm::softplus);
  Call<SoftplusGate, DeltaRule, bf16, bf16> clean(p, 2), again(p, 2);
  clean.run();
  for (std::size_t i = p.q.size() / 3; i < 2 * p.q.size() / 3; ++i) p.q[i] = p.k[i] = p.v[i] = p.gate[i] = NAN;
  Call<SoftplusGate, DeltaRule, bf16, bf16> spoiled(p, 2);
  spoiled.run();
  again.run();
  const auto x = clean.o.raw(), y = spoiled.o.raw();
  const std::size_t third = x.size() / 3;
  CHECK(std::memcmp(x.data(), y.data(), third * 2) == 0);
  CHECK(std::memcmp(x.data() + 2 * third, y.data() + 2 * third, third * 2) == 0);
  CHECK(same_bits(x, again.o.raw()));
  CHECK(same_bits(clean.states.raw(), again.states.raw()));
  // A slot of -1 is skipped.
  again.states.upload(again.scatter(p.initial_state));
  again.slots.upload({-1, static_cast<float>(again.order[1]), 1e6f});
  again.o.poison();
  const auto before = again.states.raw();
  again.run();
  const auto after = again.states.raw();
  std::size_t changed = 0;
  for (std::size_t i = 0; i < before.size(); ++i) changed += before[i] != after[i];
  CHECK(changed > 0);
  CHECK(changed <= static_cast<std::size_t>(again.slot_size()));
}

TEST_CASE("the bits of a sequence are the same alone, in a small batch and in a large one") {
  if (!gpu()) return;
  const Index N = 12, heads = 24;  // 288 pairs take another policy than 24
  const Problem p = make_problem({std::vector<Index>(N, 1), heads, heads, 128, 64}, Kind::slow, Decay::per_channel, GateForm::softplus);
  Call<SoftplusGate, DeltaRule, bf16, bf16> all(p, 1), some(p, 1);
  all.run();
  for (Index n : {0, 7}) {
    auto in = some.inputs();
    auto out = some.outputs();
    const Index key = n * heads * 128, value = n * heads * 64;
    in.sequences = 1, in.slots = some.slots + n;
    in.q += key, in.k += key, in.v += value, in.gate += key, in.beta += n * heads, out.o += value;
    cuda::decode<SoftplusGate, DeltaRule>(nullptr, in, out);
    const auto x = all.o.raw(), y = some.o.raw();
    CHECK(std::memcmp(x.data() + value, y.data() + value, heads * 64 * 2) == 0);
    const auto s = all.gathered(), t = some.gathered();
    CHECK(std::memcmp(s.data() + n * all.slot_size(), t.data() + n * all.slot_size(), all.slot_size() * 4) == 0);
  }
}

TEST_CASE("what the kernel before writes last is seen, and blocks start before it has ended") {
  if (!gpu()) return;
  const Problem p = make_problem({std::vector<Index>(6, 1), 32, 32, 128, 128}, Kind::random, Decay::per_channel, GateForm::softplus);
  Call<SoftplusGate, DeltaRule, bf16, bf16> call(p, 1), late(p, 1);
  call.run();
  DeviceArray<int> slots(late.slots.size());
  cuda_ok(cudaMemcpy(slots, late.slots, slots.bytes(), cudaMemcpyDeviceToDevice), "cudaMemcpy");
  late.slots.poison();  // -1: skipped
  write_late<<<1, 32>>>(late.slots.data(), slots.data(), static_cast<int>(slots.size()));
  late.run();
  CHECK(same_bits(call.o.raw(), late.o.raw()));
  CHECK(same_bits(call.states.raw(), late.states.raw()));
}

TEST_CASE("a graph may have it behind two branches") {
  if (!gpu()) return;
  const Problem p = make_problem({std::vector<Index>(6, 1), 32, 32, 128, 128}, Kind::random, Decay::per_channel, GateForm::softplus);
  Call<SoftplusGate, DeltaRule, bf16, bf16> call(p, 1), late(p, 1);
  call.run();
  const int half = static_cast<int>(late.slots.size() / 2), rest = static_cast<int>(late.slots.size()) - half;
  cudaStream_t main, side;
  cudaEvent_t fork, join;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  cuda_ok(cudaStreamCreate(&main), "stream"), cuda_ok(cudaStreamCreate(&side), "stream");
  cuda_ok(cudaEventCreate(&fork), "event"), cuda_ok(cudaEventCreate(&join), "event");
  cuda_ok(cudaStreamBeginCapture(main, cudaStreamCaptureModeThreadLocal), "capture");
  cuda_ok(cudaEventRecord(fork, main), "fork"), cuda_ok(cudaStreamWaitEvent(side, fork), "fork");
  write_late<<<1, 32, 0, side>>>(late.slots + half, call.slots + half, rest);
  write_late<<<1, 32, 0, main>>>(late.slots.data(), call.slots.data(), half);
  cuda_ok(cudaEventRecord(join, side), "join"), cuda_ok(cudaStreamWaitEvent(main, join), "join");
  cuda::decode<SoftplusGate, DeltaRule>(main, late.inputs(), late.outputs());
  cuda_ok(cudaStreamEndCapture(main, &graph), "capture");
  cuda_ok(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
  for (int i = 0; i < 2; ++i) {
    late.slots.poison(), late.o.poison();
    late.states.upload(late.scatter(p.initial_state));
    cuda_ok(cudaGraphLaunch(exec, main), "launch");
    cuda_ok(cudaDeviceSynchronize(), "graph");
    CHECK(same_bits(call.o.raw(), late.o.raw()));
    CHECK(same_bits(call.states.raw(), late.states.raw()));
  }
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph);
  cudaEventDestroy(fork), cudaEventDestroy(join), cudaStreamDestroy(main), cudaStreamDestroy(side);
}

TEST_CASE("bad input is refused before any launch") {
  using Inputs = cuda::DecodeInputs<bf16>;
  static float backing[1024];
  auto* p = reinterpret_cast<bf16*>(backing);
  const Inputs good{1, 1, 1, 1, 128, 128, p, p, p, p, p, nullptr, nullptr, backing, backing, true, true, 1.f, nullptr, 1};
  const cuda::DecodeOutputs<bf16> out{p, backing};
  auto message = [&](Inputs in, cuda::DecodeOutputs<bf16> to) -> std::string {
    try {
      cuda::detail::check_decode<SoftplusGate, DeltaRule>(in, to);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  auto with = [&](auto&& change) {
    Inputs in = good;
    auto to = out;
    change(in, to);
    return message(in, to);
  };
  CHECK(with([](auto&, auto&) {}).empty());
  CHECK(with([](auto& in, auto&) { in.key_dim = 96; }).find("64 or 128") != std::string::npos);
  CHECK(with([](auto& in, auto&) { in.q = nullptr; }).find("`q`") != std::string::npos);
  CHECK(with([](auto& in, auto&) { in.beta = nullptr; }).find("`beta`") != std::string::npos);
  CHECK(with([](auto& in, auto&) { in.dt_bias = nullptr; }).find("`dt_bias`") != std::string::npos);
  CHECK(with([](auto& in, auto&) { in.tokens = 9; }).find("1 to 8") != std::string::npos);
  CHECK(with([](auto& in, auto&) { in.heads = 2; }).find("multiple") != std::string::npos);
  CHECK(with([](auto& in, auto&) { in.slot_count = 0; }).find("slots") != std::string::npos);
  CHECK(with([](auto&, auto& to) { to.states = reinterpret_cast<float*>(reinterpret_cast<char*>(to.states) + 4); }).find("aligned") !=
        std::string::npos);
}
