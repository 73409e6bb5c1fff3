// Inputs and truth for the tests of the CUDA kernels: problems of every kind that breaks kernels, and the token-by-token
// recurrence of Eq. (1) in float64 on the same rounded inputs. Host code only.
#pragma once

#include <braid/core/linear_attention.hpp>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

namespace braid::test {

// ---------------------------------------------------------------------------------------------------------------- rounding
inline float keep_float(float x) { return x; }
inline float round_bf16(float x) {
  const auto u = std::bit_cast<std::uint32_t>(x);
  return std::isnan(x) ? x : std::bit_cast<float>((u + 0x7fffu + (u >> 16 & 1u)) & 0xffff0000u);
}
inline float round_f16(float x) { return static_cast<float>(static_cast<_Float16>(x)); }
using Rounding = float (*)(float);

// ------------------------------------------------------------------------------------------------------------------ random
/// Counter-based, so that a problem of any size is made in parallel and does not depend on the order.
struct Noise {
  std::uint64_t seed;
  double uniform(std::uint64_t i) const {  // (0, 1)
    std::uint64_t z = (i + 1) * 0x9e3779b97f4a7c15ull + seed * 0xd1342543de82ef95ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return (static_cast<double>((z ^ z >> 31) >> 11) + 0.5) * 0x1p-53;
  }
  double normal(std::uint64_t i) const {
    return std::sqrt(-2 * std::log(uniform(2 * i))) * std::cos(6.283185307179586 * uniform(2 * i + 1));
  }
};

template <class F> void parallel(Index count, F&& f) {
  const Index n = std::max<Index>(1, std::min<Index>(count, std::thread::hardware_concurrency()));
  std::atomic<Index> next{0};
  std::vector<std::thread> threads;
  for (Index t = 0; t < n; ++t)
    threads.emplace_back([&] {
      for (Index i; (i = next++) < count;) f(i);
    });
  for (auto& t : threads) t.join();
}

// ---------------------------------------------------------------------------------------------------------------- problems
/// What the keys and decays are like. The first eight are those that tell kernels apart; the rest are corner cases.
enum class Kind { random, floor, slow, softplus, cliff, same_key, correlated, keep, zero_key, wide_beta, forget };
inline constexpr Kind hostile_kinds[] = {Kind::random,   Kind::floor,      Kind::slow, Kind::softplus, Kind::cliff,    Kind::same_key,
                                         Kind::correlated, Kind::keep, Kind::zero_key, Kind::wide_beta, Kind::forget};
inline const char* name(Kind k) {
  static constexpr const char* names[] = {"random",     "floor", "slow",     "softplus",  "cliff", "same_key",
                                          "correlated", "keep",  "zero_key", "wide_beta", "forget"};
  return names[static_cast<int>(k)];
}

/// What the array `gate` holds: log decays, or raw inputs of BoundedGate<-5> or SoftplusGate.
enum class GateForm { given, bounded, softplus };

struct Shape {
  std::vector<Index> lengths = {64};
  Index heads = 1, value_heads = 1, key_dim = 128, value_dim = 128;
};

/// The inputs of one call, every value already rounded to the type the kernel reads.
struct Problem {
  Index heads = 1, value_heads = 1, key_dim = 128, value_dim = 128;
  std::vector<Index> offsets = {0};
  std::vector<float> q = {}, k = {}, v = {}, gate = {}, beta = {}, a = {}, b = {}, A_log = {}, dt_bias = {}, initial_state = {};
  bool normalize = true, beta_logit = false;
  float scale = 1;

  Index tokens() const { return offsets.back(); }
  Index sequences() const { return static_cast<Index>(offsets.size()) - 1; }
  Index state_size() const { return key_dim * value_dim; }
};

namespace detail {
template <class F> std::vector<float> fill(Index count, F&& f) {
  std::vector<float> x(static_cast<std::size_t>(count));
  const Index block = 1 << 16;
  parallel((count + block - 1) / block, [&](Index b) {
    for (Index i = b * block; i < std::min(count, (b + 1) * block); ++i) x[static_cast<std::size_t>(i)] = static_cast<float>(f(i));
  });
  return x;
}

inline double log_decay_of(Kind kind, double n, double u, double channel) {
  switch (kind) {
    case Kind::floor: return -5;
    case Kind::slow: return -5 / (1 + std::exp(7 - n - channel));
    case Kind::softplus: return -6 * std::log1p(std::exp(2 * n + channel - 4));
    case Kind::cliff: return u < 0.1 ? -5 - 400 * u : -std::log1p(std::exp(n - 3));
    case Kind::correlated: return -0.0121 - 0.022 * u;
    case Kind::same_key:
    case Kind::keep: return 0;
    case Kind::forget: return u < 0.02 ? -INFINITY : -0.05 * u;
    default: return -5 / (1 + std::exp(-1.5 * (n + 0.5 * channel)));
  }
}
/// Raw gate input that gives decays like those of `kind`; rates are one, biases added by the caller.
inline double raw_gate_of(Kind kind, GateForm form, double n, double u) {
  switch (kind) {
    case Kind::floor: return form == GateForm::bounded ? 100 : 5;
    case Kind::slow: return n - 7;
    case Kind::softplus: return 2 * n - 4;
    case Kind::cliff: return u < 0.1 ? (form == GateForm::bounded ? 60 : 40) : n - 3;
    case Kind::correlated: return -5.2 + 0.3 * n;
    case Kind::same_key:
    case Kind::keep: return -100;
    default: return n;
  }
}
}  // namespace detail

/// A problem of the given kind. `round` is the type of q, k, v, a, b (and of the gate and beta unless those are float32).
inline Problem make_problem(const Shape& shape, Kind kind, Decay decay = Decay::per_channel, GateForm form = GateForm::given,
                            Rounding round = round_bf16, std::uint64_t seed = 1, Rounding round_gate = keep_float) {
  Problem p{shape.heads, shape.value_heads, shape.key_dim, shape.value_dim};
  for (Index length : shape.lengths) p.offsets.push_back(p.offsets.back() + length);
  const Index T = p.tokens(), H = p.heads, HV = p.value_heads, K = p.key_dim, V = p.value_dim;
  auto noise = [&](int array) { return Noise{seed * 64 + static_cast<std::uint64_t>(array)}; };
  const bool same = kind == Kind::same_key, near = kind == Kind::correlated;
  auto key = [&, n = noise(0), d = noise(1)](Index i) {
    const Index base = i % (H * K);
    if (kind == Kind::zero_key && i / (H * K) % 3 == 1) return 0.f;
    if (same) return round(static_cast<float>(d.normal(base)));
    if (near) return round(static_cast<float>(d.normal(base) / std::sqrt(K) + 0.05 * n.normal(i)));
    return round(static_cast<float>(n.normal(i)));
  };
  p.k = detail::fill(T * H * K, key);
  p.q = same ? p.k : detail::fill(T * H * K, [&, n = noise(2)](Index i) { return round(static_cast<float>(n.normal(i))); });
  p.v = detail::fill(T * HV * V, [&, n = noise(3)](Index i) { return round(static_cast<float>(n.normal(i))); });
  p.beta_logit = form != GateForm::given;
  p.beta = detail::fill(T * HV, [&, n = noise(4)](Index i) {
    const double x = n.normal(i);
    const double logit = same ? 8 : near ? 40 : x;
    const double wide = kind == Kind::wide_beta ? 2 : 1;
    return round_gate(static_cast<float>(p.beta_logit ? logit : wide / (1 + std::exp(-logit))));
  });
  const Index width = decay == Decay::per_channel ? K : 1;
  if (decay != Decay::none) {
    p.gate = detail::fill(T * HV * width, [&, n = noise(5), u = noise(6), c = noise(7)](Index i) {
      const double g = form == GateForm::given ? detail::log_decay_of(kind, n.normal(i), u.uniform(i), c.normal(i % (HV * width)))
                                               : detail::raw_gate_of(kind, form, n.normal(i), u.uniform(i));
      return round_gate(static_cast<float>(g));
    });
    if (form != GateForm::given) {
      p.A_log = detail::fill(HV, [&, n = noise(8)](Index i) { return kind == Kind::random ? 1.386 * n.uniform(i) : 0.; });
      p.dt_bias = detail::fill(HV * width, [&, n = noise(9)](Index i) { return kind == Kind::keep || same ? 0 : 0.5 * n.normal(i); });
    }
  }
  p.initial_state = detail::fill(p.sequences() * HV * K * V, [&, n = noise(10)](Index i) { return 0.5 * n.normal(i); });
  p.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(K)));
  return p;
}

/// Adds a and b of a general DPLR: a = strength * unit, b = alpha * (unit + tilt * other), near to what KDA would use when tilt is small.
inline void add_dplr(Problem& p, double tilt, Rounding round = round_bf16, std::uint64_t seed = 77) {
  const Index T = p.tokens(), HV = p.value_heads, K = p.key_dim;
  p.a.assign(static_cast<std::size_t>(T * HV * K), 0);
  p.b = p.a;
  parallel(T * HV, [&](Index r) {
    const Noise n{seed}, m{seed + 1};
    double norm = 0;
    for (Index c = 0; c < K; ++c) norm += n.normal(r * K + c) * n.normal(r * K + c);
    for (Index c = 0; c < K; ++c) {
      const auto i = static_cast<std::size_t>(r * K + c);
      const double u = n.normal(r * K + c) / std::sqrt(norm), w = m.normal(r * K + c) / std::sqrt(static_cast<double>(K));
      p.a[i] = round(static_cast<float>(p.beta[static_cast<std::size_t>(r)] * u));
      p.b[i] = round(static_cast<float>((p.gate.empty() ? 1. : std::exp(p.gate[i])) * (u + tilt * w)));
    }
  });
}

// ------------------------------------------------------------------------------------------------------------------- truth
struct HeadResult {
  std::vector<double> o;      // [length, V]
  std::vector<double> state;  // [K, V]
};

/// The recurrence of one sequence and value head in float64 (Eq. 1; section 6.2 for Dplr).
template <class Gate, class Update> HeadResult truth(const Problem& p, Index sequence, Index head) {
  const Index K = p.key_dim, V = p.value_dim, HV = p.value_heads, key_head = head / (HV / p.heads);
  const Index begin = p.offsets[static_cast<std::size_t>(sequence)], end = p.offsets[static_cast<std::size_t>(sequence) + 1];
  HeadResult r;
  r.o.resize(static_cast<std::size_t>((end - begin) * V));
  r.state.assign(static_cast<std::size_t>(K * V), 0.);
  if (!p.initial_state.empty()) {
    const float* s = p.initial_state.data() + (sequence * HV + head) * K * V;
    std::copy(s, s + K * V, r.state.begin());
  }
  std::vector<double> q(K), k(K), alpha(K, 1.), e(K), y(V);
  for (Index t = begin; t < end; ++t) {
    const Index row = t * HV + head;
    double qq = 1e-6, kk = 1e-6;
    for (Index c = 0; c < K; ++c) {
      q[c] = p.q[(t * p.heads + key_head) * K + c], k[c] = p.k[(t * p.heads + key_head) * K + c];
      qq += q[c] * q[c], kk += k[c] * k[c];
    }
    double norm2 = 0;
    for (Index c = 0; c < K; ++c) {
      if (p.normalize) q[c] /= std::sqrt(qq), k[c] /= std::sqrt(kk);
      norm2 += k[c] * k[c];
      if constexpr (Gate::decay != Decay::none) {
        const bool channel = Gate::decay == Decay::per_channel;
        const double rate = gate_is_given<Gate> ? 0. : std::exp(static_cast<double>(p.A_log[head]));
        const double bias = gate_is_given<Gate> ? 0. : p.dt_bias[channel ? head * K + c : head];
        alpha[c] = std::exp(Gate::log_decay(static_cast<double>(p.gate[channel ? row * K + c : row]), rate, bias));
      }
    }
    double erase = 0, write = 1;
    if constexpr (!update_is_dplr<Update>) {
      double beta = Update::uses_beta ? static_cast<double>(p.beta[row]) : 0.;
      if (p.beta_logit) beta = 1 / (1 + std::exp(-beta));
      erase = Update::template erase<double>(beta, norm2), write = Update::template write<double>(beta, norm2);
    }
    // y = e^T S on the state before the decay, e = alpha * k (or b); S = alpha * S - erase k y^T (or a y^T) + write k v^T
    std::fill(y.begin(), y.end(), 0.);
    for (Index c = 0; c < K; ++c) {
      const double x = update_is_dplr<Update> ? static_cast<double>(p.b[row * K + c]) : k[c] * alpha[c];
      if (x != 0)
        for (Index d = 0; d < V; ++d) y[d] += x * r.state[c * V + d];
    }
    double* o = r.o.data() + (t - begin) * V;
    for (Index c = 0; c < K; ++c) {
      const double out = update_is_dplr<Update> ? static_cast<double>(p.a[row * K + c]) : erase * k[c], in = write * k[c];
      double* s = r.state.data() + c * V;
      for (Index d = 0; d < V; ++d) {
        s[d] = alpha[c] * s[d] - out * y[d] + in * p.v[row * V + d];
        o[d] += p.scale * q[c] * s[d];
      }
    }
  }
  return r;
}

/// ||x - reference|| / ||reference|| over everything added; NaN in x makes it NaN.
struct RelativeError {
  double difference = 0, reference = 0;
  template <class X> void add(const X* x, const double* ref, Index count) {
    for (Index i = 0; i < count; ++i) {
      const double d = static_cast<double>(x[i]) - ref[i];
      difference += d * d, reference += ref[i] * ref[i];
    }
  }
  double value() const { return reference > 0 ? std::sqrt(difference / reference) : std::sqrt(difference); }
};

struct Errors {
  double o, state;
};

/// Compares a kernel's outputs with the truth, over all heads or, when `most` > 0, over that many (sequence, head) pairs spread evenly.
/// `o` is [T, HV, V]; `state` is [N, HV, K, V] and may be empty.
template <class Gate, class Update>
Errors compare(const Problem& p, const std::vector<float>& o, const std::vector<float>& state, Index most = 0) {
  const Index HV = p.value_heads, V = p.value_dim, pairs = p.sequences() * HV;
  const Index count = most > 0 ? std::min(most, pairs) : pairs;
  std::vector<RelativeError> eo(count), es(count);
  parallel(count, [&](Index i) {
    const Index pair = i * pairs / count, n = pair / HV, h = pair % HV;
    const HeadResult r = truth<Gate, Update>(p, n, h);
    const Index begin = p.offsets[n], length = p.offsets[n + 1] - begin;
    for (Index t = 0; t < length; ++t) eo[i].add(o.data() + ((begin + t) * HV + h) * V, r.o.data() + t * V, V);
    if (!state.empty()) es[i].add(state.data() + pair * p.state_size(), r.state.data(), p.state_size());
  });
  RelativeError o_all, s_all;
  for (Index i = 0; i < count; ++i) {
    o_all.difference += eo[i].difference, o_all.reference += eo[i].reference;
    s_all.difference += es[i].difference, s_all.reference += es[i].reference;
  }
  return {o_all.value(), s_all.value()};
}

}  // namespace braid::test
