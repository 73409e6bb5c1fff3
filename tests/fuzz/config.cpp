// config.json: any bytes are either a Config, which then survives being written and read, or an Error.
#include <fuzz/checks.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  braid::fuzz::config({reinterpret_cast<const char*>(data), size});
  return 0;
}
