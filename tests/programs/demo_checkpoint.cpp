// Writes a checkpoint directory with random weights, a tokenizer and a chat template; and beside it one of another size.
#include <braid/braid.hpp>
#include <braid/io/checkpoint.hpp>

#include <checkpoint.hpp>

#include <cstdio>
#include <filesystem>

namespace fs = std::filesystem;

constexpr braid::Config wider = [] {
  auto c = checkpoint::config;
  c.hidden = 40;
  return c;
}();

template <class Model> void save(const fs::path& directory, const fs::path& tokenizer, const fs::path& demo) {
  braid::cpu::Context cpu;
  Model model(cpu, braid::seed(1));
  fs::create_directories(directory);
  braid::SaveOptions options;
  options.tokens = braid::read_special_tokens(demo);
  braid::save_checkpoint(model, directory, options);
  for (const char* name : {"tiktoken.model", "tokenizer_config.json"})
    fs::copy_file(tokenizer / name, directory / name, fs::copy_options::overwrite_existing);
  fs::copy_file(demo / "chat_template.jinja", directory / "chat_template.jinja", fs::copy_options::overwrite_existing);
}

int main(int, char** argv) try {
  const fs::path directory = argv[1];
  save<braid::CausalLm<checkpoint::config>>(directory, argv[2], argv[3]);
  save<braid::CausalLm<wider>>(directory.parent_path() / "foreign", argv[2], argv[3]);
} catch (const std::exception& error) {
  std::fprintf(stderr, "demo_checkpoint: %s\n", error.what());
  return 1;
}
