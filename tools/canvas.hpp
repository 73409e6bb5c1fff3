// A picture in memory: smooth lines, text, and a PNG file of it.
#pragma once

#include "font.hpp"

#include <braid/core/error.hpp>
#include <braid/io/atomic_file.hpp>

#include <png.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

namespace braid::plot {

struct Point {
  double x = 0, y = 0;
};
struct Colour {
  double r = 0, g = 0, b = 0;  ///< 0 to 1
};

/// A white picture of width x height pixels; (0, 0) is the upper left corner.
class Canvas {
 public:
  Canvas(int width, int height) : width_(width), height_(height), pixels_(static_cast<std::size_t>(width * height), Colour{1, 1, 1}) {}

  int width() const { return width_; }
  int height() const { return height_; }

  /// A polyline with round ends and joints. Each pixel is covered as far as its centre lies inside the pen, once for the whole line.
  void line(std::span<const Point> points, double pen, Colour colour) {
    if (points.empty()) return;
    Point low = points[0], high = points[0];
    for (Point p : points) {
      low = {std::min(low.x, p.x), std::min(low.y, p.y)};
      high = {std::max(high.x, p.x), std::max(high.y, p.y)};
    }
    const int left = clamp_x(low.x - pen), right = clamp_x(high.x + pen + 1), top = clamp_y(low.y - pen), bottom = clamp_y(high.y + pen + 1);
    const int w = right - left, h = bottom - top;
    std::vector<double> coverage(static_cast<std::size_t>(w * h), 0);
    for (std::size_t i = 0; i < points.size(); ++i) {
      const Point a = points[i ? i - 1 : 0], b = points[i];
      const int y1 = std::min(bottom, clamp_y(std::max(a.y, b.y) + pen + 1)), x1 = std::min(right, clamp_x(std::max(a.x, b.x) + pen + 1));
      for (int y = std::max(top, clamp_y(std::min(a.y, b.y) - pen)); y < y1; ++y)
        for (int x = std::max(left, clamp_x(std::min(a.x, b.x) - pen)); x < x1; ++x) {
          double& c = coverage[static_cast<std::size_t>((y - top) * w + x - left)];
          c = std::max(c, std::clamp(pen / 2 + 0.5 - distance({x + 0.5, y + 0.5}, a, b), 0.0, 1.0));
        }
    }
    for (int y = 0; y < h; ++y)
      for (int x = 0; x < w; ++x) blend(left + x, top + y, colour, coverage[static_cast<std::size_t>(y * w + x)]);
  }
  void line(Point a, Point b, double pen, Colour colour) {
    const Point points[] = {a, b};
    line(points, pen, colour);
  }

  /// Pixels that `text` takes in the writing direction. `size` is the height of a capital.
  static double text_width(std::string_view text, double size) {
    return text.empty() ? 0 : (static_cast<double>(text.size()) * glyph_advance - 2) * size / 6;
  }
  /// Text whose middle line begins at `at`, or is centred there (`align` 0.5), or ends there (1); upwards if `vertical`.
  void text(std::string_view text, Point at, double size, Colour colour, double align = 0, bool vertical = false) {
    const double unit = size / 6, pen = std::max(1.0, size / 8);
    double pos = -align * text_width(text, size);
    for (char c : text) {
      const Glyph glyph = c >= ' ' && c <= '~' ? font[static_cast<std::size_t>(c - ' ')] : font['?' - ' '];
      std::vector<Point> stroke;
      for (std::size_t i = 0; i <= glyph.size(); i += 2) {
        if (i >= glyph.size() || glyph[i] == ' ') {
          line(stroke, pen, colour);
          stroke.clear();
          if (i >= glyph.size()) break;
          ++i;
        }
        const double along = pos + (glyph[i] - '0') * unit, down = (glyph[i + 1] - '0' - glyph_middle) * unit;
        stroke.push_back(vertical ? Point{at.x + down, at.y - along} : Point{at.x + along, at.y + down});
      }
      pos += glyph_advance * unit;
    }
  }

  /// Writes a PNG file, atomically.
  void write(const std::filesystem::path& path) const {
    std::vector<png_byte> bytes;
    for (const Colour& c : pixels_)
      for (double channel : {c.r, c.g, c.b}) bytes.push_back(static_cast<png_byte>(std::lround(255 * std::clamp(channel, 0.0, 1.0))));
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    image.width = static_cast<png_uint_32>(width_);
    image.height = static_cast<png_uint_32>(height_);
    image.format = PNG_FORMAT_RGB;
    png_alloc_size_t size = 0;
    const auto encode = [&](void* to) { return png_image_write_to_memory(&image, to, &size, 0, bytes.data(), 0, nullptr); };
    require(encode(nullptr), path.string(), "a picture that can be encoded", image.message);
    std::vector<png_byte> file(size);
    require(encode(file.data()), path.string(), "a picture that can be encoded", image.message);
    io::AtomicFile out(path);
    out.write(file.data(), size);
    out.commit();
  }

 private:
  int clamp_x(double x) const { return static_cast<int>(std::clamp(std::floor(x), 0.0, double(width_))); }
  int clamp_y(double y) const { return static_cast<int>(std::clamp(std::floor(y), 0.0, double(height_))); }
  static double distance(Point p, Point a, Point b) {
    const double dx = b.x - a.x, dy = b.y - a.y, length2 = dx * dx + dy * dy;
    const double t = length2 > 0 ? std::clamp(((p.x - a.x) * dx + (p.y - a.y) * dy) / length2, 0.0, 1.0) : 0;
    return std::hypot(p.x - a.x - t * dx, p.y - a.y - t * dy);
  }
  void blend(int x, int y, Colour c, double alpha) {
    Colour& p = pixels_[static_cast<std::size_t>(y * width_ + x)];
    p = {p.r + alpha * (c.r - p.r), p.g + alpha * (c.g - p.g), p.b + alpha * (c.b - p.b)};
  }

  int width_, height_;
  std::vector<Colour> pixels_;
};

}  // namespace braid::plot
