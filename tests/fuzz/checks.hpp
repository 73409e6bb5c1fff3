// What the fuzz programs do with one input, shared with the test that runs their corpora.
#pragma once

#include <braid/io/config_json.hpp>
#include <braid/io/index.hpp>
#include <braid/io/names.hpp>

#include <cstdlib>

namespace braid::fuzz {

inline void must(bool condition) {
  if (!condition) std::abort();
}

/// Bytes 0 and 1: the number of bytes of data; the rest: the header's text. Returns whether it was accepted.
inline bool header(std::string_view input) {
  if (input.size() < 2) return false;
  const std::uint64_t bytes = static_cast<unsigned char>(input[0]) | static_cast<unsigned char>(input[1]) << 8;
  io::Header header;
  try {
    header = io::parse_header(input.substr(2), bytes, "fuzz");
  } catch (const Error&) {
    return false;
  }
  std::uint64_t end = 0;
  for (const io::TensorInfo& tensor : header.tensors) {
    must(tensor.begin == end && tensor.end >= tensor.begin);
    end = tensor.end;
    Index size = 1;
    for (Index extent : tensor.shape) size *= extent;
    must(size == tensor.size());
    Index next = 0;
    for (const io::Piece& piece : io::pieces(tensor.name, tensor.shape)) {
      must(piece.first == next && piece.count >= 0);
      next += piece.count;
    }
    must(next == size);
  }
  must(end == bytes);
  const io::Header again = io::parse_header(io::header_text(header), bytes, "again");
  must(again.metadata == header.metadata && again.tensors.size() == header.tensors.size());
  return true;
}

inline bool config(std::string_view input) {
  Config c;
  try {
    c = config_from_json(input);
  } catch (const Error&) {
    return false;
  }
  must(count_parameters(c).total > 0 && count_parameters(c).activated <= count_parameters(c).total + Index{c.vocab} * c.hidden);
  must(config_differences(c, config_from_json(config_to_json(c))).empty());
  must(!config_header(c, "name").empty());
  return true;
}

inline bool index(std::string_view input) {
  try {
    for (const auto& [tensor, file] : io::parse_index(input, "fuzz")) {
      must(file.find_first_of("/\\") == file.npos && file[0] != '.' && file.ends_with(".safetensors"));
      for (const std::vector<Index>& shape : {std::vector<Index>{6, 4, 1}, {3}, {}, {2, 6, 4}}) {
        Index next = 0, size = 1;
        for (Index extent : shape) size *= extent;
        for (const io::Piece& piece : io::pieces(tensor, shape)) {
          must(piece.first == next);
          next += piece.count;
        }
        must(next == size);
      }
    }
  } catch (const Error&) {
    return false;
  }
  return true;
}

}  // namespace braid::fuzz
