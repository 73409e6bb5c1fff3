// The header of a checkpoint's Config: written by CMake and by the tool alike, and it compiles to what config.json says.
#include <small_checkpoint.hpp>

#include <braid/io/config_json.hpp>

#include <doctest/doctest.h>

#include <cstdlib>

#include <sys/wait.h>

static_assert(small_checkpoint::config.layers == 5 && small_checkpoint::config.is_full(1) && !small_checkpoint::config.is_full(2));

namespace {
int run(const std::string& arguments) {
  const int status = std::system((std::string("\"") + BRAID_CONFIG_TOOL + "\" " + arguments).c_str());
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}
}  // namespace

TEST_CASE("the header is the Config of config.json") {
  CHECK(small_checkpoint::config == braid::read_config(BRAID_TEST_DATA "/checkpoint"));
}

TEST_CASE("CMake and the tool write the same") {
  const auto path = std::filesystem::temp_directory_path() / ("braid-config-" + std::to_string(::getpid()) + ".hpp");
  CHECK_EQ(run(BRAID_TEST_DATA "/checkpoint --name small_checkpoint --output " + path.string()), 0);
  CHECK_EQ(braid::io::read_text(path), braid::io::read_text(CONFIGURED_HEADER));
  const auto before = std::filesystem::last_write_time(path);
  CHECK_EQ(run(BRAID_TEST_DATA "/checkpoint --name small_checkpoint --output " + path.string()), 0);
  CHECK(std::filesystem::last_write_time(path) == before);  // not written again
  std::filesystem::remove(path);
}

TEST_CASE("exit codes of the tool") {
  CHECK_EQ(run("--help > /dev/null"), 0);
  CHECK_EQ(run("/no/such/folder 2> /dev/null"), 1);
  CHECK_EQ(run(BRAID_TEST_DATA "/checkpoint --name 3x 2> /dev/null"), 1);
  CHECK_EQ(run("2> /dev/null"), 2);
  CHECK_EQ(run("a b 2> /dev/null"), 2);
  CHECK_EQ(run("--name 2> /dev/null"), 2);
  CHECK_EQ(run("--wrong 2> /dev/null"), 2);
}
