// A log of one JSON object per line, for the curves (tools/plot draws them).
#pragma once

#include <braid/core/error.hpp>
#include <braid/core/types.hpp>

#include <charconv>
#include <cmath>
#include <concepts>
#include <cstdio>
#include <initializer_list>
#include <memory>
#include <string>
#include <string_view>

namespace braid {

/// One `"key": value` of a log line.
struct LogField {
  std::string text;

  LogField(std::string_view key, std::floating_point auto value) : text(quoted(key) + ": " + number(value)) {}
  LogField(std::string_view key, std::integral auto value) : text(quoted(key) + ": " + std::to_string(value)) {}
  LogField(std::string_view key, std::string_view value) : text(quoted(key) + ": " + quoted(value)) {}

 private:
  /// Shortest digits that read back as the same number; JSON has no NaN and no infinity.
  static std::string number(double value) {
    if (!std::isfinite(value)) return "null";
    char digits[32];
    return {digits, std::to_chars(digits, digits + sizeof digits, value).ptr};
  }
  static std::string quoted(std::string_view text) {
    std::string out = "\"";
    for (char c : text) {
      char escape[8];
      std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(static_cast<unsigned char>(c)));
      if (c == '"' || c == '\\') out += {'\\', c};
      else if (static_cast<unsigned char>(c) < 0x20) out += escape;
      else out += c;
    }
    return out + "\"";
  }
};

/// Appends lines to a file, each flushed so that a curve can be watched while it grows. A log without a path swallows everything.
/// A run that resumes appends: of two lines with the same step the later one counts.
class JsonLog {
 public:
  explicit JsonLog(std::string path = {}, bool append = true) : path_(std::move(path)) {
    if (path_.empty()) return;
    file_.reset(std::fopen(path_.c_str(), append ? "a" : "w"));
    require(file_ != nullptr, path_, "a log file that can be written", "none");
  }

  /// log.write({{"step", step}, {"loss", loss}}). Throws Error if the disk is full.
  void write(std::initializer_list<LogField> fields) {
    if (!file_) return;
    std::string line;
    for (const LogField& field : fields) line += (line.empty() ? "{" : ", ") + field.text;
    line += line.empty() ? "{}\n" : "}\n";
    require(std::fwrite(line.data(), 1, line.size(), file_.get()) == line.size() && std::fflush(file_.get()) == 0, path_,
            "room to write", "a failed write");
  }

 private:
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  std::string path_;
  std::unique_ptr<std::FILE, Close> file_;
};

}  // namespace braid
