// Published checkpoints against an independent implementation: logits, every layer's hidden state, loss, greedy generation.
//
// tests/data/checkpoint comes from transformers (tests/reference/checkpoint.py); the others are used where BRAID_GOLDEN has them.
// Tolerances are the promise to users: 1e-4 of the norm in float. Between float and the reference's float lie sums in another
// order: per product about sqrt(terms) * 2^-24, a few 1e-7, grown by the layers' gains; 1e-4 leaves room for 27 layers. Weights
// stored in bf16 are exact in float, so storage adds nothing.
#include <braid/braid.hpp>
#include <braid/infer/generate.hpp>
#include <braid/io/checkpoint.hpp>

#include <io/folder.hpp>

#include <doctest/doctest.h>

#include <cstdlib>

using namespace braid;
using namespace braid::io;
namespace fs = std::filesystem;

namespace {
constexpr Config small = [] {
  Config c;
  c.vocab = 96;
  c.hidden = 24;
  c.layers = 5;
  c.order = "KMKKM";
  c.tied = true;
  c.heads = 3;
  c.mla_heads = 2;
  c.key_dim = c.value_dim = 8;
  c.kv_rank = 12;
  c.nope_dim = 8;
  c.rope_dim = 4;
  c.mla_value_dim = 8;
  c.dense_width = 40;
  c.experts = 6;
  c.experts_per_token = 2;
  c.expert_width = 12;
  c.routed_scale = 1.5;
  return c;
}();

constexpr Config four_layers = [] {
  Config c;
  c.vocab = 256;
  c.hidden = 64;
  c.layers = 4;
  c.heads = 4;
  c.key_dim = c.value_dim = 16;
  c.kv_rank = 32;
  c.nope_dim = 16;
  c.rope_dim = 8;
  c.mla_value_dim = 16;
  c.dense_width = 160;
  c.experts = 8;
  c.experts_per_token = 2;
  c.expert_width = 48;
  return c;
}();

constexpr Config twenty_seven_layers = [] {
  Config c = four_layers;
  c.vocab = 320;
  c.hidden = 48;
  c.layers = 27;
  c.heads = 2;
  c.kv_rank = 24;
  c.dense_width = 96;
  c.experts = 16;
  c.experts_per_token = 4;
  c.expert_width = 24;
  return c;
}();

constexpr Config grouped = [] {
  Config c = four_layers;
  c.vocab = 200;
  c.layers = 5;
  c.order = "KMKMM";
  c.heads = 2;
  c.key_dim = c.value_dim = 32;
  c.q_rank = 40;
  c.nope_dim = 24;
  c.mla_value_dim = 32;
  c.dense_layers = 2;
  c.dense_width = 128;
  c.experts = 16;
  c.experts_per_token = 4;
  c.shared_experts = 2;
  c.expert_width = 32;
  c.expert_groups = 4;
  c.groups_per_token = 2;
  c.routed_scale = 1.7;
  return c;
}();

/// ||x - reference|| / ||reference||.
double difference(const float* x, const std::vector<float>& reference) {
  double error = 0, norm = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double d = static_cast<double>(x[i]) - reference[i];
    error += d * d;
    norm += static_cast<double>(reference[i]) * reference[i];
  }
  return std::sqrt(error / norm);
}
constexpr double tolerance = 1e-4;

/// Expected values of a checkpoint; rows of `ids` are sequences of equal length.
struct Expected {
  SafetensorsFile file;
  Index sequences, length;
  std::vector<Token> ids;
  std::vector<float> logits;
  std::vector<Token> generated;  // `total` per sequence: the first `prompt` of its ids and the greedy continuation
  Index total, prompt = 0;
  explicit Expected(const fs::path& directory)
      : file(directory / "expected.safetensors"), sequences(file.at("input_ids").shape[0]), length(file.at("input_ids").shape[1]),
        ids(file.read<Token>("input_ids")), logits(file.read<float>("logits")), generated(file.read<Token>("generated")),
        total(file.at("generated").shape[1]) {
    const auto same = [&](Index t) {
      for (Index s = 0; s < sequences; ++s)
        if (generated_row(s)[static_cast<std::size_t>(t)] != ids[static_cast<std::size_t>(s * length + t)]) return false;
      return true;
    };
    while (prompt < std::min(total, length) && same(prompt)) ++prompt;
    REQUIRE_LT(prompt, total);
  }
  std::span<const Token> generated_row(Index s) const {
    return std::span(generated).subspan(static_cast<std::size_t>(s * total), static_cast<std::size_t>(total));
  }
};

template <class Model> void check_forward(cpu::Context& cpu, const Model& model, const Expected& expected) {
  const Batch batch(expected.sequences, expected.length);
  const auto probe = [&](int layer, View<const float, 2> x) {
    const double error = difference(x.data, expected.file.read<float>("hidden." + std::to_string(layer)));
    INFO("hidden state ", layer);
    CHECK_LE(error, tolerance);
  };
  Tensor<float, 2> logits(cpu.memory(), batch.tokens(), Index{Model::config.vocab});
  model.forward(cpu, expected.ids, batch, logits.view(), nullptr, probe);
  const double error = difference(logits.data(), expected.logits);
  CHECK_LE(error, tolerance);

  std::vector<Token> targets(expected.ids.begin() + 1, expected.ids.end());
  targets.push_back(-1);
  for (Index s = 1; s < expected.sequences; ++s) targets[static_cast<std::size_t>(s * expected.length - 1)] = -1;
  const double loss = model.loss(cpu, expected.ids, targets, batch), reference = expected.file.read<double>("loss")[0];
  CHECK_LE(std::abs(loss - reference), 1e-5);
  std::printf("  logits differ by %.1e of their norm, loss %.6f by %.0e\n", error, loss, std::abs(loss - reference));
}

/// The same logits when the tokens come `chunk` at a time through a cache, in slots out of order.
template <class Model> void check_chunks(cpu::Context& cpu, const Model& model, const Expected& expected, Index chunk) {
  INFO("chunks of ", chunk);
  auto cache = model.cache(cpu, expected.sequences, expected.length);
  std::vector<float> out(expected.logits.size());
  std::vector<Index> slots;
  for (Index s = expected.sequences; s-- > 0;) slots.push_back(s);
  constexpr Index vocab = Model::config.vocab;
  for (Index first = 0; first < expected.length; first += chunk) {
    const Index n = std::min(chunk, expected.length - first);
    std::vector<Token> tokens;
    std::vector<Index> offsets{0};
    for (Index s = 0; s < expected.sequences; ++s) {
      const auto begin = expected.ids.begin() + s * expected.length + first;
      tokens.insert(tokens.end(), begin, begin + n);
      offsets.push_back(offsets.back() + n);
    }
    const Batch batch(offsets, slots);
    Tensor<float, 2> logits(cpu.memory(), batch.tokens(), vocab);
    model.forward(cpu, tokens, batch, logits.view(), &cache);
    for (Index s = 0; s < expected.sequences; ++s)
      std::copy_n(logits.row(s * n), n * vocab, out.data() + (s * expected.length + first) * vocab);
  }
  CHECK_LE(difference(out.data(), expected.logits), tolerance);
}

template <class Model> void check_generated(cpu::Context& cpu, const Model& model, const Expected& expected) {
  const Index total = expected.total, sequences = expected.sequences;
  const auto at = [&](Index s, Index t) { return expected.generated_row(s)[static_cast<std::size_t>(t)]; };
  auto cache = model.cache(cpu, sequences, total);
  Tensor<float, 2> logits(cpu.memory(), sequences, Index{Model::config.vocab});
  std::vector<Token> tokens;
  for (Index s = 0; s < sequences; ++s)
    for (Index t = 0; t < expected.prompt; ++t) tokens.push_back(at(s, t));
  model.next_logits(cpu, tokens, Batch(sequences, expected.prompt), cache, logits.view());
  for (Index t = expected.prompt; t < total; ++t) {
    tokens.clear();
    for (Index s = 0; s < sequences; ++s) {
      const float* row = logits.row(s);
      tokens.push_back(static_cast<Token>(std::max_element(row, row + Model::config.vocab) - row));
      REQUIRE_EQ(tokens.back(), at(s, t));
    }
    if (t + 1 < total) model.next_logits(cpu, tokens, Batch(sequences, Index{1}), cache, logits.view());
  }
}

/// The same continuations from prompts of unequal length, in one batch and in chunks.
template <class Model> void check_generator(cpu::Context& cpu, const Model& model, const Expected& expected) {
  Generator generator(cpu, model, expected.sequences, expected.total);
  const auto prompt = [&](Index s) { return static_cast<std::size_t>(expected.prompt + 3 * s); };
  for (Index s = 0; s < expected.sequences; ++s) generator.append(s, expected.generated_row(s).first(prompt(s)));
  GenerateOptions options;
  options.sampling = Sampling::greedy();
  options.max_tokens = expected.total;  // the capacity comes first
  options.prefill_chunk = 5;
  const auto results = generator.generate(options);
  for (Index s = 0; s < expected.sequences; ++s) {
    const auto rest = expected.generated_row(s).subspan(prompt(s));
    CHECK(results[static_cast<std::size_t>(s)].tokens == std::vector<Token>(rest.begin(), rest.end()));
  }
}

/// Saves the model, loads that, and compares every bit. With BRAID_SAVE_CHECKPOINTS set, leaves it there for tests/reference.
template <class Model> void check_saving(cpu::Context& cpu, Model& model, const Expected& expected, const std::string& name) {
  const test::Folder folder("golden");
  const char* keep = std::getenv("BRAID_SAVE_CHECKPOINTS");
  for (DType stored : {DType::f32, DType::bf16}) {
    const fs::path directory = (keep ? fs::path(keep) : folder.path) / (name + (stored == DType::f32 ? "-f32" : "-bf16"));
    SaveOptions options;
    options.stored = stored;
    options.shard_bytes = stored == DType::f32 ? 100'000 : 1 << 30;
    save_checkpoint(model, directory, options);
    Model other(cpu);
    load_checkpoint(other, directory);
    const auto logits = other.forward(cpu, expected.ids, Batch(expected.sequences, expected.length));
    if (stored == DType::f32)
      CHECK(std::equal(model.parameters().values(), model.parameters().values() + model.parameters().size(), other.parameters().values()));
    if (keep)
      write_safetensors(directory / "braid.safetensors",
                        std::vector{tensor_source("logits", {expected.sequences, expected.length, Model::config.vocab}, logits.data()),
                                    tensor_source("input_ids", {expected.sequences, expected.length}, expected.ids.data())});
  }
}

template <Config C> void check(const fs::path& directory, const std::string& name) {
  if (!fs::exists(directory / "expected.safetensors")) {
    std::printf("skipped: no %s\n", directory.c_str());
    return;
  }
  std::printf("%s\n", name.c_str());
  using Model = CausalLm<C>;
  cpu::Context cpu;
  Model model(cpu);
  load_checkpoint(model, directory);
  const auto counts = count_parameters(C);
  CHECK_EQ(counts.total, Model::parameter_count);
  CHECK_EQ(counts.activated, Model::activated_count);
  CHECK_EQ(count_cache_bytes(C, 100).total(), static_cast<double>(Model::cache_bytes(100)));
  const Expected expected(directory);
  check_forward(cpu, model, expected);
  for (Index chunk : {Index{1}, Index{7}, Index{16}, expected.length}) check_chunks(cpu, model, expected, chunk);
  check_generated(cpu, model, expected);
  check_generator(cpu, model, expected);
  check_saving(cpu, model, expected, name);
}
}  // namespace

TEST_CASE("a checkpoint that transformers wrote: shards, tied embeddings, heads that differ") {
  check<small>(BRAID_TEST_DATA "/checkpoint", "small");
}
TEST_CASE("exactly as published") { check<four_layers>(BRAID_GOLDEN "/model-4layer", "4layer"); }
TEST_CASE("27 layers in bf16 shards") { check<twenty_seven_layers>(BRAID_GOLDEN "/model-27layer-bf16", "27layer-bf16"); }
TEST_CASE("expert groups, a query rank, two shared experts") { check<grouped>(BRAID_GOLDEN "/model-grouped", "grouped"); }
