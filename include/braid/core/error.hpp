// The one error channel: everything that comes from outside (files, shapes, devices) is reported as braid::Error.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace braid {

/// What went wrong, in three parts a person can act on: where (operation or file), what was expected, what was found.
class Error : public std::runtime_error {
 public:
  Error(std::string where, std::string expected, std::string found)
      : std::runtime_error(where + ": expected " + expected + ", found " + found),
        where_(std::move(where)), expected_(std::move(expected)), found_(std::move(found)) {}

  const std::string& where() const noexcept { return where_; }
  const std::string& expected() const noexcept { return expected_; }
  const std::string& found() const noexcept { return found_; }

 private:
  std::string where_, expected_, found_;
};

namespace detail {
/// Concatenates values as text, for messages.
template <class... Parts> std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}
}  // namespace detail

/// Throws Error unless `condition`. `expected` and `found` may be anything that prints; they are formatted on failure only.
template <class Expected, class Found>
void require(bool condition, std::string_view where, const Expected& expected, const Found& found) {
  if (!condition) [[unlikely]]
    throw Error(std::string(where), detail::text(expected), detail::text(found));
}

}  // namespace braid
