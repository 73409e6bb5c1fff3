// What generate and chat share: the checkpoint's model type, loading it with progress, options of sampling, and Ctrl-C.
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
#include <vector>

using Model = braid::CausalLm<checkpoint::config, braid::Kda, braid::Mla>;

/// Fills `model` from `directory`, showing how far it is.
inline void load_with_progress(Model& model, const std::filesystem::path& directory) {
  int shown = -1;
  braid::load_checkpoint(model, directory, {.progress = [&](std::uint64_t done, std::uint64_t total) {
                           const int percent = total ? static_cast<int>(100 * done / total) : 100;
                           if (percent == shown) return;
                           shown = percent;
                           std::fprintf(stderr, "\rloading %3d %%", percent);
                         }});
  std::fprintf(stderr, "\r             \r");
}

/// The tokens at which a turn or a text ends: eos of config.json and of the tokenizer, and `<|im_end|>` where there is one.
inline std::vector<braid::Token> end_tokens(const braid::io::Tokenizer& tokenizer, const std::filesystem::path& directory) {
  auto out = braid::read_special_tokens(directory).eos;
  for (const auto token : {tokenizer.eos(), tokenizer.find_special("<|im_end|>")})
    if (token) out.push_back(*token);
  return out;
}

/// Adds the options of sampling to a program's command line.
inline void add_sampling_options(CLI::App& app, braid::GenerateOptions& options) {
  auto& s = options.sampling;
  app.add_option("-n,--max-tokens", options.max_tokens, "most tokens to generate")->capture_default_str()->check(CLI::NonNegativeNumber);
  app.add_option("-t,--temperature", s.temperature, "0 always takes the most probable token")->capture_default_str();
  app.add_option("--top-k", s.top_k, "keep the k most probable tokens; 0: all")->capture_default_str();
  app.add_option("--top-p", s.top_p, "keep the most probable tokens that make up this share")->capture_default_str();
  app.add_option("--min-p", s.min_p, "drop tokens less probable than this share of the most probable")->capture_default_str();
  app.add_option("--repetition-penalty", s.repetition_penalty, "above 1 discourages tokens seen before")->capture_default_str();
  app.add_option("--seed", s.seed.value, "seed of the sampler")->capture_default_str();
  app.add_option("--prefill-chunk", options.prefill_chunk, "tokens of the prompt that go through the model at once")->capture_default_str();
}

/// Ctrl-C sets a flag that generation looks at after every token; a second Ctrl-C before that ends the program.
class Interrupt {
 public:
  Interrupt() { std::signal(SIGINT, handle); }
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
