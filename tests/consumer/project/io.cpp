#include <braid/io/json.hpp>
#include <braid/io/safetensors.hpp>
#include <braid/io/split.hpp>

#include <cstdio>

int main() {
  try {
    braid::io::SafetensorsFile file("no such file");
  } catch (const braid::Error& error) {
    std::puts(error.what());
    return 0;
  }
  return 1;
}
