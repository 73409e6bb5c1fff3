// Ctrl-C while generate and chat are at work: generate ends with its figures, chat's turn ends and the session goes on.
// Usage: interrupt <generate> <chat> <checkpoint directory>. Says what went wrong, and exits with 1, if something did.
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include <sys/wait.h>
#include <unistd.h>

namespace {

[[noreturn]] void fail(const std::string& what) {
  std::fprintf(stderr, "interrupt: %s\n", what.c_str());
  std::exit(1);
}

/// A program whose input is written and whose output (both streams) is read here.
class Program {
 public:
  explicit Program(std::vector<std::string> arguments) {
    int in[2], out[2];
    if (::pipe(in) != 0 || ::pipe(out) != 0 || (child_ = ::fork()) < 0) fail("no process");
    if (child_ == 0) {
      ::dup2(in[0], STDIN_FILENO);
      ::dup2(out[1], STDOUT_FILENO);
      ::dup2(out[1], STDERR_FILENO);
      for (int end : {in[0], in[1], out[0], out[1]}) ::close(end);
      std::vector<char*> argv;
      for (std::string& argument : arguments) argv.push_back(argument.data());
      argv.push_back(nullptr);
      ::execv(argv[0], argv.data());
      std::_Exit(127);
    }
    ::close(in[0]);
    ::close(out[1]);
    to_ = in[1];
    from_ = out[0];
  }
  void write(const std::string& text) {
    if (::write(to_, text.data(), text.size()) != static_cast<ssize_t>(text.size())) fail("the program reads no more");
  }
  void interrupt() { ::kill(child_, SIGINT); }
  /// Reads until `text` has appeared; returns what came before it.
  std::string until(const std::string& text) {
    while (seen_.find(text) == seen_.npos)
      if (!more()) fail("no \"" + text + "\" in: " + seen_.substr(0, 2000));
    const auto at = seen_.find(text);
    std::string before = seen_.substr(0, at);
    seen_.erase(0, at + text.size());
    return before;
  }
  /// Reads until something has appeared.
  void until_any() {
    while (seen_.empty())
      if (!more()) fail("no output");
  }
  int exit_code() {
    while (more()) {}
    int status = 0;
    ::waitpid(child_, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  bool more() {
    char block[4096];
    const ssize_t n = ::read(from_, block, sizeof block);
    if (n > 0) seen_.append(block, static_cast<std::size_t>(n));
    return n > 0;
  }
  pid_t child_ = -1;
  int to_ = -1, from_ = -1;
  std::string seen_;
};

}  // namespace

int main(int, char** argv) {
  const std::string generate = argv[1], chat = argv[2], directory = argv[3];
  // Far more tokens than are waited for; greedy, as a random model's most probable tokens run in circles and meet no end token.
  const std::string many = "50000";
  {
    Program program({generate, directory, "Once upon a time", "-t", "0", "-n", many});
    program.until("Once upon a time");
    program.until_any();
    program.interrupt();
    program.until("decode ");
    if (std::stol(program.until(" tokens")) >= std::stol(many)) fail("generate went on to its end");
    if (program.exit_code() != 130) fail("generate's exit code is not 130");
  }
  Program program({chat, directory, "-t", "0", "-n", many, "--capacity", "200000"});
  program.until("> ");
  for (const char* line : {"hello\n", "and again\n"}) {
    program.write(line);
    program.until_any();
    program.interrupt();
    program.until("\n(");
    if (std::stol(program.until(" tokens")) >= std::stol(many)) fail("chat's turn went on to its end");
    program.until("> ");
  }
  program.write("/exit\n");
  if (program.exit_code() != 0) fail("chat's exit code is not 0");
}
