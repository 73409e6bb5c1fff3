// Checkpoints of a training run: everything that the next step depends on, in one safetensors file.
//
// Parameters have their own (published) names, so that whatever reads a model's weights reads a checkpoint too; beside them lie
// `optimizer.first.NAME` and `optimizer.second.NAME`. The metadata holds the step. It is also the position of the data and of
// every random number, since those are functions of (seed, step) alone (train/data.hpp).
#pragma once

#include <braid/io/safetensors.hpp>
#include <braid/train/optimizer.hpp>

#include <charconv>
#include <filesystem>

namespace braid {

namespace detail {
inline constexpr std::string_view checkpoint_format = "braid.training.1";

/// Calls f(name, shape, View<T, 1>) for every array of a checkpoint.
template <class T, class F> void for_each_array(const Optimizer<T>& optimizer, F&& f) {
  for (const auto& slot : optimizer.slots()) {
    f(slot.name, slot.shape, slot.value);
    if (slot.first) f("optimizer.first." + slot.name, slot.shape, slot.first);
    if (slot.second) f("optimizer.second." + slot.name, slot.shape, slot.second);
  }
}
}  // namespace detail

/// Writes parameters and optimiser state, all in host memory: to a temporary name, synchronised, then renamed. Throws Error if
/// that fails, a full disk for example; the file that was there before is then untouched. `notes` are kept in the metadata.
template <class T>
void save_checkpoint(const std::filesystem::path& path, const Optimizer<T>& optimizer, io::Metadata notes = {}) {
  std::vector<io::TensorSource> tensors;
  detail::for_each_array(optimizer, [&](const std::string& name, const std::vector<Index>& shape, View<T, 1> array) {
    tensors.push_back(io::tensor_source(name, shape, array.data));
  });
  notes["format"] = detail::checkpoint_format;
  notes["step"] = std::to_string(optimizer.steps);
  io::write_safetensors(path, tensors, notes);
}

/// Restores what `save_checkpoint` wrote, bit by bit, and returns the notes. Throws Error if the file is cut short, is no
/// checkpoint, or is one of another model or optimiser; model and optimiser are then as they were.
template <class T> io::Metadata load_checkpoint(const std::filesystem::path& path, Optimizer<T>& optimizer) {
  const io::SafetensorsFile file(path);
  auto notes = file.metadata();
  require(notes["format"] == detail::checkpoint_format, file.path(), detail::text("a training checkpoint, format ", detail::checkpoint_format),
          notes["format"].empty() ? "a file without that mark" : "format " + notes["format"]);
  const std::string& digits = notes["step"];
  Index step = -1;
  const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), step);
  require(parsed.ec == std::errc{} && parsed.ptr == digits.data() + digits.size() && step >= 0, file.path(), "a step >= 0", digits);

  std::size_t arrays = 0;
  detail::for_each_array(optimizer, [&](const std::string& name, const std::vector<Index>& shape, View<T, 1>) {
    const io::TensorInfo& found = file.at(name);
    const std::string where = file.path() + ": tensor " + name;
    require(found.shape == shape, where, "shape " + io::shape_text(shape), io::shape_text(found.shape));
    require(found.type == io::stored_type<T>, where, io::name_of(io::stored_type<T>), io::name_of(found.type));
    ++arrays;
  });
  require(file.tensors().size() == arrays, file.path(), detail::text(arrays, " tensors"), file.tensors().size());
  detail::for_each_array(optimizer, [&](const std::string& name, const std::vector<Index>&, View<T, 1> array) {
    file.read(name, array.data, array.size());
  });
  optimizer.steps = step;
  return notes;
}

}  // namespace braid
