// Text to tokens and back, with the tokenizer of a checkpoint's directory.
#include <braid/infer/chat.hpp>
#include <braid/io/tokenizer.hpp>
#include <tools/options.hpp>

#include <cstdint>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

namespace {
using braid::Token;
using braid::io::Special;

std::string read_all(std::istream& in) { return {std::istreambuf_iterator<char>(in), {}}; }

// One conversation: a JSON object {"messages": [{"role": ..., "content": ...}, ...], "reply": true}.
std::vector<Token> encode_chat(const braid::ChatTemplate& chat, const std::string& text) {
  const auto json = braid::io::parse_json_object(text, "conversation");
  std::vector<braid::Message> messages;
  for (const auto& m : json.at("messages")) messages.push_back({braid::speaker_named(m.at("role").get<std::string>()), m.at("content")});
  return chat.encode(messages, json.value("reply", true));
}

// Records of a 32-bit length and that many bytes in; of a 32-bit count and that many 32-bit tokens out. For test drivers.
template <class Encode> void frames(const Encode& encode) {
  std::string text;
  for (std::uint32_t length; std::cin.read(reinterpret_cast<char*>(&length), sizeof length);) {
    text.resize(length);
    braid::require(bool(std::cin.read(text.data(), length)), "stdin", braid::detail::text(length, " bytes"), "its end");
    const std::vector<Token> tokens = encode(text);
    const auto count = static_cast<std::uint32_t>(tokens.size());
    std::cout.write(reinterpret_cast<const char*>(&count), sizeof count);
    std::cout.write(reinterpret_cast<const char*>(tokens.data()), static_cast<std::streamsize>(count * sizeof(Token)));
    std::cout.flush();
  }
}

void print(const std::vector<Token>& tokens) {
  for (std::size_t i = 0; i < tokens.size(); ++i) std::cout << (i ? " " : "") << tokens[i];
  std::cout << '\n';
}
}  // namespace

int main(int argc, char** argv) try {
  std::string directory;
  bool special = false, decode = false, chat = false, framed = false;
  braid::Options options("Reads text from standard input and prints its tokens.");
  options.need("directory", directory, braid::Existing::folder, "Directory with tiktoken.model and tokenizer_config.json");
  options.flag("--special", special, "Names of special tokens in the text are special tokens");
  options.flag("--decode", decode, "The other way: reads token ids, writes their bytes");
  options.flag("--chat", chat, "Reads a conversation: {\"messages\": [{\"role\": ..., \"content\": ...}], \"reply\": true}");
  options.flag("--framed", framed, "Many texts: 32-bit length and bytes in, 32-bit count and 32-bit tokens out");
  options.parse(argc, argv);
  braid::require(!decode || !framed, "options", "--decode or --framed", "both");

  std::ios::sync_with_stdio(false);
  const auto tokenizer = braid::io::Tokenizer::load(directory);
  if (decode) {
    const std::vector<Token> tokens{std::istream_iterator<Token>(std::cin), {}};
    braid::require(std::cin.eof(), "stdin", "token ids", "something else");
    std::cout << tokenizer.decode(tokens);
    return 0;
  }
  if (chat) {
    const auto format = braid::ChatTemplate::load(tokenizer, directory);
    const auto encode = [&](const std::string& text) { return encode_chat(format, text); };
    framed ? frames(encode) : print(encode(read_all(std::cin)));
    return 0;
  }
  const auto encode = [&](const std::string& text) { return tokenizer.encode(text, special ? Special::parse : Special::as_text); };
  framed ? frames(encode) : print(encode(read_all(std::cin)));
  return 0;
} catch (const std::exception& error) {
  std::cerr << "tokenize: " << error.what() << '\n';
  return 1;
}
