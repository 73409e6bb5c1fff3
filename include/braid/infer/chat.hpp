// Conversations as the Instruct model was trained to see them.
//
//   <|im_system|>system<|im_middle|>...<|im_end|><|im_user|>user<|im_middle|>...<|im_end|><|im_assistant|>assistant<|im_middle|>
//
// and so on, without [BOS] and without anything between the turns. A conversation that does not begin with a system message gets a
// default one. The model ends its turn with <|im_end|>.
#pragma once

#include <braid/core/error.hpp>
#include <braid/core/types.hpp>
#include <braid/io/tokenizer.hpp>

#include <array>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace braid {

enum class Speaker { system, user, assistant };

/// The role's name, as it stands in the turn.
constexpr std::string_view speaker_name(Speaker speaker) {
  return speaker == Speaker::system ? "system" : speaker == Speaker::user ? "user" : "assistant";
}

/// The role of this name. Throws Error for any other.
inline Speaker speaker_named(std::string_view text) {
  for (Speaker r : {Speaker::system, Speaker::user, Speaker::assistant})
    if (speaker_name(r) == text) return r;
  throw Error("speaker_named", "system, user or assistant", std::string(text));
}

/// One turn of a conversation.
struct Message {
  Speaker role;
  std::string content;
};

/// Renders conversations of system, user and assistant turns. Contents are text: the name of a special token inside a message
/// stays a name, so that no message can end its own turn or begin another. (The published code parses the rendered string, where it
/// can.) Tool declarations and tool calls are not rendered. The tokenizer must outlive this object.
class ChatTemplate {
 public:
  /// `default_system`: the system message of conversations without one; empty: they get none. Throws Error unless the tokenizer has
  /// the special tokens of the template.
  explicit ChatTemplate(const io::Tokenizer& tokenizer, std::string default_system)
      : tokenizer_(&tokenizer),
        default_system_(std::move(default_system)),
        middle_(tokenizer.special(middle)),
        end_(tokenizer.special(end)) {
    for (Speaker r : {Speaker::system, Speaker::user, Speaker::assistant}) starts_[std::size_t(r)] = tokenizer.special(start(r));
  }

  /// Takes the default system message from the template of a checkpoint's directory: chat_template.jinja, or "chat_template" in
  /// tokenizer_config.json. Throws Error if there is none (Base checkpoints), or one of another form.
  static ChatTemplate load(const io::Tokenizer& tokenizer, const std::filesystem::path& directory) {
    const auto jinja = directory / "chat_template.jinja", config = directory / "tokenizer_config.json";
    if (std::filesystem::exists(jinja)) return ChatTemplate(tokenizer, default_system(io::read_text(jinja), jinja.string()));
    const io::Json json = io::parse_json_object(io::read_text(config), config.string());
    const auto entry = json.find("chat_template");
    require(entry != json.end() && entry->is_string(), config.string(), "a chat template, here or in chat_template.jinja", "none");
    return ChatTemplate(tokenizer, default_system(entry->get<std::string>(), config.string()));
  }

  /// The tokens of a conversation. `reply`: ends with the beginning of the assistant's turn, for the model to continue.
  std::vector<Token> encode(std::span<const Message> messages, bool reply = true) const {
    std::vector<Token> out;
    if (needs_default(messages)) append({Speaker::system, default_system_}, out);
    for (const Message& m : messages) append(m, out);
    if (reply) begin(Speaker::assistant, out);
    return out;
  }

  /// Appends one whole turn: what a conversation grows by.
  void append(const Message& message, std::vector<Token>& out) const {
    begin(message.role, out);
    tokenizer_->encode(message.content, out);
    out.push_back(end_);
  }
  /// Appends the beginning of a turn, up to its content.
  void begin(Speaker speaker, std::vector<Token>& out) const {
    out.push_back(starts_[std::size_t(speaker)]);
    tokenizer_->encode(speaker_name(speaker), out);
    out.push_back(middle_);
  }

  /// The token that ends a turn. The model's own turn stops here.
  Token end_of_turn() const { return end_; }
  const std::string& default_system() const { return default_system_; }

  /// The conversation as text, the way the published template renders it.
  std::string render(std::span<const Message> messages, bool reply = true) const {
    std::string out;
    auto add = [&](Speaker r, const std::string& content) {
      out += std::string(start(r)).append(speaker_name(r)).append(middle).append(content).append(end);
    };
    if (needs_default(messages)) add(Speaker::system, default_system_);
    for (const Message& m : messages) add(m.role, m.content);
    if (reply) out += std::string(start(Speaker::assistant)).append(speaker_name(Speaker::assistant)).append(middle);
    return out;
  }

 private:
  static constexpr std::string_view middle = "<|im_middle|>", end = "<|im_end|>";
  static constexpr std::string_view start(Speaker speaker) {
    return speaker == Speaker::system ? "<|im_system|>" : speaker == Speaker::user ? "<|im_user|>" : "<|im_assistant|>";
  }

  bool needs_default(std::span<const Message> messages) const {
    return !default_system_.empty() && !messages.empty() && messages[0].role != Speaker::system;
  }

  // A published template holds its default system message as a literal turn. The rest of it is checked for the form rendered here.
  static std::string default_system(std::string_view jinja, const std::string& where) {
    for (std::string_view part : {start(Speaker::system), start(Speaker::user), start(Speaker::assistant), middle, end})
      require(jinja.find(part) != jinja.npos, where, detail::text("a chat template with ", part), "one without");
    require(jinja.find("<think>") == jinja.npos, where, "the chat template of an Instruct model", "one with <think>");
    const std::string turn = std::string(start(Speaker::system)).append(speaker_name(Speaker::system)).append(middle);
    for (std::size_t at = jinja.find(turn); at != jinja.npos; at = jinja.find(turn, at + 1)) {
      const std::string_view rest = jinja.substr(at + turn.size());
      const std::string_view content = rest.substr(0, rest.find(end));
      if (content.size() < rest.size() && !content.empty() && content.find_first_of("{}<") == content.npos) return std::string(content);
    }
    return {};
  }

  const io::Tokenizer* tokenizer_;
  std::string default_system_;
  std::array<Token, 3> starts_{};
  Token middle_, end_;
};

}  // namespace braid
