#include <tools/options.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>

namespace braid {

namespace {
const CLI::Validator& check_of(Existing kind) {
  return kind == Existing::file ? static_cast<const CLI::Validator&>(CLI::ExistingFile) : CLI::ExistingDirectory;
}
}  // namespace

bool chosen(const std::vector<std::string>& words, const std::string& word) { return std::find(words.begin(), words.end(), word) != words.end(); }

Options::Options(const std::string& description) : app_(std::make_unique<CLI::App>(description)) {}
Options::~Options() = default;

void Options::need(const std::string& name, std::string& value, const std::string& help) {
  app_->add_option(name, value, help)->required();
}
void Options::need(const std::string& name, std::string& path, Existing kind, const std::string& help) {
  app_->add_option(name, path, help)->required()->check(check_of(kind));
}
void Options::need(const std::string& name, std::vector<std::string>& paths, Existing kind, const std::string& help) {
  app_->add_option(name, paths, help)->required()->check(check_of(kind));
}

void Options::add(const std::string& name, std::string& value, const std::string& help) {
  app_->add_option(name, value, help)->capture_default_str();
}
void Options::add(const std::string& name, std::string& path, Existing kind, const std::string& help) {
  app_->add_option(name, path, help)->check(check_of(kind))->capture_default_str();
}
void Options::add(const std::string& name, Index& value, const Range<Index>& allowed, const std::string& help) {
  app_->add_option(name, value, help)->check(CLI::Range(allowed.least, allowed.most))->capture_default_str();
}
void Options::add(const std::string& name, double& value, const Range<double>& allowed, const std::string& help) {
  app_->add_option(name, value, help)->check(CLI::Range(allowed.least, allowed.most))->capture_default_str();
}
void Options::add(const std::string& name, double& value, const std::string& help) {
  app_->add_option(name, value, help)->capture_default_str();
}
void Options::add(const std::string& name, std::uint64_t& value, const std::string& help) {
  app_->add_option(name, value, help)->capture_default_str();
}
void Options::add(const std::string& name, Index& value, const std::vector<Index>& choices, const std::string& help) {
  app_->add_option(name, value, help)->check(CLI::IsMember(choices))->capture_default_str();
}
void Options::add(const std::string& name, std::vector<std::string>& values, const std::vector<std::string>& choices, const std::string& help) {
  CLI::Option* option = app_->add_option(name, values, help)->delimiter(',')->capture_default_str();
  if (!choices.empty()) option->check(CLI::IsMember(choices));
}
void Options::collect(const std::string& name, std::vector<std::string>& values, const std::string& help) { app_->add_option(name, values, help); }
void Options::flag(const std::string& name, bool& value, const std::string& help) { app_->add_flag(name, value, help); }

void Options::parse(int argc, char** argv) {
  try {
    app_->parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    std::exit(app_->exit(error) ? 2 : 0);
  }
}

}  // namespace braid
