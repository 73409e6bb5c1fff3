// The weights of a checkpoint directory: model.safetensors, or the shards that model.safetensors.index.json names.
#pragma once

#include <braid/io/safetensors.hpp>

#include <deque>
#include <iomanip>

namespace braid::io {

inline constexpr const char* single_file_name = "model.safetensors";
inline constexpr const char* index_file_name = "model.safetensors.index.json";

/// Which file holds which tensor.
using WeightMap = std::map<std::string, std::string>;

/// Parses an index. Throws Error unless every file is a plain name ending in .safetensors: an index comes from outside and must
/// not lead to other folders.
inline WeightMap parse_index(std::string_view text, const std::string& where) {
  const Json json = parse_json_object(text, where);
  const auto map = json.find("weight_map");
  require(map != json.end() && map->is_object() && !map->empty(), where, "a weight_map that names files", "none");
  WeightMap out;
  for (const auto& [tensor, file] : map->items()) {
    require(file.is_string(), where + ": " + tensor, "the name of a file", file.type_name());
    const auto& name = file.get_ref<const std::string&>();
    const bool plain = name.find_first_of("/\\") == name.npos && name.front() != '.' && name.ends_with(".safetensors");
    require(plain, where + ": " + tensor, "a file name ending in .safetensors, without folders", "\"" + name + "\"");
    out[tensor] = name;
  }
  return out;
}

namespace detail {
/// Throws Error if `file` is a link that leads out of its directory. Links into the blobs of a Hugging Face cache are fine:
/// there a checkpoint's directory is models--NAME/snapshots/REVISION and its files are links to models--NAME/blobs.
inline void check_link(const std::filesystem::path& directory, const std::string& file) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::path path = directory / file, home = fs::canonical(directory), target = fs::canonical(path, error);
  require(!error, path.string(), "a file that exists", error.message());
  const fs::path blobs = home.parent_path().filename() == "snapshots" ? home.parent_path().parent_path() / "blobs" : home;
  require(target.parent_path() == home || target.parent_path() == blobs, path.string(), "a file within its directory",
          "a link to " + target.string());
}
}  // namespace detail

/// All tensors of a directory, by name.
class WeightFiles {
 public:
  struct Entry {
    const SafetensorsFile* file;
    const TensorInfo* tensor;
  };

  /// Opens and checks every file. Throws one Error that lists all tensors that the index and the files disagree about.
  explicit WeightFiles(const std::filesystem::path& directory) : where_(directory.string()) {
    namespace fs = std::filesystem;
    require(fs::is_directory(directory), where_, "a directory", fs::exists(directory) ? "a file" : "nothing");
    if (fs::exists(directory / single_file_name)) {
      open(directory, single_file_name);
    } else {
      require(fs::exists(directory / index_file_name), where_,
              braid::detail::text(single_file_name, " or ", index_file_name), "neither");
      const fs::path index = directory / index_file_name;
      open_shards(directory, parse_index(read_text(index), index.string()), index.string());
    }
  }

  const std::string& where() const { return where_; }
  const std::map<std::string, Entry>& tensors() const { return tensors_; }
  const std::deque<SafetensorsFile>& files() const { return files_; }

 private:
  SafetensorsFile& open(const std::filesystem::path& directory, const std::string& name) {
    detail::check_link(directory, name);
    SafetensorsFile& file = files_.emplace_back(directory / name);
    for (const TensorInfo& tensor : file.tensors()) {
      if (!tensors_.emplace(tensor.name, Entry{&file, &tensor}).second) duplicates_ += " " + tensor.name;
    }
    return file;
  }

  void open_shards(const std::filesystem::path& directory, const WeightMap& map, const std::string& index) {
    std::map<std::string, const SafetensorsFile*> opened;
    for (const auto& [tensor, name] : map)
      if (!opened.count(name)) opened[name] = &open(directory, name);
    std::string missing, unexpected;
    for (const auto& [tensor, name] : map)
      if (!opened[name]->find(tensor)) missing += " " + tensor + " (" + name + ")";
    for (const auto& [name, entry] : tensors_)
      if (!map.count(name)) unexpected += " " + name;
    require((missing + unexpected + duplicates_).empty(), index, "the tensors that its files hold",
            (missing.empty() ? "" : "missing:" + missing + "; ") + (unexpected.empty() ? "" : "not in the index:" + unexpected + "; ") +
                (duplicates_.empty() ? "" : "in two files:" + duplicates_ + "; "));
  }

  std::string where_, duplicates_;
  std::deque<SafetensorsFile> files_;  // a deque: entries point into it
  std::map<std::string, Entry> tensors_;
};

namespace detail {
/// Consecutive tensors per shard, none above `limit` bytes unless a single tensor is.
inline std::vector<std::span<const TensorSource>> split_shards(std::span<const TensorSource> tensors, std::uint64_t limit) {
  std::vector<std::span<const TensorSource>> shards;
  std::size_t first = 0;
  std::uint64_t bytes = 0;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const std::uint64_t size = tensors[i].bytes();
    if (i > first && (size > limit || bytes > limit - size)) {
      shards.push_back(tensors.subspan(first, i - first));
      first = i;
      bytes = 0;
    }
    bytes += size;
  }
  shards.push_back(tensors.subspan(first));
  return shards;
}

inline std::string shard_name(std::size_t shard, std::size_t count) {
  std::ostringstream name;
  name << "model-" << std::setfill('0') << std::setw(5) << shard + 1 << "-of-" << std::setw(5) << count << ".safetensors";
  return name.str();
}

/// Removes the weights of an earlier save that the files `keep` do not replace.
inline void remove_stale(const std::filesystem::path& directory, const std::set<std::string>& keep) {
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const std::string name = entry.path().filename().string();
    const bool weights = name == single_file_name || name == index_file_name ||
                         (name.starts_with("model-") && name.find("-of-") != name.npos && name.ends_with(".safetensors"));
    if (weights && !keep.count(name)) std::filesystem::remove(entry.path());
  }
}
}  // namespace detail

/// Writes tensors into `directory` (made if need be): one file, or shards of at most `shard_bytes` of data with an index, which
/// replace the weights that were there. Everything is written and synchronised under temporary names before the first rename, so a
/// full disk loses nothing.
inline void write_weights(const std::filesystem::path& directory, std::span<const TensorSource> tensors, std::uint64_t shard_bytes,
                          const Metadata& metadata = {{"format", "pt"}}) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  require(!error, "write_weights", "a folder that can be made", directory.string() + ": " + error.message());
  const auto shards = detail::split_shards(tensors, shard_bytes);
  std::deque<AtomicFile> files;
  std::set<std::string> names;
  WeightMap map;
  std::uint64_t total = 0;
  for (std::size_t s = 0; s < shards.size(); ++s) {
    const std::string name = shards.size() == 1 ? single_file_name : detail::shard_name(s, shards.size());
    names.insert(name);
    files.emplace_back(directory / name);
    detail::write_safetensors(files.back(), shards[s], metadata);
    files.back().sync();
    for (const TensorSource& tensor : shards[s]) {
      require(map.emplace(tensor.name, name).second, "write_weights", "each tensor once", tensor.name + " twice");
      total += tensor.bytes();
    }
  }
  if (shards.size() > 1) {
    names.insert(index_file_name);
    files.emplace_back(directory / index_file_name);
    files.back().write(nlohmann::ordered_json{{"metadata", {{"total_size", total}}}, {"weight_map", map}}.dump(2) + "\n");
    files.back().sync();
  }
  for (AtomicFile& file : files) file.commit();
  detail::remove_stale(directory, names);
}

}  // namespace braid::io
