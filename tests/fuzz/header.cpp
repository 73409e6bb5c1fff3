// The header of a safetensors file: any bytes are either a consistent header or an Error.
// The first two bytes of the input say how many bytes of data there are to describe.
#include <fuzz/checks.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  braid::fuzz::header({reinterpret_cast<const char*>(data), size});
  return 0;
}
