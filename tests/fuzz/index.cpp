// model.safetensors.index.json, and the names in it: no file outside the directory, no piece outside its tensor.
#include <fuzz/checks.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  braid::fuzz::index({reinterpret_cast<const char*>(data), size});
  return 0;
}
