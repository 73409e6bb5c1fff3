// A line chart: axes with round ticks, a grid, curves, and a legend.
#pragma once

#include "canvas.hpp"

#include <array>
#include <cstdio>
#include <string>
#include <utility>

namespace braid::plot {

struct Series {
  std::string name;
  std::vector<Point> points = {};
};

struct Chart {
  std::string title = {}, x_label = {}, y_label = {};
  bool log_x = false, log_y = false;
  std::vector<Series> series = {};

  /// Draws the chart. Points that are not finite (or not positive on a logarithmic axis) are left out and break their curve.
  Canvas draw(int width = 960, int height = 600) const;
};

namespace detail {

/// One axis: which values it spans, where its ticks are, how they are written.
struct Axis {
  double low = 0, high = 1;  ///< of the data, as logarithms if `log`
  bool log = false;
  std::vector<double> ticks = {};  ///< in the axis's own (possibly logarithmic) unit

  double value(double v) const { return log ? std::log10(v) : v; }
  double place(double v) const { return (value(v) - low) / (high - low); }

  std::string label(double tick) const {
    char text[32];
    const double shown = log ? std::pow(10, tick) : tick;
    std::snprintf(text, sizeof text, "%.6g", std::abs(shown) < 1e-12 ? 0.0 : shown);
    return text;
  }
};

/// The smallest of 1, 2, 5 times a power of ten that is at least `x`.
inline double round_step(double x) {
  const double power = std::pow(10, std::floor(std::log10(x)));
  for (double factor : {1.0, 2.0, 5.0})
    if (factor * power >= x * (1 - 1e-9)) return factor * power;
  return 10 * power;
}

/// An axis around [low, high] with about `count` ticks.
inline Axis make_axis(double low, double high, bool log, int count) {
  Axis axis{.log = log};
  if (!(low <= high)) low = log ? 1 : 0, high = log ? 10 : 1;
  axis.low = axis.value(low), axis.high = axis.value(high);
  if (axis.high - axis.low < 1e-9 * std::max(1.0, std::abs(axis.high))) axis.low -= 0.5, axis.high += 0.5;
  if (log) {  // 1, 2 and 5 in every decade while there is room, then whole decades; round steps where that leaves fewer than three
    const std::vector<double> in_decade = axis.high - axis.low < 2.5 ? std::vector<double>{1, 2, 5} : std::vector<double>{1};
    const double stride = std::max(1.0, std::ceil((axis.high - axis.low) / count));
    for (double decade = std::floor(axis.low); decade <= axis.high; decade += stride)
      for (double d : in_decade) {
        const double tick = decade + std::log10(d);
        if (tick >= axis.low - 1e-9 && tick <= axis.high + 1e-9) axis.ticks.push_back(tick);
      }
    if (axis.ticks.size() < 3) {
      axis.ticks.clear();
      const double first = std::pow(10, axis.low), last = std::pow(10, axis.high), step = round_step((last - first) / count);
      for (double tick = std::ceil(first / step - 1e-9) * step; tick <= last * (1 + 1e-9); tick += step) axis.ticks.push_back(std::log10(tick));
    }
  } else {
    const double step = round_step((axis.high - axis.low) / count);
    axis.low = std::floor(axis.low / step + 1e-9) * step, axis.high = std::ceil(axis.high / step - 1e-9) * step;
    for (int i = 0; axis.low + i * step <= axis.high + step / 2; ++i) axis.ticks.push_back(axis.low + i * step);
  }
  return axis;
}

/// Eight colours that stay apart for colour-blind eyes (Okabe and Ito 2008, black last).
inline constexpr std::array<Colour, 8> palette = {{{0.00, 0.45, 0.70}, {0.84, 0.37, 0.00}, {0.00, 0.62, 0.45}, {0.80, 0.47, 0.65},
                                                   {0.90, 0.62, 0.00}, {0.34, 0.71, 0.91}, {0.75, 0.70, 0.10}, {0.10, 0.10, 0.10}}};
}  // namespace detail

inline Canvas Chart::draw(int width, int height) const {
  const Colour ink{0.15, 0.15, 0.15}, faint{0.88, 0.88, 0.88};
  const double font = 9, small = 8;
  const auto usable = [&](Point p) {
    return std::isfinite(p.x) && std::isfinite(p.y) && !(log_x && p.x <= 0) && !(log_y && p.y <= 0);
  };
  double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY, legend = 0;
  for (const Series& s : series) {
    for (Point p : s.points)
      if (usable(p)) x0 = std::min(x0, p.x), x1 = std::max(x1, p.x), y0 = std::min(y0, p.y), y1 = std::max(y1, p.y);
    legend = std::max(legend, Canvas::text_width(s.name, small) + 45);
  }
  const auto x_axis = detail::make_axis(x0, x1, log_x, 8), y_axis = detail::make_axis(y0, y1, log_y, 6);
  double tick_width = 0;
  for (double t : y_axis.ticks) tick_width = std::max(tick_width, Canvas::text_width(y_axis.label(t), small));
  const double left = 44 + tick_width, right = width - 20 - legend, top = title.empty() ? 20 : 44, bottom = height - 56;

  Canvas canvas(width, height);
  const auto x_at = [&](double place) { return left + place * (right - left); };
  const auto y_at = [&](double place) { return bottom - place * (bottom - top); };
  for (double t : x_axis.ticks) {
    const double x = x_at((t - x_axis.low) / (x_axis.high - x_axis.low));
    canvas.line({x, top}, {x, bottom}, 1, faint);
    canvas.text(x_axis.label(t), {x, bottom + 14}, small, ink, 0.5);
  }
  for (double t : y_axis.ticks) {
    const double y = y_at((t - y_axis.low) / (y_axis.high - y_axis.low));
    canvas.line({left, y}, {right, y}, 1, faint);
    canvas.text(y_axis.label(t), {left - 8, y}, small, ink, 1);
  }
  canvas.line({left, bottom}, {right, bottom}, 1.2, ink);
  canvas.line({left, top}, {left, bottom}, 1.2, ink);
  canvas.text(title, {(left + right) / 2, 22}, font + 2, ink, 0.5);
  canvas.text(x_label, {(left + right) / 2, height - 18.0}, font, ink, 0.5);
  canvas.text(y_label, {16, (top + bottom) / 2}, font, ink, 0.5, true);

  for (std::size_t i = 0; i < series.size(); ++i) {
    const Colour colour = detail::palette[i % detail::palette.size()];
    std::vector<Point> run;
    for (Point p : series[i].points) {
      if (usable(p)) {
        run.push_back({x_at(x_axis.place(p.x)), y_at(y_axis.place(p.y))});
      } else {
        canvas.line(run, 2, colour);
        run.clear();
      }
    }
    canvas.line(run, 2, colour);
    const double y = top + 10 + 20.0 * static_cast<double>(i);
    canvas.line({right + 14, y}, {right + 34, y}, 2.5, colour);
    canvas.text(series[i].name, {right + 42, y}, small, ink);
  }
  return canvas;
}

}  // namespace braid::plot
