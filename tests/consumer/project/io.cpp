#include <braid/io/json.hpp>
#include <braid/io/safetensors.hpp>
#include <braid/io/split.hpp>

#include <outside.hpp>  // from braid_add_checkpoint

#include <cstdio>

static_assert(outside::config.layers == 5 && outside::config.tied);

int main() {
  try {
    braid::io::SafetensorsFile file("no such file");
  } catch (const braid::Error& error) {
    std::puts(error.what());
    return 0;
  }
  return 1;
}
