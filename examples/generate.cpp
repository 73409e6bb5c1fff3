// Continues a text with a published checkpoint. The model's type comes from the directory that BRAID_CHECKPOINT named when
// configuring: cmake -DBRAID_CHECKPOINT=/models/Kimi-Linear-48B-A3B-Base
#include "published_model.hpp"

#include <braid/infer/text.hpp>

#include <iostream>
#include <iterator>

int main(int argc, char** argv) try {
  std::string directory, prompt;
  std::vector<std::string> stop;
  bool logprobs = false, bos = false, special = false;
  braid::GenerateOptions options;
  braid::Options app("Continues a text with the model of a checkpoint directory. The text goes to standard output, figures to standard error;\n"
                     "Ctrl-C ends it. " + std::string(exit_codes));
  app.need("directory", directory, "config.json, safetensors, tiktoken.model and tokenizer_config.json");
  app.need("prompt", prompt, "the beginning of the text; - reads it from standard input");
  app.collect("--stop", stop, "end at this string (may be repeated)");
  app.flag("--logprobs", logprobs, "print every token of prompt and output with its log-probability instead of the text");
  app.flag("--bos", bos, "begin with the tokenizer's beginning-of-text token");
  app.flag("--special", special, "names of special tokens in the prompt are special tokens");
  add_sampling_options(app, options);
  app.parse(argc, argv);

  require_own_type(directory);
  if (prompt == "-") prompt.assign(std::istreambuf_iterator<char>(std::cin), {});
  const auto tokenizer = braid::io::Tokenizer::load(directory);
  std::vector<braid::Token> tokens;
  if (bos && tokenizer.bos()) tokens.push_back(*tokenizer.bos());
  tokenizer.encode(prompt, tokens, special ? braid::io::Special::parse : braid::io::Special::as_text);
  braid::require(!tokens.empty(), "prompt", "a prompt of at least one token (or --bos)", "an empty one");

  braid::cpu::Context cpu;
  Model model(cpu);
  load_with_progress(model, directory);
  options.stop_tokens = end_tokens(tokenizer, directory);
  options.log_probabilities = options.prompt_log_probabilities = logprobs;

  braid::Generator generator(cpu, model, 1, static_cast<braid::Index>(tokens.size()) + options.max_tokens);
  generator.append(0, tokens);
  braid::TextOutput output(tokenizer, stop);
  Interrupt interrupt;
  bool interrupted = false;
  const auto goes_on = [&] { return !(interrupted = interrupted || Interrupt::take()); };
  Stopwatch watch;
  double prefill_seconds = 0;
  if (!logprobs) std::cout << prompt << std::flush;
  const auto result = generator.generate(
      options,
      [&](const braid::GeneratedToken& t) {
        const std::string text = output.push(t.token);
        if (!logprobs) std::cout << text << std::flush;
        return goes_on() && !output.stopped();
      },
      [&](braid::Index left) {
        if (left == 0) prefill_seconds = watch.lap();
        return goes_on();
      });
  const double decode_seconds = watch.lap();
  if (!logprobs) std::cout << output.finish() << std::endl;

  const auto& generated = result.front();
  if (logprobs) {
    auto line = [&](braid::Token t, double value) { std::cout << t << '\t' << value << '\t' << std::string(tokenizer.bytes(t)) << '\n'; };
    for (std::size_t i = 0; i < generated.prompt_log_probabilities.size(); ++i) line(tokens[i + 1], generated.prompt_log_probabilities[i]);
    for (std::size_t i = 0; i < generated.tokens.size(); ++i) line(generated.tokens[i], generated.log_probabilities[i]);
  }
  // The first token comes from the prompt's logits; every step after that gives one more, an end token too.
  const std::size_t drawn = generated.tokens.size() + (generated.finish == braid::Finish::stop), steps = drawn - (drawn > 0);
  const auto rate = [](std::size_t n, double seconds) { return seconds > 0 ? static_cast<double>(n) / seconds : 0; };
  std::fprintf(stderr, "prefill %zu tokens, %.1f tokens/s; decode %zu tokens, %.1f tokens/s\n", tokens.size(),
               rate(tokens.size(), prefill_seconds), generated.tokens.size(), rate(steps, decode_seconds));
  return interrupted ? 130 : 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "generate: %s\n", error.what());
  return 1;
}
