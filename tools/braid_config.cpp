// Writes the C++ header of a checkpoint's Config: what braid_add_checkpoint does in CMake, for everybody else.
#include <braid/io/config_json.hpp>

#include <iostream>

namespace {

constexpr const char* usage =
    "usage: braid_config DIRECTORY [--name NAME] [--output FILE]\n"
    "\n"
    "Reads DIRECTORY/config.json and writes a C++ header that defines NAME::config, a constexpr braid::Config:\n"
    "\n"
    "  braid_config Kimi-Linear-48B-A3B-Instruct --name kimi --output kimi.hpp\n"
    "\n"
    "  #include <kimi.hpp>\n"
    "  using Model = braid::CausalLm<kimi::config>;\n"
    "\n"
    "  --name NAME    namespace of the header (default: checkpoint)\n"
    "  --output FILE  where to write (default: standard output); left alone if it says the same already\n"
    "\n"
    "Exit codes: 0 written, 1 the directory or its config.json cannot be used, 2 wrong arguments.\n";

int fail(const std::string& message) {
  std::cerr << "braid_config: " << message << "\n\n" << usage;
  return 2;
}

/// Writes only what changed, so that nothing is compiled again for nothing.
void write_if_different(const std::filesystem::path& path, const std::string& text) {
  if (std::filesystem::exists(path) && std::filesystem::file_size(path) == text.size() && braid::io::read_text(path) == text) return;
  braid::io::write_text(path, text);
}

}  // namespace

int main(int count, char** arguments) {
  std::string directory, name = "checkpoint", output;
  for (int i = 1; i < count; ++i) {
    const std::string argument = arguments[i];
    if (argument == "--help" || argument == "-h") {
      std::cout << usage;
      return 0;
    }
    if (argument == "--name" || argument == "--output") {
      if (++i == count) return fail(argument + " needs a value");
      (argument == "--name" ? name : output) = arguments[i];
    } else if (argument.starts_with("-") || !directory.empty()) {
      return fail("unknown argument " + argument);
    } else {
      directory = argument;
    }
  }
  if (directory.empty()) return fail("no directory");
  try {
    const std::string header = braid::config_header(braid::read_config(directory), name);
    if (output.empty()) std::cout << header;
    else write_if_different(output, header);
  } catch (const std::exception& error) {
    std::cerr << "braid_config: " << error.what() << "\n";
    return 1;
  }
}
