// Checks linear attention against recorded cases: check_ops <file.safetensors> [part of a case's name]
//
// The file holds tensors CASE/NAME: inputs (q k v g beta a b A_log dt_bias h0), incoming gradients (do dhT) and expected results
// (o hT dq dk dv dg dbeta da db dA_log ddt_bias dh0), q as [batch, tokens, heads, dim]. A case with A_log is raw: q and k unnormalised,
// g the gate's projection, beta a logit. Prints one line per case: the largest relative error ||x - ref|| / ||ref|| over all results, for
// double and float, token by token and in chunks of 16, 32 and 64. Exit status 1 if an error exceeds its limit.
#include "cpu/linear_attention_problem.hpp"

#include <braid/cpu/linear_attention.hpp>
#include <braid/io/safetensors.hpp>

#include <cstdio>
#include <numeric>
#include <set>

namespace {

using namespace braid;
using namespace braid::test;

constexpr double double_limit = 1e-6;  // the expected values are rounded to float: 6e-8 relative
constexpr double float_limit = 3e-5;   // 2^-24 times the length of the longest sums and of the recurrence, see docs/math.md
constexpr double float_rounding = 0x1p-24;

struct Case {
  std::string name;
  LinearAttentionProblem<double> problem;
  std::array<std::vector<double>, 12> expected;  // in the order of LinearAttentionResults::names
};

Case read_case(const io::SafetensorsFile& file, const std::string& name) {
  auto get = [&](const char* tensor) {
    const std::string key = name + "/" + tensor;
    return file.find(key) ? file.read<double>(key) : std::vector<double>();
  };
  Case c{name, {}, {get("o"), get("hT"), get("dq"), get("dk"), get("dv"), get("dg"), get("dbeta"), get("da"), get("db"), get("dA_log"),
                    get("ddt_bias"), get("dh0")}};
  auto& p = c.problem;
  const auto &q = file.at(name + "/q").shape, &v = file.at(name + "/v").shape;
  p.tokens = q[0] * q[1], p.heads = q[2], p.key_dim = q[3], p.value_heads = v[2], p.value_dim = v[3];
  for (Index i = 0; i <= q[0]; ++i) p.offsets.push_back(i * q[1]);
  p.q = get("q"), p.k = get("k"), p.v = get("v"), p.gate = get("g"), p.beta = get("beta"), p.a = get("a"), p.b = get("b");
  p.A_log = get("A_log"), p.dt_bias = get("dt_bias"), p.initial_state = get("h0"), p.d_o = get("do"), p.d_final_state = get("dhT");
  const auto scale = get("scale");
  p.scale = scale.empty() ? 1 / std::sqrt(static_cast<double>(p.key_dim)) : scale[0];
  p.normalize = p.beta_logit = !p.A_log.empty();
  return c;
}

/// What rounding must do to d_initial_state: the first token adds scale q d_o^T and then, with beta near 1, erases nearly all of it along
/// its key. An error of one rounding of what was added stays. (The case same_key: 1 - beta = 3e-4, so 3e-4 of it remains.)
double initial_state_condition(const Case& c) {
  const auto& p = c.problem;
  const std::vector<double>& result = c.expected[11];
  double added = 0, norm = 0;
  for (Index s = 0; s < p.sequences(); ++s)
    for (Index h = 0; h < p.value_heads; ++h) {
      const double* q = p.q.data() + (p.offsets[s] * p.heads + h * p.heads / p.value_heads) * p.key_dim;
      const double* d_o = p.d_o.data() + (p.offsets[s] * p.value_heads + h) * p.value_dim;
      const double q_norm2 = p.normalize ? 1 : std::inner_product(q, q + p.key_dim, q, 0.0);
      added += p.scale * p.scale * q_norm2 * std::inner_product(d_o, d_o + p.value_dim, d_o, 0.0);
    }
  for (double x : result) norm += x * x;
  return norm > 0 ? std::sqrt(added / norm) : 0;
}

template <class Gate, class Update, class Form, class T> WorstError run(const Case& c, double limit) {
  const auto problem = c.problem.as<T>();
  LinearAttentionResults<T> results(problem);
  cpu::Context ctx;
  cpu::linear_attention<Gate, Update, Form>(ctx, problem.inputs(), results.outputs());
  cpu::linear_attention_backward<Gate, Update, Form>(ctx, problem.inputs(), results.gradients(problem));
  WorstError worst;
  const auto all = results.all();
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (c.expected[i].empty()) continue;
    const double rounding = i == 11 && sizeof(T) == 4 ? 4 * float_rounding * initial_state_condition(c) : 0;
    worst.add(relative_error(*all[i], c.expected[i]), limit + rounding, results.names[i]);
  }
  return worst;
}

template <class Gate, class Update, class T> bool check_type(const Case& c, const char* type, double limit) {
  const std::array<WorstError, 4> errors{run<Gate, Update, Recurrent, T>(c, limit), run<Gate, Update, Chunkwise<16>, T>(c, limit),
                                         run<Gate, Update, Chunkwise<32>, T>(c, limit), run<Gate, Update, Chunkwise<64>, T>(c, limit)};
  bool good = true;
  std::printf("  %s", type);
  for (const auto& e : errors) {
    std::printf(" %.1e (%s)", e.error, e.where.c_str());
    good = good && e.within;
  }
  return good;
}

template <class Gate, class Update> bool check(const Case& c) {
  std::printf("%-32s", c.name.c_str());
  const bool good_double = check_type<Gate, Update, double>(c, "double", double_limit);
  const bool good_float = check_type<Gate, Update, float>(c, "float", float_limit);
  std::printf("  %s\n", good_double && good_float ? "ok" : "FAILED");
  return good_double && good_float;
}

template <class Gate> bool check_update(const Case& c) {
  if (!c.problem.a.empty()) return check<Gate, Dplr>(c);
  return c.problem.beta.empty() ? check<Gate, Additive>(c) : check<Gate, DeltaRule>(c);
}

bool check_case(const Case& c) {
  const auto& p = c.problem;
  const bool channels = p.gate.size() == static_cast<std::size_t>(p.tokens * p.value_heads * p.key_dim);
  if (!p.A_log.empty())
    return c.name.find("lower_bound") != std::string::npos ? check<BoundedGate<-5>, DeltaRule>(c) : check<SoftplusGate, DeltaRule>(c);
  if (p.gate.empty()) return check_update<NoDecay>(c);
  return channels ? check_update<LogDecay<>>(c) : check_update<LogDecay<Decay::per_head>>(c);
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc < 2) return std::fprintf(stderr, "usage: check_ops <file.safetensors> [part of a case's name]\n"), 2;
  const io::SafetensorsFile file(argv[1]);
  std::set<std::string> names;
  for (const auto& tensor : file.tensors()) names.insert(tensor.name.substr(0, tensor.name.rfind('/')));
  std::printf("largest relative error: token by token, chunks of 16, 32, 64; limits %.0e (double), %.0e (float)\n", double_limit, float_limit);
  int wrong = 0, count = 0;
  for (const auto& name : names) {
    if (argc > 2 && name.find(argv[2]) == std::string::npos) continue;
    wrong += !check_case(read_case(file, name)), ++count;
  }
  std::printf("%d of %d cases within the limits\n", count - wrong, count);
  return wrong > 0 || count == 0;
} catch (const std::exception& e) {
  return std::fprintf(stderr, "check_ops: %s\n", e.what()), 2;
}
