// Generated tokens as text, as it can be shown: whole characters, and nothing that may belong to a stop string.
#pragma once

#include <braid/infer/stop.hpp>
#include <braid/io/tokenizer.hpp>

namespace braid {

/// Turns the tokens of one sequence into text for the reader. The tokenizer must outlive it.
class TextOutput {
 public:
  explicit TextOutput(const io::Tokenizer& tokenizer, std::vector<std::string> stop_strings = {})
      : stream_(tokenizer), stop_(std::move(stop_strings)) {}

  /// Adds a token and returns the text that can be shown now.
  std::string push(Token token) { return stop_.push(stream_.push(token)); }
  /// No more tokens: returns what was held back.
  std::string finish() {
    std::string rest = stop_.push(stream_.finish());
    return rest + stop_.finish();
  }
  /// A stop string has appeared; the text ended before it.
  bool stopped() const { return stop_.stopped(); }

 private:
  io::TokenStream stream_;
  StopStrings stop_;
};

}  // namespace braid
