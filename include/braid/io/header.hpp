// The header of a safetensors file: which tensors it holds, and where. Everything in it is checked before it is believed.
#pragma once

#include <braid/io/dtype.hpp>
#include <braid/io/json.hpp>

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace braid::io {

using Metadata = std::map<std::string, std::string>;

/// One tensor of a file.
struct TensorInfo {
  std::string name;
  Stored type = Stored::f32;
  std::vector<Index> shape;
  std::uint64_t begin = 0, end = 0;  ///< bytes, from the start of the data section

  Index size() const { return static_cast<Index>((end - begin) / static_cast<std::uint64_t>(bytes_of(type))); }
};

struct Header {
  std::vector<TensorInfo> tensors;  ///< in the order of their data
  Metadata metadata;
};

/// The longest header that is read, as in the reference implementation.
inline constexpr std::uint64_t header_limit = 100'000'000;

/// A shape as text, "[2, 3]".
inline std::string shape_text(const std::vector<Index>& shape) {
  std::string out = "[";
  for (std::size_t d = 0; d < shape.size(); ++d) out += (d ? ", " : "") + std::to_string(shape[d]);
  return out + "]";
}

namespace detail {
inline std::uint64_t unsigned_number(const Json& json, const std::string& where, std::string_view what) {
  require(json.is_number_unsigned(), where, braid::detail::text(what, " that are whole numbers >= 0 below 2^64"),
          json.dump(-1, ' ', true, Json::error_handler_t::replace));
  return json.get<std::uint64_t>();
}

/// Bytes of a tensor; throws if they do not fit into a signed 64-bit number.
inline std::uint64_t checked_bytes(const std::vector<Index>& shape, Stored type, const std::string& where) {
  constexpr std::uint64_t limit = std::numeric_limits<Index>::max();
  std::uint64_t bytes = static_cast<std::uint64_t>(bytes_of(type));
  for (Index extent : shape) {
    const auto factor = static_cast<std::uint64_t>(extent);
    require(factor == 0 || bytes <= limit / factor, where, "a size below 2^63 bytes", shape_text(shape));
    bytes *= factor;
  }
  return bytes;
}

inline TensorInfo parse_tensor(const std::string& name, const Json& json, std::uint64_t data_bytes, const std::string& file) {
  const std::string where = file + ": tensor " + name;
  require(json.is_object() && json.size() == 3 && json.contains("dtype") && json.contains("shape") && json.contains("data_offsets"),
          where, "dtype, shape and data_offsets", json.type_name());
  TensorInfo tensor{name, Stored::f32, {}, 0, 0};
  const Json &dtype = json["dtype"], &shape = json["shape"], &offsets = json["data_offsets"];
  require(dtype.is_string() && find_stored(dtype.get_ref<const std::string&>(), tensor.type), where,
          "a dtype of BOOL, U8 to U64, I8 to I64, F16, BF16, F32, F64", dtype.dump(-1, ' ', true, Json::error_handler_t::replace));
  require(shape.is_array() && shape.size() <= 16, where, "a shape of at most 16 extents", shape.type_name());
  for (const Json& extent : shape) {
    const std::uint64_t value = unsigned_number(extent, where, "extents");
    require(value <= static_cast<std::uint64_t>(std::numeric_limits<Index>::max()), where, "extents below 2^63", value);
    tensor.shape.push_back(static_cast<Index>(value));
  }
  require(offsets.is_array() && offsets.size() == 2, where, "two data_offsets", offsets.type_name());
  tensor.begin = unsigned_number(offsets[0], where, "data_offsets");
  tensor.end = unsigned_number(offsets[1], where, "data_offsets");
  require(tensor.begin <= tensor.end && tensor.end <= data_bytes, where,
          braid::detail::text("data_offsets that ascend within the file's ", data_bytes, " bytes of data"),
          braid::detail::text("[", tensor.begin, ", ", tensor.end, "]"));
  const std::uint64_t bytes = checked_bytes(tensor.shape, tensor.type, where);
  require(bytes == tensor.end - tensor.begin, where,
          braid::detail::text(bytes, " bytes for ", name_of(tensor.type), " ", shape_text(tensor.shape)), tensor.end - tensor.begin);
  return tensor;
}
}  // namespace detail

/// Parses the JSON header of a file that has `data_bytes` bytes after it. Throws Error unless it is complete and consistent: known
/// dtypes, each name once, offsets that match the shapes and tile the data exactly, without holes, overlap or rest.
inline Header parse_header(std::string_view text, std::uint64_t data_bytes, const std::string& file) {
  require(!text.empty() && text.front() == '{', file, "a safetensors header that begins with {", "something else");
  const Json json = parse_json_object(text, file + ": header");
  Header header;
  for (const auto& [name, value] : json.items()) {
    if (name == "__metadata__") {
      require(value.is_object(), file, "__metadata__ that is an object", value.type_name());
      for (const auto& [key, entry] : value.items()) {
        require(entry.is_string(), file, "__metadata__ of strings", entry.type_name());
        header.metadata[key] = entry.get<std::string>();
      }
    } else {
      header.tensors.push_back(detail::parse_tensor(name, value, data_bytes, file));
    }
  }
  std::sort(header.tensors.begin(), header.tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  std::uint64_t end = 0;
  for (const TensorInfo& tensor : header.tensors) {
    require(tensor.begin == end, file + ": tensor " + tensor.name,
            braid::detail::text("data that begins at ", end, ", where the tensor before it ends"), tensor.begin);
    end = tensor.end;
  }
  require(end == data_bytes, file, braid::detail::text(end, " bytes of data, the end of the last tensor"), data_bytes);
  return header;
}

/// The header's JSON text for tensors whose offsets are set, padded with spaces to a multiple of 8 bytes. Throws Error for names or
/// metadata that are not UTF-8.
inline std::string header_text(const Header& header) {
  Json json = Json::object();
  if (!header.metadata.empty()) json["__metadata__"] = header.metadata;
  for (const TensorInfo& tensor : header.tensors)
    json[tensor.name] = {{"dtype", name_of(tensor.type)}, {"shape", tensor.shape}, {"data_offsets", {tensor.begin, tensor.end}}};
  std::string text;
  try {
    text = json.dump();
  } catch (const Json::exception& error) {
    throw Error("safetensors header", "names and metadata in UTF-8", error.what());
  }
  text.resize((text.size() + 7) / 8 * 8, ' ');
  return text;
}

}  // namespace braid::io
