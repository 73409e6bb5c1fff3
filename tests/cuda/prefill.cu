// Prefill against the float64 recurrence on the same rounded inputs: every kind of input, both recurrence kernels, odd lengths,
// value groups, split and batch invariance, checkpoints, graphs, bad input.
#include "prefill.hpp"

#include <doctest/doctest.h>

#include <cstdlib>

using namespace braid;
using namespace braid::test;
using bf16 = __nv_bfloat16;
using cuda::Path;
using cuda::Split;
using Bounded = BoundedGate<-5>;
using Channel = LogDecay<Decay::per_channel>;
using Head = LogDecay<Decay::per_head>;

/// A user's own gate and update.
struct SquaredGate {
  static constexpr Decay decay = Decay::per_channel;
  template <class T> BRAID_FN static T log_decay(T x, T rate, T bias) { return -(rate * (x + bias) * (x + bias)); }
  template <class T> BRAID_FN static GateDerivative<T> derivative(T x, T rate, T bias) {
    return {T(-2) * rate * (x + bias), -(x + bias) * (x + bias), T(-2) * rate * (x + bias)};
  }
};
struct Longhorn {
  static constexpr bool uses_beta = true, erases = true;
  template <class T> BRAID_FN static T erase(T beta, T n) { return beta / (T(1) + beta * n); }
  template <class T> BRAID_FN static T write(T beta, T n) { return T(0.5) * beta / (T(1) + beta * n); }
  template <class T> BRAID_FN static UpdateDerivative<T> derivative(T, T) { return {}; }
};

namespace {

const std::vector<Index> ragged = {1, 0, 15, 16, 17, 31, 32, 33, 63, 65, 97, 200, 0, 2};

/// Bounds on ||x - truth|| / ||truth||: bf16 outputs round at 1.7e-3; fp16 operands add ten roundings of 2^-12, bf16 operands of 2^-9;
/// identical keys let the roundings of a chunk accumulate.
struct Bound {
  double o, state;
};
Bound bound(Kind kind, bool fp16_operands) {
  if (kind == Kind::same_key) return fp16_operands ? Bound{1.2e-2, 4e-3} : Bound{2e-2, 8e-3};
  return fp16_operands ? Bound{2.5e-3, 1.5e-3} : Bound{8e-3, 8e-3};
}

template <class Gate, class Update, class T = bf16, class G = float, class Operand = __half>
void check(const Shape& shape, Kind kind, GateForm form, const char* what, std::vector<Path> paths = {Path::portable, Path::automatic}) {
  const Rounding round = std::is_same_v<T, __half> ? round_f16 : round_bf16;
  Problem p = make_problem(shape, kind, Gate::decay, form, round, 5, std::is_same_v<G, float> ? keep_float : round);
  if constexpr (update_is_dplr<Update>) add_dplr(p, 0.3, round);
  Prefill<Gate, Update, T, G, Operand> call(p);
  for (Path path : paths) {
    call.run(path);
    const Errors e = call.errors();
    const Bound most = bound(kind, std::is_same_v<Operand, __half>);
    const bool good = e.o <= most.o && e.state <= most.state && call.guards_intact();
    if (!good || std::getenv("BRAID_VERBOSE"))
      std::printf("%-28s %-10s %-9s K%ld V%ld H%ld/%ld T%ld: o %.2e state %.2e%s\n", what, name(kind), path == Path::portable ? "portable" : "automatic",
                  shape.key_dim, shape.value_dim, shape.heads, shape.value_heads, p.tokens(), e.o, e.state, good ? "" : "  <-- over");
    CHECK(good);
  }
}

template <class Call> struct Bits {
  decltype(std::declval<Call>().o.raw()) o;
  std::vector<float> state;
  explicit Bits(const Call& call) : o(call.o.raw()), state(call.final_state.raw()) {}
  bool operator==(const Bits& other) const { return same_bits(o, other.o) && same_bits(state, other.state); }
};

/// Tokens [begin, end) of a one-sequence problem with another initial state.
Problem cut(const Problem& p, Index begin, Index end, std::vector<float> state) {
  Problem out = p;
  out.offsets = {0, end - begin};
  out.initial_state = std::move(state);
  auto part = [&](std::vector<float>& x) {
    const Index width = p.tokens() ? static_cast<Index>(x.size()) / p.tokens() : 0;
    x = std::vector<float>(x.begin() + begin * width, x.begin() + end * width);
  };
  for (auto* x : {&out.q, &out.k, &out.v, &out.gate, &out.beta, &out.a, &out.b}) part(*x);
  return out;
}

}  // namespace

TEST_CASE("KDA from raw inputs, both gates, every kind of input") {
  if (!gpu()) return;
  for (Kind kind : hostile_kinds) {
    check<Bounded, DeltaRule, bf16, bf16>({ragged, 2, 2, 128, 128}, kind, GateForm::bounded, "KDA bounded raw");
    check<SoftplusGate, DeltaRule, bf16, bf16>({ragged, 1, 3, 128, 64}, kind, GateForm::softplus, "KDA softplus raw");
  }
}

TEST_CASE("KDA from ready log decays, every kind of input, both head sizes") {
  if (!gpu()) return;
  for (Kind kind : hostile_kinds) {
    check<Channel, DeltaRule>({{513, 64}, 1, 1, 128, 128}, kind, GateForm::given, "KDA ready");
    check<Channel, DeltaRule>({ragged, 2, 4, 64, 128}, kind, GateForm::given, "KDA ready");
  }
}

TEST_CASE("the rest of the table") {
  if (!gpu()) return;
  for (Kind kind : {Kind::slow, Kind::cliff, Kind::forget}) {
    check<Head, DeltaRule>({ragged, 2, 2, 128, 128}, kind, GateForm::given, "Gated DeltaNet");
    check<Channel, Additive>({ragged, 2, 2, 64, 64}, kind, GateForm::given, "GLA");
    check<Head, Additive>({ragged, 1, 2, 128, 64}, kind, GateForm::given, "RetNet, Mamba-2");
  }
  check<NoDecay, DeltaRule>({ragged, 2, 2, 128, 128}, Kind::correlated, GateForm::given, "DeltaNet");
  check<NoDecay, Additive>({ragged, 2, 2, 128, 128}, Kind::random, GateForm::given, "linear attention");
  check<SquaredGate, Longhorn>({ragged, 2, 2, 64, 64}, Kind::random, GateForm::softplus, "a user's gate and update");
}

TEST_CASE("general DPLR, and KDA written as DPLR") {
  if (!gpu()) return;
  for (Kind kind : {Kind::random, Kind::floor, Kind::slow, Kind::softplus, Kind::cliff, Kind::keep, Kind::zero_key, Kind::forget}) {
    check<Channel, Dplr>({ragged, 2, 2, 128, 128}, kind, GateForm::given, "DPLR", {Path::automatic});
    check<Channel, Dplr>({{300, 33}, 1, 2, 64, 64}, kind, GateForm::given, "DPLR", {Path::automatic});
  }
  check<Channel, Dplr, bf16, float, bf16>({ragged, 1, 1, 64, 128}, Kind::slow, GateForm::given, "DPLR, bf16 operands", {Path::automatic});
  Problem p = make_problem({{130, 64}, 2, 2, 64, 64}, Kind::random);
  Prefill<Channel, DeltaRule> kda(p);
  kda.run();
  Problem d = p;  // k normalised, a = beta k, b = alpha * k, v beta
  d.normalize = false, d.a = d.k, d.b = d.k;
  for (std::size_t row = 0; row < d.k.size() / 64; ++row) {
    double kk = 1e-6, qq = 1e-6;
    for (std::size_t c = row * 64; c < row * 64 + 64; ++c) kk += d.k[c] * d.k[c], qq += d.q[c] * d.q[c];
    for (std::size_t c = row * 64; c < row * 64 + 64; ++c) {
      d.k[c] = round_bf16(static_cast<float>(d.k[c] / std::sqrt(kk))), d.q[c] = round_bf16(static_cast<float>(d.q[c] / std::sqrt(qq)));
      d.a[c] = round_bf16(d.beta[row] * d.k[c]), d.b[c] = round_bf16(std::exp(d.gate[c]) * d.k[c]);
      d.v[c] = round_bf16(d.v[c] * d.beta[row]);
    }
  }
  Prefill<Channel, Dplr> dplr(d);
  dplr.run();
  const auto x = kda.o.host(), y = dplr.o.host();
  RelativeError e;
  e.add(y.data(), std::vector<double>(x.begin(), x.end()).data(), static_cast<Index>(x.size()));
  CHECK(e.value() < 1e-2);  // the inputs of the two differ by roundings of 2^-9
}

TEST_CASE("long sequences: no drift, no overflow") {
  if (!gpu()) return;
  for (Kind kind : {Kind::slow, Kind::same_key}) check<Channel, DeltaRule>({{8192}, 1, 1, 128, 128}, kind, GateForm::given, "8192 tokens");
  for (float g : {-1e-4f, -5.f}) {
    Problem p = make_problem({{65536}, 1, 1, 64, 64}, Kind::keep);
    std::fill(p.gate.begin(), p.gate.end(), g);
    Prefill<Channel, DeltaRule> call(p);
    for (Path path : {Path::portable, Path::automatic}) {
      call.run(path);
      const Errors e = call.errors();
      CHECK(e.o <= 2.5e-3);
      CHECK(e.state <= 1.5e-3);
    }
  }
}

TEST_CASE("values from 1e-4 to 1e4 keep their relative error; bf16 operands take any") {
  if (!gpu()) return;
  for (float size : {1e-4f, 1e4f}) {
    Problem p = make_problem({{200}, 1, 1, 64, 64}, Kind::slow);
    for (float& x : p.v) x = round_bf16(x * size);
    for (float& x : p.initial_state) x *= size;
    Prefill<Channel, DeltaRule> call(p);
    call.run();
    CHECK(call.errors().o <= 2.5e-3);
  }
  check<Channel, DeltaRule, bf16, float, bf16>({ragged, 1, 1, 64, 64}, Kind::slow, GateForm::given, "bf16 operands");
  check<Channel, DeltaRule, __half, float, __half>({ragged, 1, 1, 64, 64}, Kind::slow, GateForm::given, "fp16 inputs");
}

TEST_CASE("large keys that are not normalised, beside decays to nothing") {
  if (!gpu()) return;
  Problem p = make_problem({ragged, 1, 1, 128, 64}, Kind::forget);
  p.normalize = false;
  for (float& x : p.k) x = round_bf16(x * 1e3f);
  Prefill<Channel, Additive> call(p);
  for (Path path : {Path::portable, Path::automatic}) {
    call.run(path);
    CHECK(call.errors().o <= 2.5e-3);
    CHECK(call.errors().state <= 1.5e-3);
  }
}

TEST_CASE_TEMPLATE("splitting a sequence", Update, DeltaRule, Dplr) {
  if (!gpu()) return;
  const Index T = 160;
  Problem p = make_problem({{T}, 2, 2, 64, 64}, Kind::slow, Decay::per_channel, GateForm::given, round_bf16, 21);
  if constexpr (update_is_dplr<Update>) add_dplr(p, 0.3);
  Prefill<Channel, Update> whole(p);
  using Call = Prefill<Channel, Update>;
  for (Path path : {Path::portable, Path::automatic}) {
    whole.run(path);
    const Bits<Call> all(whole);
    const auto all_o = whole.o.host();
    for (Index at : {0, 1, 31, 32, 33, 64, 100, 128, 159, 160}) {
      Call first(cut(p, 0, at, p.initial_state));
      first.run(path);
      Call second(cut(p, at, T, first.final_state.host()));
      second.run(path);
      auto o = at ? first.o.host() : std::vector<float>{};
      if (at < T)
        for (float x : second.o.host()) o.push_back(x);
      CAPTURE(at);
      if (at % 32 == 0) {
        CHECK(same_bits(o, all_o));
        CHECK(same_bits(second.final_state.raw(), all.state));
      } else {
        RelativeError e;
        e.add(o.data(), std::vector<double>(all_o.begin(), all_o.end()).data(), static_cast<Index>(o.size()));
        CHECK(e.value() < 2.5e-3);
      }
    }
  }
}

TEST_CASE("a sequence's bits: run to run, alone or packed, beside NaN, from a graph; final state in place of the initial one") {
  if (!gpu()) return;
  using Call = Prefill<Bounded, DeltaRule, bf16, bf16>;
  const Problem p = make_problem({{70, 130, 33}, 2, 2, 128, 128}, Kind::random, Decay::per_channel, GateForm::bounded, round_bf16, 31, round_bf16);
  for (Path path : {Path::portable, Path::automatic}) {
    Call call(p);
    call.run(path);
    const Bits<Call> bits(call);
    for (int i = 0; i < 20; ++i) {
      call.run(path);
      CHECK(Bits<Call>(call) == bits);
    }
    Problem middle = cut(p, 70, 200, {});
    const Index size = 2 * p.state_size();
    middle.initial_state.assign(p.initial_state.begin() + size, p.initial_state.begin() + 2 * size);
    Call alone(middle);
    alone.run(path);
    const auto o = alone.o.raw();
    CHECK(std::memcmp(o.data(), bits.o.data() + 70 * 256, o.size() * 2) == 0);
    CHECK(std::memcmp(alone.final_state.raw().data(), bits.state.data() + size, size * 4) == 0);

    Problem spoiled = p;
    for (Index t = 70; t < 200; ++t)
      for (Index c = 0; c < 256; ++c) spoiled.q[t * 256 + c] = spoiled.k[t * 256 + c] = spoiled.v[t * 256 + c] = spoiled.gate[t * 256 + c] = NAN;
    Call beside(spoiled);
    beside.run(path);
    const auto x = beside.o.raw();
    CHECK(std::memcmp(x.data(), bits.o.data(), 70 * 256 * 2) == 0);
    CHECK(std::memcmp(x.data() + 200 * 256, bits.o.data() + 200 * 256, 33 * 256 * 2) == 0);

    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cuda_ok(cudaStreamCreate(&stream), "stream");
    cuda_ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    call.launch(path, stream);
    cuda_ok(cudaStreamEndCapture(stream, &graph), "capture");
    cuda_ok(cudaGraphInstantiate(&exec, graph, 0), "instantiate");
    call.o.poison(), call.final_state.poison(), call.workspace.poison();
    cuda_ok(cudaGraphLaunch(exec, stream), "graph");
    cuda_ok(cudaStreamSynchronize(stream), "graph");
    CHECK(Bits<Call>(call) == bits);
    cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);

    auto in = call.inputs();
    auto out = call.outputs();
    cuda_ok(cudaMemcpy(call.final_state, call.initial, call.initial.bytes(), cudaMemcpyDeviceToDevice), "copy");
    in.initial_state = call.final_state;
    cuda::linear_attention<Bounded, DeltaRule>(nullptr, static_cast<const cuda::PrefillInputs<bf16, bf16>&>(in), out,
                                               {call.workspace.data(), call.workspace.bytes()}, {path});
    CHECK(Bits<Call>(call) == bits);
  }
}

TEST_CASE("checkpoints are the states of the prefixes; without outputs or states nothing else changes") {
  if (!gpu()) return;
  using Call = Prefill<Channel, DeltaRule>;
  const Problem p = make_problem({{100, 200}, 1, 2, 64, 64}, Kind::slow, Decay::per_channel, GateForm::given, round_bf16, 41);
  for (Path path : {Path::portable, Path::automatic}) {
    Call call(p, 64);
    call.run(path);
    CHECK(call.guards_intact());
    const auto all = call.checkpoints.raw();
    const Index size = 2 * p.state_size();
    for (Index n = 0; n < 2; ++n)
      for (Index j = 0; (j + 1) * 64 <= p.offsets[n + 1] - p.offsets[n]; ++j) {
        std::vector<float> start(p.initial_state.begin() + n * size, p.initial_state.begin() + (n + 1) * size);
        Call prefix(cut(p, p.offsets[n], p.offsets[n] + (j + 1) * 64, start));
        prefix.run(path);
        CHECK(std::memcmp(prefix.final_state.raw().data(), all.data() + (p.offsets[n] / 64 + j) * size, size * 4) == 0);
      }
    Problem plain = p;
    plain.initial_state.clear();
    Call zero(plain);
    zero.run(path);
    CHECK(zero.errors().o <= 2.5e-3);
  }
}

TEST_CASE_TEMPLATE("segments are joined in fp32, whatever the columns of a block", KeyDim, std::integral_constant<int, 64>, std::integral_constant<int, 128>) {
  if (!gpu()) return;
  constexpr Index K = KeyDim::value, V = 64, HV = 2, tokens = 32, sequences = 3;
  const std::vector<Index> offsets_host = {0, 150, 150, 240};  // segments 0..4, none, and 6..8
  const Index segments = offsets_host.back() / tokens + sequences;
  const Noise noise(91);
  std::vector<float> maps(static_cast<std::size_t>(segments * HV * K * K)), ends(static_cast<std::size_t>(segments * HV * K * V));
  for (std::size_t i = 0; i < maps.size(); ++i) maps[i] = static_cast<float>(noise.normal(static_cast<Index>(i)) / std::sqrt(K));
  for (std::size_t i = 0; i < ends.size(); ++i) ends[i] = static_cast<float>(noise.normal(static_cast<Index>(maps.size() + i)));
  const DeviceArray<float> device_maps(maps);
  const DeviceArray<Index> offsets(sequences + 1);
  cuda_ok(cudaMemcpy(offsets, offsets_host.data(), offsets.bytes(), cudaMemcpyHostToDevice), "offsets");
  cuda::RecurrenceArguments<bf16> args;
  args.offsets = offsets, args.tokens = offsets_host.back(), args.sequences = sequences, args.value_heads = HV, args.value_dim = V;
  args.segment_tokens = tokens, args.segment_maps = device_maps;
  const auto join = [&]<class Policy>(Policy) {
    const DeviceArray<float> device_ends(ends);
    args.segment_states = device_ends;
    cuda::combine_segments_kernel<bf16, Policy><<<sequences * HV * V / Policy::columns, Policy::threads>>>(args, nullptr);
    cuda_ok(cudaDeviceSynchronize(), "segments");
    return device_ends.host();
  };
  const std::vector<float> joined = join(cuda::CombinePolicy<K, 8>{});
  CHECK(join(cuda::CombinePolicy<K, 4>{}) == joined);
  std::vector<double> truth(ends.begin(), ends.end());
  for (Index segment : {1, 2, 3, 7})  // neither a sequence's first nor its last
    for (Index head = 0; head < HV; ++head) {
      const float* const map = maps.data() + (segment * HV + head) * K * K;
      double* const state = truth.data() + (segment * HV + head) * K * V;
      const double* const before = state - HV * K * V;
      for (Index key = 0; key < K; ++key)
        for (Index v = 0; v < V; ++v)
          for (Index k = 0; k < K; ++k) state[key * V + v] += map[key * K + k] * before[k * V + v];
    }
  RelativeError e;
  e.add(joined.data(), truth.data(), static_cast<Index>(truth.size()));
  CHECK(e.value() <= 3 * K * 0x1p-24);  // steps in a row, a rounding for each term of a sum
  for (Index segment : {0, 4, 5, 6, 8, 9}) {  // these stay as they are
    const auto begin = static_cast<std::ptrdiff_t>(segment * HV * K * V), end = begin + static_cast<std::ptrdiff_t>(HV * K * V);
    CHECK(std::equal(joined.begin() + begin, joined.begin() + end, ends.begin() + begin));
  }
}

TEST_CASE("segments: the same outputs, states and checkpoints; bits that depend on a sequence's own length") {
  if (!gpu()) return;
  using Call = Prefill<Channel, DeltaRule>;
  const Problem p = make_problem({{16389, 0, 40000, 700}, 1, 1, 64, 64}, Kind::slow, Decay::per_channel, GateForm::given, round_bf16, 51);
  REQUIRE(cuda::segment_tokens(Split::automatic, p.tokens(), 1, 1, 64) > 0);
  for (Path path : {Path::portable, Path::automatic}) {
    Call whole(p, 4096, Split::never), cut_up(p, 4096, Split::by_length);
    whole.run(path), cut_up.run(path);
    CHECK(cut_up.guards_intact());
    for (const Call* call : {&whole, &cut_up}) {
      const Errors e = call->errors();
      CHECK(e.o <= 2.5e-3);
      CHECK(e.state <= 1.5e-3);
    }
    const auto a = whole.checkpoints.host(), b = cut_up.checkpoints.host();
    RelativeError e;
    for (std::size_t i = 0; i < a.size(); ++i) {
      if (std::isnan(a[i]) && std::isnan(b[i])) continue;  // entries that no sequence owns
      const double truth = a[i];
      e.add(&b[i], &truth, 1);
    }
    CHECK(e.value() <= 2 * 1.5e-3);

    const Bits<Call> bits(cut_up);
    cut_up.run(path);
    CHECK(Bits<Call>(cut_up) == bits);
    Problem third = cut(p, 16389, 56389, {});
    third.initial_state.assign(p.initial_state.begin() + 2 * p.state_size(), p.initial_state.begin() + 3 * p.state_size());
    Call alone(third, 0, Split::by_length);
    alone.run(path);
    CHECK(std::memcmp(alone.o.raw().data(), bits.o.data() + 16389 * 64, alone.o.bytes()) == 0);
    CHECK(std::memcmp(alone.final_state.raw().data(), bits.state.data() + 2 * p.state_size(), alone.final_state.bytes()) == 0);

    cuda_ok(cudaMemcpy(alone.final_state, alone.initial, alone.initial.bytes(), cudaMemcpyDeviceToDevice), "copy");
    auto in = alone.inputs();
    in.initial_state = alone.final_state;
    cuda::linear_attention<Channel, DeltaRule>(nullptr, static_cast<const cuda::PrefillInputs<bf16, float>&>(in), alone.outputs(),
                                               {alone.workspace.data(), alone.workspace.bytes()}, {path, Split::by_length});
    CHECK(std::memcmp(alone.final_state.raw().data(), bits.state.data() + 2 * p.state_size(), alone.final_state.bytes()) == 0);
  }
  check<Channel, DeltaRule>({{8191}, 1, 2, 128, 128}, Kind::cliff, GateForm::given, "segments");
  check<Channel, DeltaRule>({{5000}, 1, 1, 128, 64}, Kind::keep, GateForm::given, "segments");
  check<Channel, DeltaRule>({{2048 + 31}, 1, 4, 128, 128}, Kind::slow, GateForm::given, "segments as short as there are");
  check<Channel, DeltaRule>({{5000}, 1, 1, 64, 128}, Kind::same_key, GateForm::given, "segments");
  check<Head, DeltaRule>({{4097}, 1, 1, 128, 128}, Kind::slow, GateForm::given, "segments, Gated DeltaNet");
  check<Channel, Additive>({{6000}, 1, 1, 64, 64}, Kind::slow, GateForm::given, "segments, GLA");
  check<SquaredGate, Longhorn>({{6000}, 1, 1, 64, 64}, Kind::random, GateForm::softplus, "segments, a user's gate and update");
}

TEST_CASE("more blocks than the card holds at once, in every order of arrival") {
  if (!gpu()) return;
  const Problem p = make_problem({std::vector<Index>(40, 70), 8, 8, 128, 64}, Kind::random, Decay::per_channel, GateForm::bounded, round_bf16, 61, round_bf16);
  Prefill<Bounded, DeltaRule, bf16, bf16> call(p);
  call.run(Path::automatic);
  CHECK(call.errors().o <= 2.5e-3);
  const Bits<decltype(call)> bits(call);
  for (int i = 0; i < 50; ++i) call.launch(Path::automatic);  // one call after the other, without a pause
  cuda_ok(cudaDeviceSynchronize(), "prefill");
  CHECK(Bits<decltype(call)>(call) == bits);
}

/// How a card of 132 multiprocessors walks a shape: the tests below name the kernels that they are there for.
constexpr cuda::SideBySide walked_beside(std::initializer_list<Index> lengths, Index value_heads, Index value_dim) {
  Index tokens = 0;
  for (Index length : lengths) tokens += length;
  return cuda::SideBySide::make(cuda::detail::h100, tokens, static_cast<Index>(lengths.size()), value_heads, value_dim);
}

TEST_CASE("blocks of one and of two tiles of values, after the preparation and beside it: right, and the same bits") {
  if (!gpu()) return;
  // On a card of 132 multiprocessors: 32 walks have two tiles a block beside the preparation, 40 sequences of two heads two after it, 30 heads and one
  // sequence of two heads one beside it.
  static_assert(walked_beside({777}, 32, 128).tiles == 2 && walked_beside({777}, 32, 128).soon && walked_beside({1, 333}, 16, 128).tiles == 2);
  static_assert(walked_beside({777}, 30, 128).tiles == 1 && walked_beside({777}, 30, 128).counted);
  check<Bounded, DeltaRule, bf16, bf16>({{777}, 32, 32, 128, 128}, Kind::random, GateForm::bounded, "two tiles, beside", {Path::automatic});
  check<Bounded, DeltaRule, bf16, bf16>({{777}, 30, 30, 128, 128}, Kind::random, GateForm::bounded, "one tile, beside, counted", {Path::automatic});
  check<Channel, DeltaRule>({{1, 333}, 16, 16, 64, 128}, Kind::slow, GateForm::given, "two tiles, beside", {Path::automatic});
  check<Channel, Additive>({{500}, 32, 32, 128, 128}, Kind::slow, GateForm::given, "two tiles, beside", {Path::automatic});
  // Sums in another order would flip the rounding of a few outputs in one call of five, so several calls. Of 70 tokens, single tiles on one multiprocessor; of
  // 270, pairs.
  for (unsigned seed = 60; seed < 70; ++seed)
    for (Index key_dim : {64, 128}) {
      const Index length = seed % 2 == 0 ? 70 : 270;
      const Problem many = make_problem({std::vector<Index>(40, length), 2, 2, key_dim, 128}, Kind::random, Decay::per_channel, GateForm::bounded, round_bf16, seed, round_bf16);
      const auto states = many.initial_state.begin();
      const Problem one = cut(many, 0, length, {states, states + 2 * many.state_size()});
      Prefill<Bounded, DeltaRule, bf16, bf16> packed(many, 0, Split::by_length), alone(one, 0, Split::by_length);
      packed.run(Path::automatic), alone.run(Path::automatic);
      CHECK(packed.errors().o <= 2.5e-3);
      auto o = packed.o.host(), state = packed.final_state.host();
      o.resize(alone.o.host().size()), state.resize(alone.final_state.host().size());
      CHECK(o == alone.o.host());
      CHECK(state == alone.final_state.host());
    }
}

TEST_CASE("beside the preparation: columns that cut sequences, places of records used again, several readers; right, and the same bits every time") {
  if (!gpu()) return;
  // Several items for each group of warps, so that places are used again. On 132 multiprocessors: 64 heads in 48 columns; a column for each of 40 heads,
  // and of 32; two blocks of two tiles of values read a record; two of one tile, groups taking turns or items from a counter; a sequence that is
  // longer than a column, and many that are shorter.
  static_assert(walked_beside({700, 0, 33, 1500}, 64, 128).columns == 48 && walked_beside({1500}, 32, 128).soon && walked_beside({1500}, 32, 128).tiles == 2);
  static_assert(walked_beside({1500}, 40, 128).columns == 40 && !walked_beside({1500}, 40, 128).soon && walked_beside({1500}, 16, 256).tiles == 2);
  static_assert(walked_beside({6000}, 12, 128).soon && walked_beside({1500}, 26, 128).counted && walked_beside({1500}, 26, 128).tiles == 1);
  for (const Shape& shape : {Shape{{700, 0, 33, 1500}, 32, 64, 64, 128}, Shape{{1200}, 40, 40, 64, 128}, Shape{{1500}, 32, 32, 64, 128},
                             Shape{{1500}, 16, 16, 64, 256}, Shape{{6000}, 12, 12, 128, 128}, Shape{{1500}, 26, 26, 64, 128},
                             Shape{{5000, 31, 1, 0, 70}, 12, 12, 128, 128}, Shape{{400, 420, 384, 0, 720}, 20, 20, 64, 128}}) {
    Prefill<Bounded, DeltaRule, bf16, bf16> call(make_problem(shape, Kind::random, Decay::per_channel, GateForm::bounded, round_bf16, 67, round_bf16));
    for (double memory : {3.35e6, 4.9e6}) {  // an H100's, with which single tiles use places again as pairs do, and an H200's
      call.memory_bytes_per_us = memory;
      call.run(Path::automatic);
      const Errors e = call.errors();
      CHECK(e.o <= 2.5e-3);
      CHECK(e.state <= 1.5e-3);
      CHECK(call.guards_intact());
      const Bits<decltype(call)> bits(call);
      for (int i = 0; i < 20; ++i) call.launch(Path::automatic);
      cuda_ok(cudaDeviceSynchronize(), "prefill");
      CHECK(Bits<decltype(call)>(call) == bits);
    }
  }
}

TEST_CASE("each kernel once, small: the case for compute-sanitizer") {
  if (!gpu()) return;
  check<Bounded, DeltaRule, bf16, bf16>({{97, 0, 33}, 1, 2, 128, 128}, Kind::random, GateForm::bounded, "KDA");
  static_assert(walked_beside({97}, 32, 128).tiles == 2 && walked_beside({97}, 32, 128).soon && walked_beside({33, 780}, 32, 128).columns == 48);
  static_assert(walked_beside({97}, 24, 128).tiles == 1 && walked_beside({97, 430}, 34, 128).columns == 0);
  check<Bounded, DeltaRule, bf16, bf16>({{97}, 32, 32, 128, 128}, Kind::random, GateForm::bounded, "two tiles, beside", {Path::automatic});
  check<Bounded, DeltaRule, bf16, bf16>({{97}, 24, 24, 128, 128}, Kind::random, GateForm::bounded, "one tile, beside, counted", {Path::automatic});
  check<Bounded, DeltaRule, bf16, bf16>({{33, 40}, 34, 34, 128, 128}, Kind::random, GateForm::bounded, "one tile of two blocks, after", {Path::automatic});
  check<Bounded, DeltaRule, bf16, bf16>({{97, 430}, 34, 34, 128, 128}, Kind::random, GateForm::bounded, "two tiles, after", {Path::automatic});
  for (double memory : {3.35e6, 4.9e6}) {
    const Problem p = make_problem({{33, 780}, 32, 32, 64, 128}, Kind::random, Decay::per_channel, GateForm::bounded, round_bf16, 69, round_bf16);
    Prefill<Bounded, DeltaRule, bf16, bf16> call(p), one(cut(p, 0, 33, {p.initial_state.begin(), p.initial_state.begin() + 32 * p.state_size()}));
    call.memory_bytes_per_us = one.memory_bytes_per_us = memory;
    call.run(Path::automatic), one.run(Path::automatic);
    CHECK(call.errors().o <= 2.5e-3);
    CHECK(one.errors().o <= 2.5e-3);
  }
  for (double memory : {3.35e6, 4.9e6}) {  // beside the preparation, places used again or not
    Prefill<Bounded, DeltaRule, bf16, bf16> call(make_problem({{97}, 24, 24, 128, 128}, Kind::random, Decay::per_channel, GateForm::bounded, round_bf16, 71, round_bf16));
    call.memory_bytes_per_us = memory;
    call.run(Path::automatic);
    CHECK(call.errors().o <= 2.5e-3);
  }
  check<Head, DeltaRule>({{97}, 1, 1, 64, 64}, Kind::slow, GateForm::given, "Gated DeltaNet");
  check<NoDecay, Additive>({{97}, 1, 1, 64, 64}, Kind::random, GateForm::given, "linear attention");
  check<SquaredGate, Longhorn>({{97}, 1, 1, 64, 64}, Kind::random, GateForm::softplus, "a user's gate and update");
  check<Channel, Dplr>({{97}, 1, 1, 64, 64}, Kind::slow, GateForm::given, "DPLR", {Path::automatic});
  check<Channel, DeltaRule>({{4100}, 1, 1, 64, 64}, Kind::slow, GateForm::given, "segments");
}

TEST_CASE("bad input is refused before any launch, and the device stays usable") {
  if (!gpu()) return;
  using Call = Prefill<Bounded, DeltaRule, bf16, bf16>;
  Call call(make_problem({{40}, 1, 1, 128, 128}, Kind::random, Decay::per_channel, GateForm::bounded));
  auto message = [&](auto&& change) -> std::string {
    cuda::PrefillInputs<bf16, bf16> in = call.inputs();
    auto out = call.outputs();
    cuda::Workspace space{call.workspace.data(), call.workspace.bytes()};
    change(in, out, space);
    try {
      cuda::linear_attention<Bounded, DeltaRule>(nullptr, in, out, space);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  auto says = [&](const char* text, auto&& change) {
    const std::string got = message(change);
    INFO(got);
    CHECK(got.find(text) != std::string::npos);
  };
  says("64 or 128", [](auto& in, auto&, auto&) { in.key_dim = 96; });
  says("`k`", [](auto& in, auto&, auto&) { in.k = nullptr; });
  says("aligned", [](auto& in, auto&, auto&) { in.v = in.v + 1; });
  says("workspace", [](auto&, auto&, auto& space) { space.bytes -= 1; });
  says("multiple", [](auto& in, auto&, auto&) { in.heads = 2; });
  const std::vector<Index> falling = {0, 50, 40};
  says("do not descend", [&](auto& in, auto&, auto&) { in.sequences = 2, in.host_offsets = falling; });
  says("multiple of 32", [&](auto&, auto& out, auto&) { out.checkpoints = out.final_state, out.checkpoint_interval = 33; });
  call.run();
  CHECK(call.errors().o < 2.5e-3);
}
