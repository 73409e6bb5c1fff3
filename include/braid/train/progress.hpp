// Live progress: one line that is rewritten on a terminal, a plain line now and then elsewhere.
#pragma once

#include <braid/core/types.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <string>
#include <string_view>

#include <unistd.h>

namespace braid {

namespace detail {
/// 950, 12.3k, 4.56M.
inline std::string short_count(double n) {
  char text[32];
  const bool mega = n >= 999'500, kilo = n >= 999.5;
  const double scaled = mega ? n / 1e6 : kilo ? n / 1e3 : n;
  std::snprintf(text, sizeof text, "%.*f%s", !kilo || scaled >= 99.95 ? 0 : scaled >= 9.995 ? 1 : 2, scaled, mega ? "M" : kilo ? "k" : "");
  return text;
}

/// 0:07, 12:34, 1:02:03.
inline std::string clock_text(double seconds) {
  const long s = seconds > 0 ? static_cast<long>(seconds + 0.5) : 0;
  char text[32];
  if (s >= 3600) std::snprintf(text, sizeof text, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
  else std::snprintf(text, sizeof text, "%ld:%02ld", s / 60, s % 60);
  return text;
}

/// The whole line: bar, step, loss, speed, time left.
inline std::string progress_line(Index step, Index steps, double loss, double tokens_per_second, double seconds_left) {
  constexpr Index width = 24;
  const Index filled = steps > 0 ? std::clamp<Index>(width * step / steps, 0, width) : width;
  std::string bar(static_cast<std::size_t>(filled), '=');
  if (filled < width) bar += '>';
  bar.resize(width, ' ');
  char loss_text[32];
  std::snprintf(loss_text, sizeof loss_text, "%.4f", loss);
  return "[" + bar + "] " + std::to_string(step) + "/" + std::to_string(steps) + "  loss " + loss_text + "  " +
         short_count(tokens_per_second) + " tokens/s  " + clock_text(seconds_left) + " left";
}
}  // namespace detail

/// Shows the progress of `steps` steps, of which `done` were done earlier. Writes to standard error. Not for hot loops: it
/// looks at the clock at every update, and prints at most ten times a second (a terminal) or once in five (anything else).
class Progress {
 public:
  explicit Progress(Index steps, Index done = 0, bool visible = true)
      : steps_(steps), done_(done), visible_(visible), terminal_(visible && ::isatty(2)) {}
  ~Progress() {
    if (terminal_ && !line_.empty()) std::fputc('\n', stderr);
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `step` steps are done now; the last one had this loss and this many tokens.
  void update(Index step, double loss, Index tokens) {
    tokens_ += tokens;
    loss_ = loss_steps_ == 0 ? loss : loss_ + (loss - loss_) * std::max(0.05, 1.0 / static_cast<double>(loss_steps_ + 1));
    ++loss_steps_;
    const double now = elapsed();
    if (!visible_ || (step < steps_ && now - shown_ < (terminal_ ? 0.1 : 5.0))) return;
    shown_ = now;
    const double rate = now > 0 ? static_cast<double>(step - done_) / now : 0;
    line_ = detail::progress_line(step, steps_, loss_, now > 0 ? static_cast<double>(tokens_) / now : 0,
                                  rate > 0 ? static_cast<double>(steps_ - step) / rate : 0);
    show();
  }

  /// Prints a message of its own line, above the bar.
  void note(std::string_view message) {
    if (!visible_) return;
    std::fprintf(stderr, "%s%.*s\n", terminal_ ? "\r\033[K" : "", static_cast<int>(message.size()), message.data());
    if (terminal_) show();
  }

  double elapsed() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }  ///< seconds since construction
  double loss() const { return loss_; }  ///< smoothed over about the last 20 steps

 private:
  using Clock = std::chrono::steady_clock;
  void show() const {
    if (line_.empty()) return;
    std::fprintf(stderr, terminal_ ? "\r%s\033[K" : "%s\n", line_.c_str());
    std::fflush(stderr);
  }

  Index steps_, done_;
  bool visible_, terminal_;
  Clock::time_point start_ = Clock::now();
  double shown_ = -1e9, loss_ = 0;
  Index tokens_ = 0, loss_steps_ = 0;
  std::string line_;
};

}  // namespace braid
