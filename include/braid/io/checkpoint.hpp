// A checkpoint directory into a model, and a model into a checkpoint directory.
#pragma once

#include <braid/core/param.hpp>
#include <braid/cpu/parallel.hpp>
#include <braid/io/config_json.hpp>
#include <braid/io/index.hpp>
#include <braid/io/names.hpp>

#include <functional>
#include <mutex>

namespace braid {

struct LoadOptions {
  /// Called now and then with the bytes read so far and in all; never by two threads at a time.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress;
  bool check_config = true;       ///< config.json must describe the model's type
  bool allow_non_finite = false;  ///< NaN and infinite weights are accepted
  int threads = 0;                ///< 0: as many as this process may use
};

struct SaveOptions {
  std::optional<DType> stored;  ///< dtype of the weights; default: the model's. A_log, dt_bias and biases of routers are never 16-bit
  std::uint64_t shard_bytes = std::uint64_t{5} << 30;  ///< most data per file
  SpecialTokens tokens;                                ///< written to config.json
};

namespace io {

/// A parameter of a model, or a part of one, as `load_weights` and `save_weights` see it.
template <class T> struct NamedArray {
  std::string name;
  std::vector<Index> shape;
  T* value;
};

namespace detail {

/// A run of elements to be read.
template <class T> struct Transfer {
  WeightFiles::Entry from;
  Index first, count;
  T* to;
  std::uint64_t bytes() const { return static_cast<std::uint64_t>(count) * static_cast<std::uint64_t>(bytes_of(from.tensor->type)); }
};

struct StoredPiece {
  WeightFiles::Entry entry;
  Piece piece;
  bool used = false;
};

/// What is wrong with a checkpoint, tensor by tensor, for one Error.
struct Complaints {
  std::string missing, unexpected, duplicate, shape;
  static void add(std::string& list, const std::string& item) { list += (list.empty() ? "" : ", ") + item; }
  void check(const std::string& where) const {
    std::string found;
    const auto part = [&](const char* title, const std::string& list) {
      if (!list.empty()) found += (found.empty() ? "" : "; ") + std::string(title) + ": " + list;
    };
    part("missing", missing);
    part("unexpected", unexpected);
    part("more than once", duplicate);
    part("wrong dtype or shape", shape);
    require(found.empty(), where, "exactly the model's tensors", found);
  }
};

using StoredPieces = std::map<std::string, StoredPiece>;

inline StoredPieces stored_pieces(const WeightFiles& files, Complaints& complaints) {
  StoredPieces out;
  for (const auto& [name, entry] : files.tensors()) {
    if (is_ignored(name)) continue;
    for (Piece& piece : pieces(name, entry.tensor->shape)) {
      const std::string key = piece.name;
      const auto [at, fresh] = out.emplace(key, StoredPiece{entry, std::move(piece)});
      if (!fresh) Complaints::add(complaints.duplicate, name + " and " + at->second.entry.tensor->name);
    }
  }
  return out;
}

/// True if two stored tensors hold the same bytes.
inline bool same_data(const WeightFiles::Entry& a, const WeightFiles::Entry& b) {
  if (a.tensor->type != b.tensor->type || a.tensor->shape != b.tensor->shape) return false;
  constexpr std::uint64_t step = 1 << 20;
  const std::uint64_t bytes = a.tensor->end - a.tensor->begin;
  std::vector<unsigned char> block_a(step), block_b(step);
  for (std::uint64_t i = 0; i < bytes; i += step) {
    const auto n = static_cast<std::size_t>(std::min(step, bytes - i));
    a.file->read_bytes(*a.tensor, i, block_a.data(), n);
    b.file->read_bytes(*b.tensor, i, block_b.data(), n);
    if (std::memcmp(block_a.data(), block_b.data(), n) != 0) return false;
  }
  return true;
}

/// A tied model's checkpoint may repeat the embedding as the head.
inline void accept_tied_head(StoredPieces& stored, Complaints& complaints) {
  const auto head = stored.find("lm_head.weight"), embedding = stored.find("embed_tokens.weight");
  if (head == stored.end() || embedding == stored.end() || head->second.used) return;
  head->second.used = true;
  if (!same_data(head->second.entry, embedding->second.entry))
    Complaints::add(complaints.unexpected, head->second.entry.tensor->name + " (differs from the embedding it is tied to)");
}

/// Matches the model's tensors with the stored ones. Throws one Error that lists all that do not fit.
template <class T>
std::vector<Transfer<T>> match(const std::vector<NamedArray<T>>& arrays, const WeightFiles& files, bool tied) {
  Complaints complaints;
  StoredPieces stored = stored_pieces(files, complaints);
  std::vector<Transfer<T>> transfers;
  for (const NamedArray<T>& array : arrays) {
    for (const Piece& piece : pieces(array.name, array.shape)) {
      const auto found = stored.find(piece.name);
      if (found == stored.end()) {
        Complaints::add(complaints.missing, pieces(array.name, array.shape).size() > 1 ? array.name + " (" + piece.name + ")" : array.name);
        continue;
      }
      StoredPiece& source = found->second;
      source.used = true;
      const Stored type = source.entry.tensor->type;
      if (source.piece.shape != piece.shape || !readable_as<T>(type) || is_float(type) != std::floating_point<T>)
        Complaints::add(complaints.shape, source.entry.tensor->name + " " + std::string(name_of(type)) + " " +
                                              shape_text(source.entry.tensor->shape) + " for " + shape_text(array.shape));
      else
        transfers.push_back({source.entry, source.piece.first, piece.count, array.value + piece.first});
    }
  }
  if (tied) accept_tied_head(stored, complaints);
  std::set<std::string> unused;
  for (const auto& [name, source] : stored)
    if (!source.used) unused.insert(source.entry.tensor->name);
  for (const std::string& name : unused) Complaints::add(complaints.unexpected, name);
  complaints.check(files.where());
  return transfers;
}

/// Cuts long runs into blocks that stay in the cache between being read and being checked, in the order of the files.
template <class T> std::vector<Transfer<T>> blocks(const std::vector<Transfer<T>>& transfers) {
  constexpr Index step = 1 << 17;
  std::vector<Transfer<T>> out;
  for (const Transfer<T>& t : transfers)
    for (Index i = 0; i < t.count; i += step) out.push_back({t.from, t.first + i, std::min(step, t.count - i), t.to + i});
  std::sort(out.begin(), out.end(), [](const Transfer<T>& a, const Transfer<T>& b) {
    if (a.from.file != b.from.file) return a.from.file->path() < b.from.file->path();
    if (a.from.tensor != b.from.tensor) return a.from.tensor->begin < b.from.tensor->begin;
    return a.first < b.first;
  });
  return out;
}

/// Reads the blocks on all threads; returns the names of tensors that hold NaN or infinite values.
template <class T> std::set<std::string> run(const std::vector<Transfer<T>>& work, const LoadOptions& options) {
  std::uint64_t total = 0, done = 0, reported = 0;
  for (const auto& block : work) total += block.bytes();
  std::set<std::string> bad;
  std::mutex mutex;
  const cpu::Context context(options.threads);
  cpu::parallel_for(context, static_cast<Index>(work.size()), [&](Index i) {
    const Transfer<T>& block = work[static_cast<std::size_t>(i)];
    block.from.file->read(*block.from.tensor, block.first, block.count, block.to);
    const bool finite = all_finite(block.to, static_cast<std::size_t>(block.count));
    const std::lock_guard lock(mutex);
    if (!finite) bad.insert(block.from.tensor->name);
    done += block.bytes();
    if (options.progress && (done - reported >= total / 256 || done == total)) options.progress(reported = done, total);
  });
  return bad;
}

}  // namespace detail

/// Fills `arrays` from the tensors of a directory, converting to T. Throws one Error that lists every tensor that is missing,
/// unexpected, there twice, of the wrong dtype or shape, or (after reading) not finite.
template <class T>
BRAID_NOINLINE void load_weights(const std::vector<NamedArray<T>>& arrays, const std::filesystem::path& directory, bool tied,
                                 const LoadOptions& options) {
  const WeightFiles files(directory);
  const std::set<std::string> bad = detail::run(detail::blocks(detail::match(arrays, files, tied)), options);
  std::string names;
  for (const std::string& name : bad) names += (names.empty() ? "" : ", ") + name;
  require(bad.empty() || options.allow_non_finite, files.where(), "finite weights", "NaN or infinity in " + names);
}

/// Writes `arrays` under published names.
template <class T>
BRAID_NOINLINE void save_weights(const std::vector<NamedArray<T>>& arrays, const std::filesystem::path& directory, Stored stored,
                                 std::uint64_t shard_bytes) {
  std::vector<TensorSource> sources;
  for (const NamedArray<T>& array : arrays) {
    const bool wide = array.name.ends_with("A_log") || array.name.ends_with("dt_bias") || array.name.ends_with("correction_bias");
    const Stored type = wide && bytes_of(stored) == 2 ? Stored::f32 : stored;
    sources.push_back(tensor_source(array.name, array.shape, array.value, type));
  }
  write_weights(directory, sources, shard_bytes);
}

namespace detail {
template <class T, class Model> std::vector<NamedArray<T>> named_arrays(Model& model) {
  std::vector<NamedArray<T>> out;
  for_each_param(model, [&](const std::string& name, Param<T>& p) { out.push_back({name, p.shape, p.value}); });
  return out;
}
template <class Model> constexpr bool is_tied() {
  if constexpr (requires { Model::config.tied; }) return Model::config.tied;
  else return false;
}
}  // namespace detail
}  // namespace io

/// Loads a checkpoint directory into a model in host memory: weights of any floating dtype, one file or shards, under any of the
/// names in io/names.hpp. Throws Error if config.json describes another model (naming every field), and one Error that lists all
/// tensors that are missing, unexpected, there twice, wrongly shaped or not finite; the parameters are then unspecified.
///
///   Model model(cpu);
///   braid::load_checkpoint(model, "Kimi-Linear-48B-A3B-Instruct");
template <class Model> void load_checkpoint(Model& model, const std::filesystem::path& directory, const LoadOptions& options = {}) {
  if constexpr (requires { Model::config.layers; }) {
    if (options.check_config) check_config_matches(Model::config, directory);
  }
  using T = typename Model::T;
  io::load_weights(io::detail::named_arrays<T>(model), directory, io::detail::is_tied<Model>(), options);
}

/// Saves a model as a checkpoint directory that transformers loads: config.json and weights under published names, in shards with
/// an index if they are large. Weights that were there are replaced once everything is written; a full disk loses nothing.
template <class Model> void save_checkpoint(Model& model, const std::filesystem::path& directory, const SaveOptions& options = {}) {
  const DType stored = options.stored.value_or(Model::config.dtype);
  using T = typename Model::T;
  auto arrays = io::detail::named_arrays<T>(model);
  if constexpr (io::detail::is_tied<Model>()) {  // transformers' kimi_linear does not tie by itself: it needs the head as well
    const auto embedding = std::find_if(arrays.begin(), arrays.end(), [](const auto& a) { return a.name.ends_with("embed_tokens.weight"); });
    if (embedding != arrays.end()) arrays.push_back({"lm_head.weight", embedding->shape, embedding->value});
  }
  io::save_weights(arrays, directory, io::stored_of(stored), options.shard_bytes);
  io::write_text(directory / "config.json", config_to_json(Model::config, options.tokens, stored));
}

}  // namespace braid
