// Checkpoint directories: every published variation fills the same parameters; everything that does not fit is listed.
#include <braid/io/checkpoint.hpp>

#include <io/folder.hpp>

#include <doctest/doctest.h>

#include <limits>

using namespace braid;
using namespace braid::io;
using namespace braid::test;
namespace fs = std::filesystem;

namespace {
/// Parameters with the published names and shapes of a linear-attention layer and two experts; no arithmetic.
template <class Scalar, bool Tied = false> struct Model {
  using T = Scalar;
  struct Named {
    std::string name;
    Param<T> p;
  };
  std::vector<Named> list;
  ParamStorage<T> storage;
  Model() {
    const auto add = [&](std::string name, std::vector<Index> shape) { list.push_back({std::move(name), {std::move(shape)}}); };
    add("model.embed_tokens.weight", {6, 4});
    add("model.layers.0.self_attn.q_conv1d.weight", {8, 1, 3});
    add("model.layers.0.self_attn.k_conv1d.weight", {8, 1, 3});
    add("model.layers.0.self_attn.v_conv1d.weight", {8, 1, 3});
    add("model.layers.0.self_attn.A_log", {1, 1, 2, 1});
    add("model.layers.0.self_attn.f_a_proj.weight", {3, 4});
    add("model.layers.0.mlp.gate_proj.weight", {5, 4});
    for (const char* e : {"0", "1"}) {
      add(std::string("model.layers.1.block_sparse_moe.experts.") + e + ".w1.weight", {3, 4});
      add(std::string("model.layers.1.block_sparse_moe.experts.") + e + ".w2.weight", {4, 3});
      add(std::string("model.layers.1.block_sparse_moe.experts.") + e + ".w3.weight", {3, 4});
    }
    add("model.layers.1.block_sparse_moe.gate.e_score_correction_bias", {2});
    add("model.layers.1.block_sparse_moe.shared_experts.up_proj.weight", {3, 4});
    add("model.norm.weight", {4});
    if (!Tied) add("lm_head.weight", {6, 4});
    storage = ParamStorage<T>(cpu::host_memory(), *this);
  }
  struct {
    bool tied = Tied;
    DType dtype = std::same_as<T, float> ? DType::f32 : DType::f64;
  } static constexpr config{};
  template <class V> void visit(V&& v) {
    for (auto& [name, p] : list) v(name, p);
  }
  /// Values that tell every element of every parameter from every other, exact in bf16.
  void number() {
    int n = 0;
    for (auto& [name, p] : list)
      for (Index i = 0; i < p.size(); ++i) p.value[i] = static_cast<T>(n++ % 251);
  }
  std::vector<double> values() {
    std::vector<double> out;
    for (auto& [name, p] : list) out.insert(out.end(), p.value, p.value + p.size());
    return out;
  }
};

/// The tensors of a model, to be renamed, reshaped and merged before they are written.
struct Tensors {
  struct Entry {
    std::string name;
    std::vector<Index> shape;
    std::vector<float> data;
  };
  std::vector<Entry> list;
  template <class M> explicit Tensors(M& model) {
    for (auto& [name, p] : model.list) list.push_back({name, p.shape, std::vector<float>(p.value, p.value + p.size())});
  }
  Entry& at(const std::string& part) {
    for (Entry& e : list)
      if (has(e.name, part)) return e;
    FAIL("no tensor " << part);
    return list[0];
  }
  void rename(const std::string& from, const std::string& to) {
    for (Entry& e : list)
      if (const auto at = e.name.find(from); at != e.name.npos) e.name.replace(at, from.size(), to);
  }
  void remove(const std::string& part) {
    std::erase_if(list, [&](const Entry& e) { return has(e.name, part); });
  }
  void merge(const std::string& name, std::vector<Index> shape, const std::vector<std::string>& parts) {
    Entry merged{name, std::move(shape), {}};
    for (const std::string& part : parts) merged.data.insert(merged.data.end(), at(part).data.begin(), at(part).data.end());
    for (const std::string& part : parts) remove(part);
    list.push_back(merged);
  }
  void write(const fs::path& directory, Stored stored = Stored::f32, std::uint64_t shard = 1 << 20) const {
    std::vector<TensorSource> sources;
    for (const Entry& e : list) sources.push_back(tensor_source(e.name, e.shape, e.data.data(), stored));
    write_weights(directory, sources, shard);
  }
};

/// One parameter of 16 MiB: many blocks.
struct Large {
  using T = float;
  Param<T> p{{1 << 22}};
  ParamStorage<T> storage{cpu::host_memory(), *this};
  void visit(auto&& v) { v("large", p); }
};
}  // namespace

TEST_CASE("every variation of names and shapes fills the same parameters") {
  Folder folder("checkpoint");
  Model<float> model;
  model.number();
  const auto expected = model.values();
  const auto loads = [&](auto change) {
    Tensors tensors(model);
    change(tensors);
    tensors.write(folder.path);
    Model<float> other;
    load_checkpoint(other, folder.path);
    CHECK_EQ(other.values(), expected);
  };
  loads([](Tensors&) {});
  loads([](Tensors& t) { t.rename("layers.0.mlp", "layers.0.block_sparse_moe"); });
  loads([](Tensors& t) { t.rename("block_sparse_moe", "mlp"); });
  loads([](Tensors& t) { t.rename("model.", ""); });
  loads([](Tensors& t) { t.rename("model.", "language_model.model."); });
  loads([](Tensors& t) {
    t.rename("w1", "gate_proj");
    t.rename("w2", "down_proj");
    t.rename("w3", "up_proj");
  });
  loads([](Tensors& t) { t.at("A_log").shape = {2}; });
  loads([](Tensors& t) { t.at("A_log").shape = {2, 1}; });
  loads([](Tensors& t) {
    for (const char* name : {"q_conv1d", "k_conv1d", "v_conv1d"}) t.at(name).shape = {8, 3};
  });
  loads([](Tensors& t) {
    t.merge("model.layers.0.self_attn.conv1d.weight", {24, 1, 3}, {"q_conv1d", "k_conv1d", "v_conv1d"});
    t.rename("self_attn.f_a_proj", "self_attn.forget_gate.f_a_proj");
    t.rename("self_attn.A_log", "self_attn.forget_gate.A_log");
  });
  loads([](Tensors& t) {
    t.merge("model.layers.1.mlp.experts.gate_up_proj", {2, 6, 4}, {"experts.0.w1", "experts.0.w3", "experts.1.w1", "experts.1.w3"});
    t.merge("model.layers.1.mlp.experts.down_proj", {2, 4, 3}, {"experts.0.w2", "experts.1.w2"});
  });
  loads([](Tensors& t) {
    t.merge("model.layers.1.mlp.switch_mlp.gate_proj.weight", {2, 3, 4}, {"experts.0.w1", "experts.1.w1"});
    t.merge("model.layers.1.block_sparse_moe.experts.w2", {2, 4, 3}, {"experts.0.w2", "experts.1.w2"});
    t.merge("model.layers.1.mlp.experts.up_proj", {2, 3, 4}, {"experts.0.w3", "experts.1.w3"});
  });
  loads([](Tensors& t) { t.list.push_back({"model.layers.0.self_attn.rotary_emb.inv_freq", {2}, {1, 2}}); });
}

TEST_CASE("any stored type, one file or shards, into float and double") {
  Folder folder("checkpoint");
  Model<float> model;
  model.number();
  const Tensors tensors(model);
  for (Stored stored : {Stored::f64, Stored::f32, Stored::f16, Stored::bf16}) {
    for (std::uint64_t shard : {1, 100, 1 << 20}) {
      tensors.write(folder.path, stored, shard);
      CHECK_EQ(folder.files(), shard == 1 ? tensors.list.size() + 1 : folder.files());
      CHECK_EQ(fs::exists(folder / "model.safetensors"), shard == 1 << 20);  // stale files are gone
      Model<float> f;
      Model<double> d;
      load_checkpoint(f, folder.path);
      load_checkpoint(d, folder.path);
      CHECK_EQ(f.values(), model.values());
      CHECK_EQ(d.values(), model.values());
    }
  }
  CHECK_EQ(folder.files(), 1);
}

TEST_CASE("progress reaches the end") {
  Folder folder("checkpoint");
  Model<float> model;
  Tensors(model).write(folder.path);
  std::uint64_t last = 0, all = 0;
  LoadOptions options;
  options.progress = [&](std::uint64_t done, std::uint64_t total) {
    CHECK_GT(done, last);
    last = done;
    all = total;
  };
  load_checkpoint(model, folder.path, options);
  CHECK_EQ(last, all);
  CHECK_EQ(all, 4 * model.values().size());
}

TEST_CASE("tied embeddings") {
  Folder folder("checkpoint");
  Model<float> whole;
  whole.number();
  Tensors tensors(whole);
  Model<float, true> tied;
  tensors.write(folder.path);
  CHECK(has(error_of([&] { load_checkpoint(tied, folder.path); }), "lm_head.weight (differs from the embedding"));
  tensors.at("lm_head").data = tensors.at("embed_tokens").data;
  tensors.write(folder.path);
  CHECK_EQ(error_of([&] { load_checkpoint(tied, folder.path); }), "");
  tensors.remove("lm_head");
  tensors.write(folder.path);
  CHECK_EQ(error_of([&] { load_checkpoint(tied, folder.path); }), "");
  CHECK(has(error_of([&] { load_checkpoint(whole, folder.path); }), "missing: lm_head.weight"));
}

TEST_CASE("one Error lists all that does not fit") {
  Folder folder("checkpoint");
  Model<float> model;
  Tensors tensors(model);
  tensors.remove("experts.0.w2");
  tensors.remove("model.norm");
  tensors.at("A_log").shape = {2, 1, 1, 1};  // fine
  tensors.at("f_a_proj").shape = {4, 3};
  tensors.list.push_back({"extra", {1}, {1}});
  tensors.list.push_back({"model.layers.1.mlp.experts.1.gate_proj.weight", {3, 4}, std::vector<float>(12)});
  tensors.write(folder.path);
  const std::string error = error_of([&] { load_checkpoint(model, folder.path); });
  CHECK(has(error, "missing: model.layers.1.block_sparse_moe.experts.0.w2.weight, model.norm.weight"));
  CHECK(has(error, "unexpected: extra"));
  CHECK(has(error, "more than once: model.layers.1.mlp.experts.1.gate_proj.weight and"));
  CHECK(has(error, "wrong dtype or shape: model.layers.0.self_attn.f_a_proj.weight F32 [4, 3] for [3, 4]"));
  CHECK_FALSE(has(error, "A_log"));
}

TEST_CASE("integers are not weights") {  // whatever they mean (quantised values, most likely), it is not their number
  Folder folder("checkpoint");
  Model<float> model;
  Tensors tensors(model);
  tensors.remove("model.norm");
  std::vector<TensorSource> sources;
  for (const auto& e : tensors.list) sources.push_back(tensor_source(e.name, e.shape, e.data.data()));
  const std::int8_t quantised[4] = {1, 2, 3, 4};
  sources.push_back(tensor_source("model.norm.weight", {4}, quantised));
  write_weights(folder.path, sources, 1 << 20);
  CHECK(has(error_of([&] { load_checkpoint(model, folder.path); }), "wrong dtype or shape: model.norm.weight I8 [4] for [4]"));
}

TEST_CASE("NaN and infinite weights are named") {
  Folder folder("checkpoint");
  Model<float> model;
  Tensors tensors(model);
  tensors.at("q_conv1d").data[23] = std::numeric_limits<float>::quiet_NaN();
  tensors.at("lm_head").data[0] = -std::numeric_limits<float>::infinity();
  for (Stored stored : {Stored::f32, Stored::bf16, Stored::f16, Stored::f64}) {
    tensors.write(folder.path, stored);
    const std::string error = error_of([&] { load_checkpoint(model, folder.path); });
    CHECK(has(error, "NaN or infinity in lm_head.weight, model.layers.0.self_attn.q_conv1d.weight"));
  }
  LoadOptions options;
  options.allow_non_finite = true;
  CHECK_EQ(error_of([&] { load_checkpoint(model, folder.path, options); }), "");
  const double large[6 * 4] = {1e300};
  tensors.at("q_conv1d").data[23] = 0;
  tensors.remove("lm_head");
  tensors.write(folder.path, Stored::f32, 1);
  fs::remove(folder / "model.safetensors.index.json");
  std::vector<TensorSource> sources;
  for (const auto& e : tensors.list) sources.push_back(tensor_source(e.name, e.shape, e.data.data()));
  sources.push_back(tensor_source("lm_head.weight", {6, 4}, large));
  write_weights(folder.path, sources, 1 << 20);
  CHECK(has(error_of([&] { load_checkpoint(model, folder.path); }), "infinity in lm_head.weight"));  // does not fit into float
}

TEST_CASE("an index that lies") {
  Folder folder("checkpoint"), outside("checkpoint-outside");
  Model<float> model;
  const Tensors tensors(model);
  const auto error = [&] { return error_of([&] { load_checkpoint(model, folder.path); }); };
  CHECK(has(error(), "neither"));
  CHECK(has(error_of([&] { load_checkpoint(model, folder / "none"); }), "a directory, found nothing"));
  tensors.write(outside.path);
  tensors.write(folder.path, Stored::f32, 200);
  CHECK_EQ(error(), "");
  const std::string good = read_text(folder / "model.safetensors.index.json");
  const auto index = [&](const std::string& text) { write_file(folder / "model.safetensors.index.json", text); };
  const auto all_in = [&](const std::string& file) {
    Json map;
    for (const auto& e : tensors.list) map[e.name] = file;
    index(Json{{"weight_map", map}}.dump());
  };
  for (const char* trick : {"../x.safetensors", "/etc/x.safetensors", "a/b.safetensors", "..\\x.safetensors", "..", ".", "", "passwd", ".x.safetensors"}) {
    all_in(trick);
    CHECK(has(error(), "without folders"));
  }
  all_in("none.safetensors");
  CHECK(has(error(), "a file that exists"));
  fs::create_symlink(outside / "model.safetensors", folder / "link.safetensors");
  all_in("link.safetensors");
  CHECK(has(error(), "a file within its directory, found a link"));
  fs::create_directory(folder / "folder.safetensors");
  all_in("folder.safetensors");
  CHECK(has(error(), "regular file"));
  for (const char* bad : {"", "{}", "[]", "{\"weight_map\": 1}", "{\"weight_map\": {}}", "{\"weight_map\": {\"a\": 1}}",
                          "{\"weight_map\": {\"a\": \"b.safetensors\", \"a\": \"c.safetensors\"}}"}) {
    index(bad);
    CHECK_NE(error(), "");
  }
  Json json = Json::parse(good);
  json["weight_map"]["ghost"] = "model-00001-of-00002.safetensors";
  std::string first = json["weight_map"]["model.embed_tokens.weight"];
  json["weight_map"]["ghost"] = first;
  json["weight_map"].erase("model.embed_tokens.weight");
  index(json.dump());
  CHECK(has(error(), "missing: ghost (" + first + ")"));
  CHECK(has(error(), "not in the index: model.embed_tokens.weight"));
  const float x[24] = {};
  write_safetensors(folder / "twice.safetensors", std::vector{tensor_source("model.embed_tokens.weight", {6, 4}, x), tensor_source("y", {1}, x)});
  json = Json::parse(good);
  json["weight_map"]["y"] = "twice.safetensors";
  index(json.dump());
  CHECK(has(error(), "in two files: model.embed_tokens.weight"));
}

TEST_CASE("the links of a Hugging Face cache are followed") {
  Folder cache("checkpoint-cache");
  Model<float> model;
  model.number();
  const fs::path blobs = cache / "blobs", snapshot = cache / "snapshots/0123abcd";
  fs::create_directories(blobs);
  fs::create_directories(snapshot);
  Tensors(model).write(blobs);
  fs::rename(blobs / "model.safetensors", blobs / "5f8d");
  fs::create_symlink("../../blobs/5f8d", snapshot / "model.safetensors");
  Model<float> other;
  load_checkpoint(other, snapshot);
  CHECK_EQ(other.values(), model.values());
}

TEST_CASE("a file that shrinks while it is being loaded") {
  Large model;
  for (int threads : {1, 2}) {
    Folder folder("checkpoint");
    write_safetensors(folder / "model.safetensors", std::vector{tensor_source("large", {1 << 22}, model.p.value)});
    LoadOptions options;
    options.threads = threads;
    options.progress = [&](std::uint64_t, std::uint64_t) { fs::resize_file(folder / "model.safetensors", 1000); };
    CHECK(has(error_of([&] { load_checkpoint(model, folder.path, options); }), "model.safetensors: expected 16777"));
  }
}

TEST_CASE("a truncated shard") {
  Folder folder("checkpoint");
  Model<float> model;
  Tensors(model).write(folder.path);
  for (std::uintmax_t size = 0; size < fs::file_size(folder / "model.safetensors"); size += 37) {
    Folder cut("checkpoint-cut");
    fs::copy(folder / "model.safetensors", cut / "model.safetensors");
    fs::resize_file(cut / "model.safetensors", size);
    REQUIRE_NE(error_of([&] { load_checkpoint(model, cut.path); }), "");
  }
}
