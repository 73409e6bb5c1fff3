// The one error channel: everything that comes from outside (files, shapes, devices) is reported as braid::Error.
#pragma once

#include <braid/core/macros.hpp>

#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

namespace braid {

/// What went wrong, in three parts a person can act on: where (operation or file), what was expected, what was found.
class Error : public std::runtime_error {
 public:
  BRAID_NOINLINE Error(std::string where, std::string expected, std::string found)
      : std::runtime_error(where + ": expected " + expected + ", found " + found),
        where_(std::move(where)), expected_(std::move(expected)), found_(std::move(found)) {}

  const std::string& where() const noexcept { return where_; }
  const std::string& expected() const noexcept { return expected_; }
  const std::string& found() const noexcept { return found_; }

 private:
  std::string where_, expected_, found_;
};

namespace detail {
/// How a part of a message is kept until it is printed: characters as one type whatever a literal's length, all else by reference.
template <class Part>
using Shown = std::conditional_t<std::is_convertible_v<const Part&, std::string_view>, std::string_view, const Part&>;

/// Values that will be text if a message is needed; refers to them, so it lives within one expression.
template <class... Parts> struct Text {
  std::tuple<Parts...> parts;

  friend std::ostream& operator<<(std::ostream& out, const Text& text) {
    std::apply([&](const auto&... part) { (out << ... << part); }, text.parts);
    return out;
  }
  BRAID_NOINLINE operator std::string() const {
    std::ostringstream out;
    out << *this;
    return out.str();
  }
};
/// Concatenates values as text, for messages. Nothing is formatted before the message is: a check that passes costs nothing.
template <class... Parts> Text<Shown<Parts>...> text(const Parts&... parts) { return {{parts...}}; }

template <class Where, class Expected, class Found>
[[noreturn]] BRAID_NOINLINE void fail(Where where, Expected expected, Found found) {
  throw Error(text(where), text(expected), text(found));
}
}  // namespace detail

/// Throws Error unless `condition`. The other three may be anything that prints; they are formatted on failure only.
template <class Where, class Expected, class Found>
void require(bool condition, const Where& where, const Expected& expected, const Found& found) {
  if (!condition) [[unlikely]]
    detail::fail<detail::Shown<Where>, detail::Shown<Expected>, detail::Shown<Found>>(where, expected, found);
}

}  // namespace braid
