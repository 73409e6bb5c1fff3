// Draws curves from JSONL logs as a PNG file:  plot run.jsonl --y loss -o loss.png
#include "chart.hpp"
#include "options.hpp"

#include <nlohmann/json.hpp>

#include <fstream>
#include <iostream>
#include <map>

namespace {

using Json = nlohmann::json;

struct Arguments {
  std::vector<std::string> files, y{"loss"}, by;
  std::string x = "step", out = "curves.png", title;
  braid::Index width = 960, height = 600, smooth = 1;
  bool log_x = false, log_y = false;
};

/// A value as it should read in a legend.
std::string plain(const Json& value) { return value.is_string() ? value.get<std::string>() : value.dump(); }

/// The curve's name: the file (if there are several), the values of the `by` fields, and y (if there are several).
std::string name_of(const Arguments& args, const std::string& file, const Json& line, const std::string& y) {
  std::vector<std::string> parts;
  if (args.files.size() > 1 && args.by.empty()) parts.push_back(std::filesystem::path(file).stem().string());
  for (const std::string& field : args.by) parts.push_back(line.contains(field) ? plain(line[field]) : "-");
  if (args.y.size() > 1 || parts.empty()) parts.push_back(y);
  std::string name;
  for (const std::string& part : parts) name += (name.empty() ? "" : " ") + part;
  return name;
}

/// Mean over a window of `width` points that ends at each point.
void smooth(std::vector<braid::plot::Point>& points, std::size_t width) {
  std::vector<braid::plot::Point> out;
  for (std::size_t i = 0; i < points.size(); ++i) {
    const std::size_t first = i + 1 >= width ? i + 1 - width : 0;
    double sum = 0;
    for (std::size_t j = first; j <= i; ++j) sum += points[j].y;
    out.push_back({points[i].x, sum / static_cast<double>(i + 1 - first)});
  }
  points = std::move(out);
}

/// One series per name, in the order of appearance; of two lines with the same x the later one counts (a run that was resumed).
std::vector<braid::plot::Series> read(const Arguments& args) {
  std::vector<std::string> names;
  std::map<std::string, std::map<double, double>> curves;
  for (const std::string& file : args.files) {
    std::ifstream in(file);
    braid::require(in.good(), file, "a JSONL log that can be read", "none");
    int number = 0;
    for (std::string text; std::getline(in, text);) {
      ++number;
      const Json line = Json::parse(text, nullptr, false);
      braid::require(line.is_object(), file + ":" + std::to_string(number), "a JSON object", text.substr(0, 40));
      for (const std::string& y : args.y) {
        if (!line.contains(args.x) || !line[args.x].is_number() || !line.contains(y) || !line[y].is_number()) continue;
        const std::string name = name_of(args, file, line, y);
        if (!curves.contains(name)) names.push_back(name);
        curves[name][line[args.x].get<double>()] = line[y].get<double>();
      }
    }
  }
  std::vector<braid::plot::Series> series;
  for (const std::string& name : names) {
    series.push_back({name});
    for (const auto& [x, y] : curves[name]) series.back().points.push_back({x, y});
    smooth(series.back().points, static_cast<std::size_t>(args.smooth));
  }
  braid::require(!series.empty(), args.files.front(), "lines with the numbers " + args.x + " and " + args.y.front(), "none");
  return series;
}

std::string joined(const std::vector<std::string>& parts) {
  std::string out;
  for (const std::string& part : parts) out += (out.empty() ? "" : ", ") + part;
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments args;
  braid::Options options("Draws curves from JSONL logs as a PNG file.");
  options.need("files", args.files, braid::Existing::file, "Logs: one JSON object per line");
  options.add("-x,--x", args.x, "Field on the horizontal axis");
  options.add("-y,--y", args.y, {}, "Fields on the vertical axis, separated by commas");
  options.add("--by", args.by, {}, "Fields whose values make curves of their own, separated by commas");
  options.add("-o,--out", args.out, "The picture");
  options.add("--title", args.title, "Title above the curves");
  options.add("--smooth", args.smooth, braid::counts, "Mean over this many points");
  options.add("--width", args.width, braid::Range<braid::Index>{200, 10000}, "Pixels");
  options.add("--height", args.height, braid::Range<braid::Index>{150, 10000}, "Pixels");
  options.flag("--log-x", args.log_x, "Logarithmic horizontal axis");
  options.flag("--log-y", args.log_y, "Logarithmic vertical axis");
  options.parse(argc, argv);
  try {
    braid::plot::Chart chart{args.title, args.x, joined(args.y), args.log_x, args.log_y, read(args)};
    chart.draw(static_cast<int>(args.width), static_cast<int>(args.height)).write(args.out);
    std::cout << args.out << '\n';
  } catch (const braid::Error& error) {
    std::cerr << "plot: " << error.what() << '\n';
    return 1;
  }
}
