// Talks with the Instruct model of a published checkpoint. The model's type comes from the directory that BRAID_CHECKPOINT named
// when configuring. The conversation stays in the cache: a turn costs its own tokens only.
#include "published_model.hpp"

#include <braid/infer/chat.hpp>
#include <braid/infer/text.hpp>

#include <iostream>

int main(int argc, char** argv) try {
  std::string directory, system;
  braid::Index capacity = 32768;
  braid::GenerateOptions options;
  options.max_tokens = 1024;
  options.sampling.temperature = 0.6;
  CLI::App app{"Talks with the model of a checkpoint directory. /reset forgets the conversation, /exit (or the end of the input) "
               "leaves, Ctrl-C stops the model's turn."};
  app.add_option("directory", directory, "config.json, safetensors, tiktoken.model and a chat template")
      ->required()
      ->check(CLI::ExistingDirectory);
  app.add_option("--system", system, "system message in place of the template's");
  app.add_option("--capacity", capacity, "longest conversation, in tokens")->capture_default_str()->check(CLI::PositiveNumber);
  add_sampling_options(app, options);
  CLI11_PARSE(app, argc, argv);

  const auto tokenizer = braid::io::Tokenizer::load(directory);
  const auto chat = system.empty() ? braid::ChatTemplate::load(tokenizer, directory) : braid::ChatTemplate(tokenizer, system);
  options.stop_tokens = end_tokens(tokenizer, directory);

  braid::cpu::Context cpu;
  Model model(cpu);
  load_with_progress(model, directory);
  braid::Generator generator(cpu, model, 1, capacity);

  Interrupt interrupt;
  bool fresh = true;
  for (std::string line;;) {
    std::cerr << "> " << std::flush;
    if (!std::getline(std::cin, line) || line == "/exit") break;
    Interrupt::take();
    if (line == "/reset") {
      generator.reset(0);
      fresh = true;
      continue;
    }
    if (line.empty()) continue;
    const braid::Message message{braid::Speaker::user, line};
    std::vector<braid::Token> turn;
    if (fresh)
      turn = chat.encode({&message, 1});
    else {
      chat.append(message, turn);
      chat.begin(braid::Speaker::assistant, turn);
    }
    const braid::Index room = generator.sequences() ? capacity - generator.length(0) - static_cast<braid::Index>(turn.size()) : 0;
    if (room < 1) {
      std::cerr << "the conversation is full (" << capacity << " tokens): /reset begins another, --capacity gives more room\n";
      continue;
    }
    generator.append(0, turn);
    fresh = false;

    braid::TextOutput output(tokenizer);
    Stopwatch watch;
    const auto result = generator.generate(options, [&](const braid::GeneratedToken& t) {
      std::cout << output.push(t.token) << std::flush;
      return !Interrupt::take();
    });
    std::cout << output.finish() << std::endl;
    // A turn that was cut short, by Ctrl-C or by its length, is closed as the model would have closed it.
    if (result.front().finish != braid::Finish::stop && generator.length(0) < capacity) {
      const braid::Token end = chat.end_of_turn();
      generator.append(0, {&end, 1});
    }
    std::fprintf(stderr, "(%zu tokens, %.1f tokens/s)\n", result.front().tokens.size(),
                 static_cast<double>(result.front().tokens.size()) / watch.lap());
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "chat: %s\n", error.what());
  return 1;
}
