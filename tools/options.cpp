#include <tools/options.hpp>

#include <CLI/CLI.hpp>

namespace braid {

Options::Options(const std::string& description) : app_(std::make_unique<CLI::App>(description)) {}
Options::~Options() = default;

void Options::add(const std::string& name, std::string& value, const std::string& help) {
  app_->add_option(name, value, help)->capture_default_str();
}
void Options::add(const std::string& name, Index& value, const std::string& help) {
  const auto above_zero = [](const std::string& text) {
    Index number = 0;
    return CLI::detail::lexical_cast(text, number) && number > 0 ? "" : "expected a number > 0, found " + text;
  };
  app_->add_option(name, value, help)->check(above_zero)->capture_default_str();
}

void Options::parse(int argc, char** argv) {
  try {
    app_->parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app_->exit(error));
  }
}

}  // namespace braid
