// Command-line options. CLI11 takes seven seconds to compile wherever it is included: here once.
#pragma once

#include <braid/core/types.hpp>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace braid {

/// What must be there for a path to be taken.
enum class Existing : unsigned char { file, folder };

/// The numbers that an option takes, both ends included.
template <class T> struct Range {
  T least, most;
};
inline constexpr Range<Index> counts{1, Index{1} << 30}, counts_or_zero{0, Index{1} << 30};
inline constexpr Range<double> rates{1e-6, 1e3}, zero_or_more{0, 1e9};

/// Whether a word is among those given to an option that takes several.
bool chosen(const std::vector<std::string>& words, const std::string& word);

/// The options of a program. Each is given the variable that it sets, whose value at that time is the default.
class Options {
 public:
  explicit Options(const std::string& description);
  ~Options();

  /// An argument that must be given, by its place (`name`).
  void need(const std::string& name, std::string& value, const std::string& help);
  void need(const std::string& name, std::string& path, Existing kind, const std::string& help);
  void need(const std::string& name, std::vector<std::string>& paths, Existing kind, const std::string& help);

  /// An option (`-n,--name`).
  void add(const std::string& name, std::string& value, const std::string& help);
  void add(const std::string& name, std::string& path, Existing kind, const std::string& help);
  void add(const std::string& name, Index& value, const Range<Index>& allowed, const std::string& help);
  void add(const std::string& name, double& value, const Range<double>& allowed, const std::string& help);
  void add(const std::string& name, double& value, const std::string& help);
  void add(const std::string& name, std::uint64_t& value, const std::string& help);
  /// One number, or several words with commas between, of those listed; no words: any.
  void add(const std::string& name, Index& value, const std::vector<Index>& choices, const std::string& help);
  void add(const std::string& name, std::vector<std::string>& values, const std::vector<std::string>& choices, const std::string& help);
  /// May be given several times.
  void collect(const std::string& name, std::vector<std::string>& values, const std::string& help);
  void flag(const std::string& name, bool& value, const std::string& help);

  /// Sets the variables. Ends the program after --help (exit code 0) and after arguments that it does not take (2).
  void parse(int argc, char** argv);

 private:
  std::unique_ptr<CLI::App> app_;
};

}  // namespace braid
