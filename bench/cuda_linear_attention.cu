// Times the KDA family on a GPU: prefill, decoding, general DPLR. Every time stands behind a check of the same buffers against the
// float64 recurrence (a sample of heads and value columns); a case whose output is wrong prints WRONG instead of a time.
//
//   bench.cuda_linear_attention [prefill] [portable] [decode] [dplr]         bench/gpu.sh runs it with the peers and prints the ratios
//
// Inputs rotate among sets that are together larger than the L2 cache; calls are replayed from a graph; medians and 10..90 % spread.
#include "../tests/cuda/device.hpp"
#include "../tests/cuda/reference.hpp"
#include "cuda_timing.hpp"

#include <braid/cuda/decode.cuh>
#include <braid/cuda/dplr.cuh>
#include <braid/cuda/linear_attention.cuh>

#include <cstdlib>
#include <set>

using namespace braid;
using bench::Time;
using test::DeviceArray;
using test::GateForm;
using test::Problem;
using bf16 = __nv_bfloat16;

namespace {

/// What a device copy moves, read plus written: 0.875 of what the memory could (H200 4.3 of 4.9 TB/s, H100 2.9 of 3.35).
double bytes_per_us() { return 0.875 * cuda::current_device().memory_bytes_per_us; }
constexpr std::size_t cold_bytes = 200u << 20;

// ----------------------------------------------------------------------------------------------------------- inputs on the device
struct Fill {
  unsigned seed;
  float mean, deviation;
};
template <class T> __global__ void fill_kernel(T* out, std::size_t count, Fill f) {
  for (std::size_t i = blockIdx.x * static_cast<std::size_t>(blockDim.x) + threadIdx.x; i < count; i += static_cast<std::size_t>(gridDim.x) * blockDim.x) {
    unsigned h[2];
    for (unsigned j = 0; j < 2; ++j) {
      unsigned x = static_cast<unsigned>(i) * 2654435761u + static_cast<unsigned>(i >> 32) * 97u + (f.seed * 2 + j) * 0x9e3779b9u;
      x ^= x >> 16, x *= 0x85ebca6bu, x ^= x >> 13, x *= 0xc2b2ae35u, x ^= x >> 16;
      h[j] = x;
    }
    const float normal = sqrtf(-2 * logf((h[0] + 0.5f) * 0x1p-32f)) * cosf(6.2831853f * (h[1] * 0x1p-32f));
    out[i] = cuda::from_float<T>(f.mean + f.deviation * normal);
  }
}
template <class T> DeviceArray<T> filled(Index count, Fill f) {
  DeviceArray<T> array(count);
  fill_kernel<<<1024, 256>>>(array.data(), array.size(), f);
  return array;
}

template <class T> __global__ void nothing_kernel(T) {}

/// Gate inputs: `slow` forgets over hundreds of tokens, else over a few.
enum class Speed { usual, slow };
template <class Gate> Fill gate_fill(unsigned seed, Speed speed) {
  if (gate_is_given<Gate>) return {seed, speed == Speed::slow ? -0.01f : -1.f, speed == Speed::slow ? 0.002f : 0.2f};
  return {seed, speed == Speed::slow ? -7.f : gate_is_bounded<Gate> ? 0.f : -4.f, gate_is_bounded<Gate> ? 1.f : 2.f};
}

struct Sizes {
  std::vector<Index> lengths;
  Index heads, dim = 128;
  Index tokens() const {
    Index n = 0;
    for (Index x : lengths) n += x;
    return n;
  }
  Index sequences() const { return static_cast<Index>(lengths.size()); }
  std::vector<Index> offsets() const {
    std::vector<Index> out{0};
    for (Index x : lengths) out.push_back(out.back() + x);
    return out;
  }
};

/// Buffers of one call, filled.
template <class Gate, class Update> struct Buffers {
  Sizes s;
  DeviceArray<bf16> q, k, v, gate, beta, a, b, o;
  DeviceArray<float> A_log, dt_bias, initial, final_state;

  Buffers(const Sizes& sizes, unsigned seed, Speed speed) : s(sizes) {
    const Index rows = s.tokens() * s.heads, states = s.sequences() * s.heads * s.dim * s.dim;
    q = filled<bf16>(rows * s.dim, {seed, 0, 1}), k = filled<bf16>(rows * s.dim, {seed + 1, 0, 1}), v = filled<bf16>(rows * s.dim, {seed + 2, 0, 1});
    gate = filled<bf16>(rows * (Gate::decay == Decay::per_channel ? s.dim : 1), gate_fill<Gate>(seed + 3, speed));
    beta = filled<bf16>(rows, {seed + 4, 0, 1});
    if constexpr (update_is_dplr<Update>)
      a = filled<bf16>(rows * s.dim, {seed + 5, 0, 0.06f}), b = filled<bf16>(rows * s.dim, {seed + 6, 0, 0.06f});
    A_log = filled<float>(s.heads, {seed + 7, 0, 0.3f}), dt_bias = filled<float>(s.heads * s.dim, {seed + 8, 0, 0.5f});
    initial = filled<float>(states, {seed + 9, 0, 0.5f});
    o = DeviceArray<bf16>(rows * s.dim), final_state = DeviceArray<float>(states);
  }
  static std::size_t bytes(const Sizes& s) { return static_cast<std::size_t>(s.tokens() * s.heads * s.dim) * 2 * (update_is_dplr<Update> ? 7 : 5); }

  /// Columns [head * width, + count) of a [rows, heads * width] array.
  template <class T> static std::vector<float> columns(const DeviceArray<T>& array, Index rows, Index heads, Index width, Index head, Index count) {
    std::vector<T> host(static_cast<std::size_t>(rows * count));
    if (rows > 0)
      test::cuda_ok(cudaMemcpy2D(host.data(), count * sizeof(T), array.data() + head * width, heads * width * sizeof(T), count * sizeof(T), rows,
                                 cudaMemcpyDeviceToHost), "sample");
    std::vector<float> out(host.size());
    for (std::size_t i = 0; i < host.size(); ++i) out[i] = test::to_float(host[i]);
    return out;
  }
  /// A head alone with its first `value_columns` columns, which the recurrence keeps apart from the rest.
  Problem sample(Index head, Index value_columns, const DeviceArray<float>& states) const {
    Problem p{1, 1, s.dim, value_columns, s.offsets()};
    const Index T = s.tokens(), width = Gate::decay == Decay::per_channel ? s.dim : 1;
    p.q = columns(q, T, s.heads, s.dim, head, s.dim), p.k = columns(k, T, s.heads, s.dim, head, s.dim);
    p.v = columns(v, T, s.heads, s.dim, head, value_columns), p.gate = columns(gate, T, s.heads, width, head, width);
    p.beta = columns(beta, T, s.heads, 1, head, 1);
    if constexpr (update_is_dplr<Update>) p.a = columns(a, T, s.heads, s.dim, head, s.dim), p.b = columns(b, T, s.heads, s.dim, head, s.dim);
    p.A_log = columns(A_log, 1, s.heads, 1, head, 1), p.dt_bias = columns(dt_bias, 1, s.heads, width, head, width);
    p.initial_state = sample_states(states, head, value_columns);
    p.normalize = true, p.beta_logit = true, p.scale = 0.08838834764f;
    return p;
  }
  std::vector<float> sample_states(const DeviceArray<float>& states, Index head, Index value_columns) const {
    std::vector<float> out;
    for (Index n = 0; n < s.sequences(); ++n) {
      std::vector<float> host(static_cast<std::size_t>(s.dim * value_columns));
      test::cuda_ok(cudaMemcpy2D(host.data(), value_columns * 4, states.data() + (n * s.heads + head) * s.dim * s.dim, s.dim * 4, value_columns * 4,
                                 s.dim, cudaMemcpyDeviceToHost), "sample");
      out.insert(out.end(), host.begin(), host.end());
    }
    return out;
  }
  test::Errors errors(const DeviceArray<float>& before, const DeviceArray<float>& after) const {
    test::Errors worst{0, 0};
    std::set<Index> heads{0, s.heads / 2, s.heads - 1};
    for (Index head : heads) {
      const auto e = test::compare<Gate, Update>(sample(head, 8, before), columns(o, s.tokens(), s.heads, s.dim, head, 8), sample_states(after, head, 8));
      worst.o = std::max(worst.o, std::isnan(e.o) ? INFINITY : e.o), worst.state = std::max(worst.state, std::isnan(e.state) ? INFINITY : e.state);
    }
    return worst;
  }
};

std::string micro(double us) {
  char text[32];
  std::snprintf(text, sizeof text, us < 100 ? "%.2f" : "%.1f", us);
  return text;
}
void row(const char* what, const char* gate, Index heads, const Time& time, double floor_us, const test::Errors& e, bool good) {
  std::printf("| %-26s | %3ld | %-16s | %8s | %s..%s | %8s | %5.2f | %.1e | %.1e | %s |\n", what, static_cast<long>(heads), gate,
              good ? micro(time.median).c_str() : "WRONG", good ? micro(time.low).c_str() : "", good ? micro(time.high).c_str() : "",
              micro(floor_us).c_str(), good ? time.median / floor_us : 0., e.o, e.state, time.kernels.c_str());
  std::fflush(stdout);
}
void heading(const char* title) {
  std::printf("\n## %s\n\n| shape | heads | gate | us | 10..90 %% | byte floor us | ratio | error o | error S | kernels |\n|---|---|---|---|---|---|---|---|---|---|\n", title);
}

// ----------------------------------------------------------------------------------------------------------------------- prefill
template <class Gate, class Update> void prefill(const char* what, const char* gate, const Sizes& s, const cuda::PrefillOptions& options, Speed speed = Speed::usual) {
  const std::size_t one = Buffers<Gate, Update>::bytes(s);
  const int sets = static_cast<int>(std::clamp<std::size_t>((cold_bytes + one - 1) / one, 1, 16));
  std::vector<Buffers<Gate, Update>> buffers;
  for (int i = 0; i < sets; ++i) buffers.emplace_back(s, 100u * static_cast<unsigned>(i) + 1, speed);
  const auto offsets_host = s.offsets();
  DeviceArray<Index> offsets(static_cast<Index>(offsets_host.size()));
  test::cuda_ok(cudaMemcpy(offsets, offsets_host.data(), offsets.bytes(), cudaMemcpyHostToDevice), "offsets");
  std::size_t bytes = 0;
  if constexpr (update_is_dplr<Update>) bytes = cuda::dplr_workspace_bytes(s.tokens(), s.sequences(), s.heads, s.dim);
  else bytes = cuda::workspace_bytes<Update>(s.tokens(), s.sequences(), s.heads, s.dim, s.dim, options.split);
  DeviceArray<unsigned char> workspace(static_cast<Index>(bytes));
  auto call = [&](cudaStream_t stream, int set) {
    auto& x = buffers[static_cast<std::size_t>(set)];
    cuda::DplrInputs<bf16, bf16> in;
    in.tokens = s.tokens(), in.heads = in.value_heads = s.heads, in.key_dim = in.value_dim = s.dim;
    in.offsets = offsets, in.sequences = s.sequences();
    in.q = x.q, in.k = x.k, in.v = x.v, in.gate = x.gate, in.beta = x.beta, in.a = x.a, in.b = x.b, in.A_log = x.A_log, in.dt_bias = x.dt_bias;
    in.normalize = true, in.beta_logit = true, in.scale = 0.08838834764f, in.initial_state = x.initial;
    const cuda::PrefillOutputs<bf16> out{x.o, x.final_state};
    const cuda::Workspace space{workspace.data(), workspace.bytes()};
    if constexpr (update_is_dplr<Update>) cuda::dplr<Gate>(stream, in, out, space);
    else cuda::linear_attention<Gate, Update>(stream, static_cast<const cuda::PrefillInputs<bf16, bf16>&>(in), out, space, options);
  };
  const Time time = bench::time_graph(sets, 20, call);
  buffers[0].o.poison(), buffers[0].final_state.poison(), workspace.poison();
  call(nullptr, 0);
  test::cuda_ok(cudaDeviceSynchronize(), "prefill");
  const auto e = buffers[0].errors(buffers[0].initial, buffers[0].final_state);
  row(what, gate, s.heads, time, static_cast<double>(one) / bytes_per_us(), e, e.o <= 2.5e-3 && e.state <= 1.5e-3);
}

constexpr cuda::PrefillOptions automatic;
const std::vector<Index> ragged{1300, 547, 2048, 963, 271, 3063};
struct Case {
  const char* name;
  std::vector<Index> lengths;
  Index heads;
};
std::vector<Index> repeat(Index length, std::size_t n) { return std::vector<Index>(n, length); }
const std::vector<Case> cases{{"8192", {8192}, 96}, {"1300+547+2048+963+271+3063", ragged, 96}, {"8 x 1024", repeat(1024, 8), 96},
                              {"8192", {8192}, 64}, {"1300+547+2048+963+271+3063", ragged, 64}, {"8 x 1024", repeat(1024, 8), 64},
                              {"8192", {8192}, 32}, {"4096", {4096}, 32}, {"8 x 4096", repeat(4096, 8), 32}, {"32768", {32768}, 32},
                              {"65536", {65536}, 32}, {"8192", {8192}, 16}, {"8 x 2048", repeat(2048, 8), 16}, {"2048", {2048}, 12},
                              {"131072", {131072}, 4}};

void all_prefill() {
  using Bounded = BoundedGate<-5>;
  heading("KDA prefill, raw inputs (norms, gate and sigmoid inside), bf16, fp32 states in and out");
  for (const Case& c : cases) prefill<Bounded, DeltaRule>(c.name, "bounded", {c.lengths, c.heads}, automatic);
  for (const Case& c : cases)
    if (c.heads >= 16 && c.lengths.size() == 1) prefill<SoftplusGate, DeltaRule>(c.name, "softplus", {c.lengths, c.heads}, automatic);
  for (const Case& c : {Case{"65536, by length", {65536}, 32}, Case{"8192, by length", {8192}, 16}, Case{"2048, by length", {2048}, 12}, Case{"131072, by length", {131072}, 4}})
    prefill<Bounded, DeltaRule>(c.name, "bounded", {c.lengths, c.heads}, {cuda::Path::automatic, cuda::Split::by_length});
  prefill<Bounded, DeltaRule>("131072, whole", "bounded", {{131072}, 4}, {cuda::Path::automatic, cuda::Split::never});
  prefill<Bounded, DeltaRule>("8192, slow gates", "bounded", {{8192}, 32}, automatic, Speed::slow);
  prefill<SoftplusGate, DeltaRule>("8192, slow gates", "softplus", {{8192}, 32}, automatic, Speed::slow);
  prefill<PerHead<SoftplusGate>, DeltaRule>("8192, Gated DeltaNet", "softplus a head", {{8192}, 32}, automatic);
  Buffers<Bounded, DeltaRule> x({{64}, 4}, 1, Speed::usual);
  DeviceArray<unsigned char> workspace(static_cast<Index>(cuda::workspace_bytes<DeltaRule>(64, 1, 4, 128, 128)));
  cuda::PrefillInputs<bf16, bf16> in{64, 4, 4, 128, 128};
  in.q = x.q, in.k = x.k, in.v = x.v, in.gate = x.gate, in.beta = x.beta, in.A_log = x.A_log, in.dt_bias = x.dt_bias, in.normalize = in.beta_logit = true;
  const double host = bench::host_time(200, [&] {
    cuda::linear_attention<Bounded, DeltaRule>(nullptr, in, {x.o, x.final_state}, {workspace.data(), workspace.bytes()});
  });
  const double two = bench::host_time(200, [] { nothing_kernel<<<1, 32>>>(0), nothing_kernel<<<1, 32>>>(0); });
  std::printf("\nHost time of a call: %.2f us; of two launches of an empty kernel, a call has two: %.2f us\n", host, two);
}

void portable_prefill() {
  heading("The same through the portable recurrence (mma.sync, cp.async)");
  for (const Case& c : cases)
    if (c.lengths.size() == 1 && c.lengths[0] <= 8192) prefill<BoundedGate<-5>, DeltaRule>(c.name, "bounded", {c.lengths, c.heads}, {cuda::Path::portable});
}

void all_dplr() {
  heading("General DPLR, KDA and Gated DeltaNet from ready log decays, 16 heads");
  for (Index tokens : {2048, 8192, 16384, 65536}) {
    const std::string name = std::to_string(tokens);
    prefill<LogDecay<>, Dplr>((name + " DPLR").c_str(), "given", {{tokens}, 16}, automatic);
    prefill<LogDecay<>, DeltaRule>((name + " KDA").c_str(), "given", {{tokens}, 16}, automatic);
    prefill<LogDecay<Decay::per_head>, DeltaRule>((name + " GDN").c_str(), "given, a head", {{tokens}, 16}, automatic);
  }
}

// ---------------------------------------------------------------------------------------------------------------------- decoding
template <class Gate> void decode(Index sequences, Index heads, const char* gate) {
  const Sizes s{std::vector<Index>(static_cast<std::size_t>(sequences), 1), heads};
  Buffers<Gate, DeltaRule> x(s, 1, Speed::usual);
  const Index per_set = sequences * heads * s.dim * s.dim;
  const int sets = static_cast<int>(std::clamp<std::size_t>((1u << 30) / (static_cast<std::size_t>(per_set) * 4), 2, 128));
  DeviceArray<float> states = filled<float>(per_set * sets, {77, 0, 0.5f});
  DeviceArray<int> slots(sequences);
  std::vector<float> order;
  for (Index n = 0; n < sequences; ++n) order.push_back(static_cast<float>(n));
  slots.upload(order);
  auto call = [&](cudaStream_t stream, float* at) {
    cuda::DecodeInputs<bf16> in{sequences, 1, heads, heads, s.dim, s.dim, x.q, x.k, x.v, x.gate, x.beta, nullptr, nullptr, x.A_log, x.dt_bias};
    in.normalize = in.beta_logit = true, in.scale = 0.08838834764f, in.slots = slots, in.slot_count = sequences;
    cuda::decode<Gate, DeltaRule>(stream, in, {x.o, at});
  };
  const Time time = bench::time_graph(sets, 30, [&](cudaStream_t stream, int set) { call(stream, states + set * per_set); });
  test::cuda_ok(cudaMemcpy(x.final_state, x.initial, x.initial.bytes(), cudaMemcpyDeviceToDevice), "copy");
  x.o.poison();
  call(nullptr, x.final_state);
  test::cuda_ok(cudaDeviceSynchronize(), "decode");
  const auto e = x.errors(x.initial, x.final_state);
  const double floor_us = 2 * 4.0 * static_cast<double>(per_set) / bytes_per_us();
  row(("N = " + std::to_string(sequences)).c_str(), gate, heads, time, floor_us, e, e.o <= 2e-3 && e.state <= 1e-5);
}

void all_decode() {
  heading("KDA decoding, one token a sequence, states in slots, in place (byte floor: state read and written once)");
  for (Index n : {1, 2, 4, 8, 16, 32, 64, 128, 256}) decode<BoundedGate<-5>>(n, 32, "bounded");
  for (Index heads : {4, 12, 24, 64, 96, 128}) decode<SoftplusGate>(32, heads, "softplus");
  decode<PerHead<SoftplusGate>>(64, 32, "softplus a head");
}

}  // namespace

int main(int argc, char** argv) {
  if (!test::gpu()) return 0;
  cudaDeviceProp device{};
  test::cuda_ok(cudaGetDeviceProperties(&device, 0), "device");
  int runtime = 0, driver = 0;
  cudaRuntimeGetVersion(&runtime), cudaDriverGetVersion(&driver);
  std::printf("%s, %d multiprocessors, CUDA %d.%d, driver API %d.%d\n", device.name, device.multiProcessorCount, runtime / 1000, runtime % 1000 / 10,
              driver / 1000, driver % 1000 / 10);
  std::set<std::string> wanted(argv + 1, argv + argc);
  try {
    if (wanted.empty() || wanted.count("decode")) all_decode();
    if (wanted.empty() || wanted.count("prefill")) all_prefill();
    if (wanted.empty() || wanted.count("portable")) portable_prefill();
    if (wanted.empty() || wanted.count("dplr")) all_dplr();
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
