// The golden operations: the truth of these tests against them in float64, then the kernels (prefill on both paths, decoding token by
// token) on the same inputs rounded to bf16. Head sizes the kernels do not have are padded with zeros, which changes no number.
#include "prefill.hpp"

#include <braid/cuda/decode.cuh>
#include <braid/io/safetensors.hpp>

#include <doctest/doctest.h>

#include <cstdio>
#include <filesystem>
#include <set>

using namespace braid;
using namespace braid::test;
using bf16 = __nv_bfloat16;
using cuda::Path;

namespace {

struct Golden {
  std::string name;
  Problem p;
  std::vector<float> o, state;
};

/// [rows, from] -> [rows, to], zeros behind.
std::vector<float> padded(const std::vector<float>& x, Index from, Index to) {
  if (x.empty() || from == to) return x;
  std::vector<float> out(x.size() / from * to, 0.f);
  for (std::size_t r = 0; r < x.size() / from; ++r) std::copy_n(x.begin() + r * from, from, out.begin() + r * to);
  return out;
}
Index head_size(Index dim) { return dim <= 64 ? 64 : 128; }

std::vector<Golden> golden_cases() {
  const std::filesystem::path path = std::filesystem::path(BRAID_GOLDEN) / "ops.safetensors";
  std::vector<Golden> out;
  if (!std::filesystem::exists(path)) {
    std::puts("no golden data at BRAID_GOLDEN, nothing to compare");
    return out;
  }
  const io::SafetensorsFile file(path);
  std::set<std::string> names;
  for (const auto& tensor : file.tensors()) names.insert(tensor.name.substr(0, tensor.name.find('/')));
  for (const std::string& name : names) {
    auto read = [&](const char* tensor) { return file.find(name + "/" + tensor) ? file.read<float>(name + "/" + tensor) : std::vector<float>{}; };
    const auto q_shape = file.at(name + "/q").shape, v_shape = file.at(name + "/v").shape;
    Golden g{name, {q_shape[2], v_shape[2], q_shape[3], v_shape[3]}, read("o"), read("hT")};
    for (Index n = 1; n <= q_shape[0]; ++n) g.p.offsets.push_back(n * q_shape[1]);
    g.p.q = read("q"), g.p.k = read("k"), g.p.v = read("v"), g.p.gate = read("g"), g.p.beta = read("beta"), g.p.a = read("a"), g.p.b = read("b");
    g.p.A_log = read("A_log"), g.p.dt_bias = read("dt_bias"), g.p.initial_state = read("h0");
    const bool raw = name.find(".raw.") != std::string::npos;
    g.p.normalize = g.p.beta_logit = raw;
    g.p.scale = raw ? static_cast<float>(1 / std::sqrt(static_cast<double>(q_shape[3]))) : read("scale")[0];
    out.push_back(std::move(g));
  }
  return out;
}

/// Head sizes padded to 64 or 128, vectors rounded to bf16; gate and beta stay fp32.
Problem for_device(const Problem& p) {
  Problem d = p;
  const Index K = d.key_dim = head_size(p.key_dim), V = d.value_dim = head_size(p.value_dim);
  for (auto* x : {&d.q, &d.k, &d.a, &d.b}) *x = padded(*x, p.key_dim, K);
  if (static_cast<Index>(d.gate.size()) != p.tokens() * p.value_heads) d.gate = padded(d.gate, p.key_dim, K);
  if (static_cast<Index>(d.dt_bias.size()) != p.value_heads) d.dt_bias = padded(d.dt_bias, p.key_dim, K);
  d.v = padded(d.v, p.value_dim, V);
  d.initial_state = padded(d.initial_state, p.value_dim, V);
  d.initial_state = padded(d.initial_state, p.key_dim * V, K * V);
  for (auto* x : {&d.q, &d.k, &d.v, &d.a, &d.b})
    for (float& f : *x) f = round_bf16(f);
  return d;
}

template <class Gate, class Update> Errors decoded(const Problem& p) {
  Prefill<Gate, Update> arrays(p);
  const Index N = p.sequences(), H = p.heads, HV = p.value_heads, K = p.key_dim, V = p.value_dim, T = p.offsets[1];
  std::vector<float> zero(static_cast<std::size_t>(N * HV * K * V), 0.f);
  arrays.final_state.upload(p.initial_state.empty() ? zero : p.initial_state);
  DeviceArray<int> slot(1);
  const Index width = Gate::decay == Decay::per_channel ? K : 1;
  for (Index n = 0; n < N; ++n) {
    slot.upload({static_cast<float>(n)});
    for (Index t = 0; t < T; t += 5) {  // five tokens a call, and the rest
      const Index first = n * T + t;
      cuda::DecodeInputs<bf16, float> in{1, std::min<Index>(5, T - t), H, HV, K, V, arrays.q + first * H * K, arrays.k + first * H * K, arrays.v + first * HV * V};
      if (arrays.gate) in.gate = arrays.gate + first * HV * width;
      if (arrays.beta) in.beta = arrays.beta + first * HV;
      if (arrays.a) in.a = arrays.a + first * HV * K, in.b = arrays.b + first * HV * K;
      in.A_log = arrays.A_log, in.dt_bias = arrays.dt_bias, in.normalize = p.normalize, in.beta_logit = p.beta_logit, in.scale = p.scale;
      in.slots = slot, in.slot_count = N;
      cuda::decode<Gate, Update>(nullptr, in, {arrays.o + first * HV * V, arrays.final_state});
    }
  }
  cuda_ok(cudaDeviceSynchronize(), "decode");
  return arrays.errors();
}

template <class Gate, class Update> void check(const Golden& g) {
  CAPTURE(g.name);
  const Errors exact = compare<Gate, Update>(g.p, g.o, g.state);  // golden data is float32 of a float64 recurrence
  CHECK(exact.o < 1e-6);
  CHECK(exact.state < 1e-6);
  if (!gpu()) return;
  const Problem p = for_device(g.p);
  Prefill<Gate, Update> call(p);
  const bool same = g.name.find("same_key") != std::string::npos;
  // Rounding to bf16 alone is 1.7e-3 on average over many values and up to 2^-8 on a few.
  const double few = p.tokens() * p.value_dim < 1024 ? 0x1p-8 : 0;
  for (Path path : {Path::portable, Path::automatic}) {
    call.run(path);
    const Errors e = call.errors();
    if (std::getenv("BRAID_VERBOSE")) std::printf("%-40s %-9s o %.2e state %.2e\n", g.name.c_str(), path == Path::portable ? "portable" : "automatic", e.o, e.state);
    CHECK(e.o <= std::max(few, same ? 1.2e-2 : 2.5e-3));
    CHECK(e.state <= (same ? 4e-3 : 1.5e-3));
    CHECK(call.guards_intact());
  }
  const Errors e = decoded<Gate, Update>(p);
  CHECK(e.o <= std::max(few, 2e-3));
  CHECK(e.state <= 1e-5);
}

}  // namespace

TEST_CASE("golden operations") {
  Index seen = 0;
  for (const Golden& g : golden_cases()) {
    auto is = [&](const char* prefix) { return g.name.rfind(prefix, 0) == 0; };
    if (is("kda.raw.lower_bound")) check<BoundedGate<-5>, DeltaRule>(g);
    else if (is("kda.raw.softplus")) check<SoftplusGate, DeltaRule>(g);
    else if (is("additive.channel")) check<LogDecay<>, Additive>(g);
    else if (is("additive.head")) check<LogDecay<Decay::per_head>, Additive>(g);
    else if (is("additive.none")) check<NoDecay, Additive>(g);
    else if (is("delta.channel")) check<LogDecay<>, DeltaRule>(g);
    else if (is("delta.head")) check<LogDecay<Decay::per_head>, DeltaRule>(g);
    else if (is("delta.none")) check<NoDecay, DeltaRule>(g);
    else if (is("dplr.channel")) check<LogDecay<>, Dplr>(g);
    else continue;
    ++seen;
  }
  MESSAGE(seen, " golden cases");
}
