// What generate and chat share: the checkpoint's model type, loading it with progress, the command line, and Ctrl-C.
#pragma once

#include <braid/braid.hpp>
#include <braid/infer/generate.hpp>
#include <braid/io/checkpoint.hpp>
#include <braid/io/tokenizer.hpp>

#include <CLI/CLI.hpp>
#include <checkpoint.hpp>  // written by braid_add_checkpoint from the directory BRAID_CHECKPOINT

#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <unistd.h>

using Model = braid::CausalLm<checkpoint::config, braid::Kda, braid::Mla>;

inline constexpr const char* exit_codes = "Exit codes: 0 all is well, 1 the directory or a value cannot be used, 2 wrong arguments, 130 Ctrl-C.";

/// Throws Error unless the checkpoint in `directory` is of this program's type.
inline void require_own_type(const std::filesystem::path& directory) {
  const braid::Config found = braid::read_config(directory);
  if (braid::config_differences(checkpoint::config, found).empty()) return;
  std::fprintf(stderr, "This program is made for the model of one directory. To make it for this one: cmake -DBRAID_CHECKPOINT=%s\n",
               std::filesystem::absolute(directory).c_str());
  braid::check_config_matches(checkpoint::config, directory);
}

/// Fills `model` from `directory`, showing on a terminal how far it is.
inline void load_with_progress(Model& model, const std::filesystem::path& directory) {
  braid::LoadOptions options;
  int shown = -1;
  if (::isatty(STDERR_FILENO)) options.progress = [&](std::uint64_t done, std::uint64_t total) {
    const int percent = total ? static_cast<int>(100 * done / total) : 100;
    if (percent != shown) std::fprintf(stderr, "\rloading %3d %%", shown = percent);
  };
  braid::load_checkpoint(model, directory, options);
  if (shown >= 0) std::fprintf(stderr, "\r             \r");
}

/// The tokens at which a turn or a text ends: eos of config.json and of the tokenizer, and `<|im_end|>` where there is one.
inline std::vector<braid::Token> end_tokens(const braid::io::Tokenizer& tokenizer, const std::filesystem::path& directory) {
  auto out = braid::read_special_tokens(directory).eos;
  for (const auto token : {tokenizer.eos(), tokenizer.find_special("<|im_end|>")})
    if (token) out.push_back(*token);
  return out;
}

/// Reads the command line; an exit code if the program ends here.
inline std::optional<int> parse(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    return {};
  } catch (const CLI::ParseError& error) {
    return app.exit(error) ? 2 : 0;
  }
}

/// Numbers of tokens that a command line may ask for.
inline const CLI::Range token_counts(braid::Index{0}, braid::Index{1} << 30);

/// Adds the options of sampling to a program's command line.
inline void add_sampling_options(CLI::App& app, braid::GenerateOptions& options) {
  auto& s = options.sampling;
  app.add_option("-n,--max-tokens", options.max_tokens, "most tokens to generate")->capture_default_str()->check(token_counts);
  app.add_option("-t,--temperature", s.temperature, "0 always takes the most probable token")->capture_default_str();
  app.add_option("--top-k", s.top_k, "keep the k most probable tokens; 0: all")->capture_default_str();
  app.add_option("--top-p", s.top_p, "keep the most probable tokens that make up this share")->capture_default_str();
  app.add_option("--min-p", s.min_p, "drop tokens less probable than this share of the most probable")->capture_default_str();
  app.add_option("--repetition-penalty", s.repetition_penalty, "above 1 discourages tokens seen before")->capture_default_str();
  app.add_option("--seed", s.seed.value, "seed of the sampler")->capture_default_str();
  app.add_option("--prefill-chunk", options.prefill_chunk, "tokens of the prompt that go through the model at once")
      ->capture_default_str()
      ->check(token_counts);
}

/// Ctrl-C sets a flag that generation looks at after every token and every chunk of a prompt; a second one before that ends the
/// program.
class Interrupt {
 public:
  Interrupt() { std::signal(SIGINT, handle); }
  /// Whether there was a Ctrl-C since the last call.
  static bool take() { return std::exchange(flag(), 0) != 0; }

 private:
  static volatile std::sig_atomic_t& flag() {
    static volatile std::sig_atomic_t value = 0;
    return value;
  }
  static void handle(int) {
    if (flag()) std::_Exit(130);
    flag() = 1;
  }
};

/// Seconds since it was made or last asked.
class Stopwatch {
 public:
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    return std::chrono::duration<double>(now - std::exchange(start_, now)).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};
