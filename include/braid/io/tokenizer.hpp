// The published tokenizer: text to tokens and back, with special tokens.
#pragma once

#include <braid/core/error.hpp>
#include <braid/core/types.hpp>
#include <braid/io/bpe.hpp>
#include <braid/io/json.hpp>
#include <braid/io/split.hpp>
#include <braid/io/tiktoken.hpp>
#include <braid/io/utf8.hpp>

#include <algorithm>
#include <bitset>
#include <charconv>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace braid::io {

/// What becomes of the names of special tokens in a text.
enum class Special {
  as_text,  ///< they are text like any other: right for all text that comes from a user
  parse     ///< they are special tokens
};

/// Byte-pair encoding over the pieces of the published split pattern.
///
/// Ordinary tokens are 0 .. n - 1, n the number of ranks in tiktoken.model; special tokens are the 256 ids from n on, named by
/// tokenizer_config.json or else <|reserved_token_ID|>. (The published class names two ids more, beyond the model's last row.)
///
/// Text that is not valid UTF-8 is read as Python's decode(errors="replace") does, U+FFFD for every invalid start: the published
/// tokenizer takes Python strings and cannot see such bytes. Decoding is exact to the byte.
///
/// As published, long texts are cut before anything else: after every 400,000 characters, and within those wherever white space or
/// anything else goes on for more than 25,000. No token spans such a cut, special ones included.
class Tokenizer {
 public:
  static constexpr Index reserved = 256;

  /// `named`: the special tokens that have names, by id. Throws Error for ids outside [n, n + 256) and for empty or repeated names.
  explicit Tokenizer(Vocabulary vocabulary, const std::map<Token, std::string>& named = {}, const std::string& where = "Tokenizer")
      : bpe_(std::move(vocabulary)) {
    const auto first = static_cast<Token>(bpe_.vocabulary().size());
    for (Token id = first; id < first + reserved; ++id) {
      const auto name = named.find(id);
      names_.push_back(name != named.end() ? name->second : braid::detail::text("<|reserved_token_", id, "|>"));
    }
    for (const auto& [id, name] : named)
      require(id >= first && id < first + reserved, where,
              braid::detail::text("special tokens with ids in [", first, ", ", first + reserved, ")"),
              braid::detail::text(id, " (", name, ")"));
    for (std::size_t i = 0; i < names_.size(); ++i) {
      require(!names_[i].empty(), where, "special tokens with names", "an empty one");
      require(ids_.emplace(names_[i], first + static_cast<Token>(i)).second, where, "each special token once", names_[i]);
      starts_.set(static_cast<unsigned char>(names_[i][0]));
      lengths_.push_back(names_[i].size());
    }
    std::sort(lengths_.begin(), lengths_.end(), std::greater<>());
    lengths_.erase(std::unique(lengths_.begin(), lengths_.end()), lengths_.end());
  }

  /// Reads tiktoken.model and tokenizer_config.json of a directory. Throws Error for what is missing or wrong in them.
  static Tokenizer load(const std::filesystem::path& directory) {
    const std::string where = (directory / "tokenizer_config.json").string();
    const Json config = parse_json_object(read_text(where, std::uint64_t{16} << 20), where);
    Tokenizer tokenizer(read_tiktoken(directory / "tiktoken.model"), added_tokens(config, where), where);
    tokenizer.bos_ = tokenizer.role(config, "bos_token", where);
    tokenizer.eos_ = tokenizer.role(config, "eos_token", where);
    return tokenizer;
  }

  /// Appends the tokens of `text` to `out`. Thread-safe.
  void encode(std::string_view text, std::vector<Token>& out, Special special = Special::as_text) const {
    if (valid_utf8_prefix(text) != text.size()) return encode(replace_invalid_utf8(text), out, special);
    for_each_chunk(text, [&](std::string_view chunk) {
      special == Special::parse ? encode_special(chunk, out) : encode_ordinary(chunk, out);
    });
  }
  std::vector<Token> encode(std::string_view text, Special special = Special::as_text) const {
    std::vector<Token> out;
    encode(text, out, special);
    return out;
  }

  /// The bytes of the tokens, not necessarily valid UTF-8. Throws Error for an id that is no token.
  std::string decode(std::span<const Token> tokens) const {
    std::string out;
    for (Token token : tokens) out += bytes(token);
    return out;
  }
  /// The bytes of a token; of a special one, its name.
  std::string_view bytes(Token token) const {
    require(token >= 0 && token < size(), "Tokenizer", braid::detail::text("a token below ", size()), token);
    if (!is_special(token)) return bpe_.vocabulary()[token];
    return names_[static_cast<std::size_t>(token - bpe_.vocabulary().size())];
  }

  /// Ordinary and special tokens together: one more than the largest id.
  Index size() const { return bpe_.vocabulary().size() + reserved; }
  bool is_special(Token token) const { return token >= bpe_.vocabulary().size() && token < size(); }
  /// The id of a special token, by name.
  std::optional<Token> find_special(std::string_view name) const {
    const auto found = ids_.find(name);
    return found == ids_.end() ? std::nullopt : std::optional(found->second);
  }
  /// The same; throws Error if there is none.
  Token special(std::string_view name) const {
    const auto id = find_special(name);
    require(id.has_value(), "Tokenizer", braid::detail::text("the special token ", name), "none of this name");
    return *id;
  }
  std::optional<Token> bos() const { return bos_; }  ///< "bos_token" of tokenizer_config.json
  std::optional<Token> eos() const { return eos_; }  ///< "eos_token" of tokenizer_config.json

  const Bpe& bpe() const { return bpe_; }

 private:
  static std::map<Token, std::string> added_tokens(const Json& config, const std::string& where) {
    std::map<Token, std::string> named;
    const auto added = config.find("added_tokens_decoder");
    require(added != config.end() && added->is_object(), where, "an object \"added_tokens_decoder\"", "none");
    for (const auto& [key, value] : added->items()) {
      Token id = 0;
      const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
      require(error == std::errc() && end == key.data() + key.size(), where, "token ids as keys of added_tokens_decoder", key);
      require(value.is_object() && value.contains("content") && value["content"].is_string(), where,
              braid::detail::text("a string \"content\" of token ", key), "none");
      named.emplace(id, value["content"].get<std::string>());
    }
    return named;
  }

  // A token named by tokenizer_config.json as a string or as an object with "content".
  std::optional<Token> role(const Json& config, const char* key, const std::string& where) const {
    const auto entry = config.find(key);
    if (entry == config.end() || entry->is_null()) return std::nullopt;
    const Json& name = entry->is_object() && entry->contains("content") ? (*entry)["content"] : *entry;
    require(name.is_string() && find_special(name.get_ref<const std::string&>()), where,
            braid::detail::text("the name of a special token as \"", key, "\""), name.dump());
    return find_special(name.get_ref<const std::string&>());
  }

  // The cuts of long texts (see above), in characters. White space here is what Python's str.isspace says.
  template <class Visit> static void for_each_chunk(std::string_view text, Visit&& visit) {
    constexpr Index most_characters = 400'000, longest_run = 25'000;
    if (static_cast<Index>(text.size()) <= longest_run) return visit(text);
    std::size_t begin = 0;
    Index characters = 0, run = 0;
    bool run_is_space = false;
    for (std::size_t i = 0; i < text.size();) {
      const Utf8 c = Utf8::first(text.substr(i, 4));
      const bool is_space = is_python_space(c.code);
      if (characters == most_characters) {
        visit(text.substr(begin, i - begin));
        begin = i;
        characters = run = 0;
      } else if (is_space == run_is_space && run == longest_run) {
        visit(text.substr(begin, i - begin));
        begin = i;
        run = 0;
      }
      if (is_space != run_is_space) run = 0;
      run_is_space = is_space;
      ++run;
      ++characters;
      i += c.length;
    }
    visit(text.substr(begin));
  }

  void encode_ordinary(std::string_view text, std::vector<Token>& out) const {
    splitter_.split(text, [&](std::string_view piece) { bpe_.encode(piece, out); });
  }

  // Special tokens first, the leftmost, and the longest that starts there; ordinary text between them.
  void encode_special(std::string_view text, std::vector<Token>& out) const {
    std::size_t begin = 0;
    for (std::size_t i = 0; i < text.size(); ++i) {
      if (!starts_[static_cast<unsigned char>(text[i])]) continue;
      for (const std::size_t length : lengths_) {
        if (length > text.size() - i) continue;
        const auto id = find_special(text.substr(i, length));
        if (!id) continue;
        encode_ordinary(text.substr(begin, i - begin), out);
        out.push_back(*id);
        begin = i + length;
        i = begin - 1;
        break;
      }
    }
    encode_ordinary(text.substr(begin), out);
  }

  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };

  Bpe bpe_;
  Splitter splitter_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, Token, Hash, std::equal_to<>> ids_;
  std::bitset<256> starts_;           // first bytes of special tokens
  std::vector<std::size_t> lengths_;  // their lengths, longest first
  std::optional<Token> bos_, eos_;
};

/// Tokens to text, one by one: returns whole characters as soon as they are known.
class TokenStream {
 public:
  explicit TokenStream(const Tokenizer& tokenizer) : tokenizer_(&tokenizer) {}
  /// Adds a token and returns the text that can be shown.
  std::string push(Token token) { return stream_.push(tokenizer_->bytes(token)); }
  /// No more tokens: the bytes of an unfinished character, if any.
  std::string finish() { return stream_.finish(); }

 private:
  const Tokenizer* tokenizer_;
  Utf8Stream stream_;
};

}  // namespace braid::io
