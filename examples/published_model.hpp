// What generate and chat share: the checkpoint's model type, loading it with progress, the command line, and Ctrl-C.
#pragma once

#include <braid/braid.hpp>
#include <braid/infer/generate.hpp>
#include <braid/io/checkpoint.hpp>
#include <braid/io/tokenizer.hpp>

#include <checkpoint.hpp>  // written by braid_add_checkpoint from the directory BRAID_CHECKPOINT
#include <tools/options.hpp>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <filesystem>
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

/// Adds the options of sampling to a program's command line.
inline void add_sampling_options(braid::Options& app, braid::GenerateOptions& options) {
  auto& s = options.sampling;
  app.add("-n,--max-tokens", options.max_tokens, braid::counts_or_zero, "most tokens to generate");
  app.add("-t,--temperature", s.temperature, "0 always takes the most probable token");
  app.add("--top-k", s.top_k, braid::counts_or_zero, "keep the k most probable tokens; 0: all");
  app.add("--top-p", s.top_p, "keep the most probable tokens that make up this share");
  app.add("--min-p", s.min_p, "drop tokens less probable than this share of the most probable");
  app.add("--repetition-penalty", s.repetition_penalty, "above 1 discourages tokens seen before");
  app.add("--seed", s.seed.value, "seed of the sampler");
  app.add("--prefill-chunk", options.prefill_chunk, braid::counts_or_zero, "tokens of the prompt that go through the model at once");
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
