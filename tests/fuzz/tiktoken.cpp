// Fuzzes the reader of tiktoken.model, and with every vocabulary it accepts the encoder and the decoder.
#include <fuzz/tiktoken.hpp>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  braid::fuzz::tiktoken({reinterpret_cast<const char*>(data), size});
  return 0;
}
