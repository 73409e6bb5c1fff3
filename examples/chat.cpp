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
  braid::Options app("Talks with the model of a checkpoint directory. /reset forgets the conversation, /exit or the end of the input leaves;\n"
                     "Ctrl-C stops the model's turn, twice leaves. " + std::string(exit_codes));
  app.need("directory", directory, "config.json, safetensors, tiktoken.model and a chat template");
  app.add("--system", system, "system message in place of the template's");
  app.add("--capacity", capacity, braid::counts_or_zero, "longest conversation, in tokens");
  add_sampling_options(app, options);
  app.parse(argc, argv);

  require_own_type(directory);
  const auto tokenizer = braid::io::Tokenizer::load(directory);
  const auto chat = system.empty() ? braid::ChatTemplate::load(tokenizer, directory) : braid::ChatTemplate(tokenizer, system);
  options.stop_tokens = end_tokens(tokenizer, directory);

  braid::cpu::Context cpu;
  Model model(cpu);
  load_with_progress(model, directory);
  braid::Generator generator(cpu, model, 1, capacity);

  std::cerr << "/reset forgets the conversation, /exit leaves, Ctrl-C stops a turn\n";
  Interrupt interrupt;
  for (std::string line;;) {
    std::cerr << "> " << std::flush;
    if (!std::getline(std::cin, line) || line == "/exit") break;
    Interrupt::take();
    if (line == "/reset") {
      generator.reset(0);
      continue;
    }
    if (line.empty()) continue;
    const braid::Message message{braid::Speaker::user, line};
    std::vector<braid::Token> turn;
    if (generator.length(0) == 0) {
      turn = chat.encode({&message, 1});
    } else {
      chat.append(message, turn);
      chat.begin(braid::Speaker::assistant, turn);
    }
    if (generator.length(0) + std::ssize(turn) >= capacity) {
      std::cerr << "the conversation is full (" << capacity << " tokens): /reset begins another, --capacity gives more room\n";
      continue;
    }
    generator.append(0, turn);

    braid::TextOutput output(tokenizer);
    Stopwatch watch;
    const auto result = generator.generate(
        options,
        [&](const braid::GeneratedToken& t) {
          std::cout << output.push(t.token) << std::flush;
          return !Interrupt::take();
        },
        [](braid::Index) { return !Interrupt::take(); });
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
