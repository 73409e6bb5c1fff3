// Command-line options. CLI11 takes seven seconds to compile wherever it is included: here once.
#pragma once

#include <braid/core/types.hpp>

#include <memory>
#include <string>

namespace CLI {
class App;
}

namespace braid {

class Options {
 public:
  explicit Options(const std::string& description);
  ~Options();

  /// An option `name` that sets `value`, whose value now is the default.
  void add(const std::string& name, std::string& value, const std::string& help);
  /// The same for a number > 0.
  void add(const std::string& name, Index& value, const std::string& help);

  /// Sets the values. Ends the program after --help (status 0) and after arguments that it does not take.
  void parse(int argc, char** argv);

 private:
  std::unique_ptr<CLI::App> app_;
};

}  // namespace braid
