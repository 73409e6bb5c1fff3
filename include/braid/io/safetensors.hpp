// safetensors files: read with conversion to the type that is asked for, written atomically.
#pragma once

#include <braid/io/atomic_file.hpp>
#include <braid/io/header.hpp>
#include <braid/io/mapped_file.hpp>

#include <memory>
#include <set>
#include <span>
#include <unordered_map>

namespace braid::io {

/// A safetensors file opened for reading. Construction reads and checks the header; data is read on demand.
class SafetensorsFile {
 public:
  /// Throws Error if the file is missing, cut short, or not a consistent safetensors file.
  explicit SafetensorsFile(const std::filesystem::path& path) : file_(path) {
    const std::uint64_t size = file_.size();
    require(size >= 8, file_.path(), "a safetensors file of at least 8 bytes", size);
    unsigned char prefix[8];
    file_.read(0, prefix, 8);
    std::uint64_t length = 0;
    for (int i = 7; i >= 0; --i) length = length << 8 | prefix[i];  // little-endian in the file
    require(length <= header_limit, file_.path(), braid::detail::text("a header of at most ", header_limit, " bytes"), length);
    require(length <= size - 8, file_.path(), braid::detail::text("a header within the file's ", size, " bytes"),
            braid::detail::text("a header length of ", length));
    std::string text(static_cast<std::size_t>(length), '\0');
    file_.read(8, text.data(), text.size());
    data_ = 8 + length;
    header_ = parse_header(text, size - data_, file_.path());
    for (std::size_t i = 0; i < header_.tensors.size(); ++i) by_name_[header_.tensors[i].name] = i;
  }

  const std::string& path() const { return file_.path(); }
  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }  ///< in the order of their data
  const Metadata& metadata() const { return header_.metadata; }
  std::uint64_t data_bytes() const { return file_.size() - data_; }

  /// The tensor called `name`, or null.
  const TensorInfo* find(const std::string& name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? nullptr : &header_.tensors[found->second];
  }
  /// The tensor called `name`; throws Error if there is none.
  const TensorInfo& at(const std::string& name) const {
    const TensorInfo* tensor = find(name);
    require(tensor != nullptr, path(), "a tensor " + name, "none");
    return *tensor;
  }

  /// Elements [first, first + count) of a tensor, converted to T. Thread-safe. Floats are read from any type, integers only from
  /// integers that fit; otherwise throws Error.
  template <class T> void read(const TensorInfo& tensor, Index first, Index count, T* to) const {
    require(readable_as<T>(tensor.type), path() + ": tensor " + tensor.name,
            braid::detail::text("a dtype that can be read as ", name_of(stored_type<T>)), name_of(tensor.type));
    require(first >= 0 && count >= 0 && first <= tensor.size() - count, path() + ": tensor " + tensor.name,
            braid::detail::text("a range within its ", tensor.size(), " elements"), braid::detail::text(first, " + ", count));
    const auto width = static_cast<std::uint64_t>(bytes_of(tensor.type));
    const std::uint64_t offset = data_ + tensor.begin + static_cast<std::uint64_t>(first) * width;
    if (tensor.type == stored_type<T> && !std::same_as<T, bool>) {
      file_.read(offset, to, static_cast<std::size_t>(count) * sizeof(T));
    } else {
      read_converted(tensor, offset, count, to);
    }
  }
  /// A whole tensor of exactly `count` elements.
  template <class T> void read(const std::string& name, T* to, Index count) const {
    const TensorInfo& tensor = at(name);
    require(tensor.size() == count, path() + ": tensor " + name, braid::detail::text(count, " elements"), shape_text(tensor.shape));
    read(tensor, 0, count, to);
  }
  /// A whole tensor.
  template <class T>
    requires(!std::same_as<T, bool>)
  std::vector<T> read(const std::string& name) const {
    std::vector<T> out(static_cast<std::size_t>(at(name).size()));
    read(name, out.data(), static_cast<Index>(out.size()));
    return out;
  }

  /// Bytes [first, first + count) of a tensor as they are stored.
  void read_bytes(const TensorInfo& tensor, std::uint64_t first, void* to, std::size_t count) const {
    const std::uint64_t bytes = tensor.end - tensor.begin;
    require(first <= bytes && count <= bytes - first, path() + ": tensor " + tensor.name,
            braid::detail::text("a range within its ", bytes, " bytes"), braid::detail::text(first, " + ", count));
    file_.read(data_ + tensor.begin + first, to, count);
  }

 private:
  template <class T> using Converter = bool (*)(const unsigned char* from, T* to, std::size_t count);
  template <class T> static Converter<T> converter(Stored from) {
    return visit_stored(from, [](auto element) -> Converter<T> {
      if constexpr (readable_as<T>(stored_type<decltype(element)>)) return convert_array<T, decltype(element)>;
      return nullptr;
    });
  }
  /// Through a block that stays in the second-level cache: smaller ones cost more calls, larger ones leave it.
  template <class T> void read_converted(const TensorInfo& tensor, std::uint64_t offset, Index count, T* to) const {
    const Index width = bytes_of(tensor.type), step = (Index{1} << 18) / width;
    const auto convert = converter<T>(tensor.type);
    const auto block = std::make_unique_for_overwrite<unsigned char[]>(static_cast<std::size_t>(std::min(step, count) * width));
    for (Index i = 0; i < count; i += step) {
      const auto n = static_cast<std::size_t>(std::min(step, count - i));
      file_.read(offset + static_cast<std::uint64_t>(i * width), block.get(), n * static_cast<std::size_t>(width));
      require(convert(block.get(), to + i, n), path() + ": tensor " + tensor.name,
              braid::detail::text("values that fit into ", name_of(stored_type<T>)), "a larger one");
    }
  }

  MappedFile file_;
  Header header_;
  std::uint64_t data_ = 0;  ///< where the data section begins
  std::unordered_map<std::string, std::size_t> by_name_;
};

/// A tensor to be written: elements of one type in memory, stored as that or another floating type.
struct TensorSource {
  std::string name;
  std::vector<Index> shape;
  const void* data = nullptr;
  Stored memory = Stored::f32;  ///< type of the elements at `data`
  Stored stored = Stored::f32;  ///< type in the file

  std::uint64_t bytes() const { return detail::checked_bytes(shape, stored, name); }
};

/// Describes `data` (which must outlive the writing) as a tensor, stored as it is.
template <class T> TensorSource tensor_source(std::string name, std::vector<Index> shape, const T* data) {
  return {std::move(name), std::move(shape), data, stored_type<T>, stored_type<T>};
}
/// As above, converted to another type when written.
template <class T> TensorSource tensor_source(std::string name, std::vector<Index> shape, const T* data, Stored stored) {
  return {std::move(name), std::move(shape), data, stored_type<T>, stored};
}

namespace detail {
template <class From, class To> void write_converted(AtomicFile& file, const void* data, Index count) {
  static_assert(std::is_trivially_copyable_v<To>);
  To block[1 << 13];
  const auto* in = static_cast<const From*>(data);
  for (Index i = 0; i < count; i += std::ssize(block)) {
    const Index n = std::min<Index>(std::ssize(block), count - i);
    for (Index j = 0; j < n; ++j) block[j] = convert<To>(in[i + j]);
    file.write(block, static_cast<std::size_t>(n) * sizeof(To));
  }
}

inline void write_data(AtomicFile& file, const TensorSource& tensor) {
  const std::uint64_t bytes = tensor.bytes();
  if (tensor.memory == tensor.stored) return file.write(tensor.data, static_cast<std::size_t>(bytes));
  require(is_float(tensor.memory) && is_float(tensor.stored), "tensor " + tensor.name, "a conversion between floating types",
          braid::detail::text(name_of(tensor.memory), " to ", name_of(tensor.stored)));
  const Index count = static_cast<Index>(bytes) / bytes_of(tensor.stored);
  visit_stored(tensor.memory, [&](auto from) {
    visit_stored(tensor.stored, [&](auto to) {
      if constexpr (is_float(stored_type<decltype(from)>) && is_float(stored_type<decltype(to)>))
        write_converted<decltype(from), decltype(to)>(file, tensor.data, count);
    });
  });
}

/// Writes a whole file, uncommitted.
inline void write_safetensors(AtomicFile& file, std::span<const TensorSource> tensors, const Metadata& metadata) {
  Header header{{}, metadata};
  std::uint64_t end = 0;
  std::set<std::string> names{"__metadata__"};
  for (const TensorSource& tensor : tensors) {
    require(names.insert(tensor.name).second, "write_safetensors", "each tensor once", tensor.name + " twice");
    header.tensors.push_back({tensor.name, tensor.stored, tensor.shape, end, end + tensor.bytes()});
    end += tensor.bytes();
  }
  const std::string text = header_text(header);
  unsigned char prefix[8];
  for (int i = 0; i < 8; ++i) prefix[i] = static_cast<unsigned char>(static_cast<std::uint64_t>(text.size()) >> (8 * i));
  file.write(prefix, 8);
  file.write(text);
  for (const TensorSource& tensor : tensors) write_data(file, tensor);
}
}  // namespace detail

/// Writes a safetensors file: under a temporary name in the same folder, synchronised, then renamed. If anything fails (a full
/// disk, for one) it throws Error and the file that was there before is untouched.
inline void write_safetensors(const std::filesystem::path& path, std::span<const TensorSource> tensors, const Metadata& metadata = {}) {
  AtomicFile file(path);
  detail::write_safetensors(file, tensors, metadata);
  file.commit();
}

}  // namespace braid::io
