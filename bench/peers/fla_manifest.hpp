// Reads the manifest that fla_capture.py writes and describes: the cases, each with its buffers and, in order, what is launched on them.
#pragma once

#include <algorithm>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

using Bytes = std::vector<unsigned char>;

inline void require(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}

struct Buffer {
  std::size_t bytes = 0;
  std::string fill, name;
  bool per_set = false;
  std::vector<char*> copies;  ///< one, or one for each set
  char* at(int set) const { return copies[per_set ? static_cast<std::size_t>(set) : 0]; }
};
struct Argument {
  int buffer = -1;
  std::size_t offset = 0;
  Bytes scalar;
};
struct Alternative {
  std::string cubin, name, config;
  unsigned threads = 0, shared = 0, grid[3] = {};
  std::vector<Argument> arguments;
};
struct Step {  ///< a launch, or a fill with zero if it has no alternatives
  std::string kernel;
  std::vector<Alternative> alternatives;
  std::size_t chosen = 0, offset = 0, bytes = 0;
  int buffer = 0;
};
struct Case {
  std::string op, what, gate;
  int heads = 0, l2norm = 0, sigmoid = 0, sets = 1;
  float bound = 0;
  std::vector<int> lengths;
  std::vector<Buffer> buffers;
  std::vector<Step> steps;
  std::string key() const { return what + "|" + std::to_string(heads) + "|" + gate; }
  const char* get(const std::string& name) const {
    for (const auto& b : buffers)
      if (b.name == name) return b.at(0);
    return nullptr;
  }
};

inline std::string spaced(std::string text) {
  std::replace(text.begin(), text.end(), '~', ' ');
  return text;
}
inline Bytes from_hex(const std::string& text) {
  Bytes out;
  for (std::size_t i = 0; i + 1 < text.size(); i += 2) out.push_back(static_cast<unsigned char>(std::stoi(text.substr(i, 2), nullptr, 16)));
  return out;
}

inline Argument read_argument(const std::string& word, const Case& c) {
  Argument a;
  if (word[0] != '@') return a.scalar = from_hex(word), a;
  const auto plus = word.find('+');
  a.buffer = std::stoi(word.substr(1, plus - 1)), a.offset = std::stoull(word.substr(plus + 1));
  require(a.offset <= c.buffers.at(static_cast<std::size_t>(a.buffer)).bytes, "argument " + word);
  return a;
}

inline void read_line(const std::string& line, Case& c) {
  std::istringstream in(line);
  std::string kind, word;
  in >> kind;
  if (kind == "case") {
    in >> c.op >> c.what >> c.heads >> c.gate >> c.l2norm >> c.sigmoid >> c.bound >> c.sets;
    c.what = spaced(c.what);
    for (int n; in >> n;) c.lengths.push_back(n);
  } else if (kind == "buffer") {
    Buffer b;
    std::size_t id = 0;
    in >> id >> b.bytes >> b.fill >> b.name;
    b.per_set = b.fill.starts_with("set:");
    if (b.per_set) b.fill = b.fill.substr(4);
    require(in && id == c.buffers.size(), line);
    c.buffers.push_back(b);
  } else if (kind == "memset") {
    Step s;
    in >> s.buffer >> s.offset >> s.bytes;
    require(in && s.offset + s.bytes <= c.buffers.at(static_cast<std::size_t>(s.buffer)).bytes, line);
    c.steps.push_back(s);
  } else if (kind == "launch") {
    c.steps.emplace_back();
    in >> c.steps.back().kernel;
  } else {
    Alternative a;
    in >> a.cubin >> a.name >> a.threads >> a.shared >> a.grid[0] >> a.grid[1] >> a.grid[2] >> a.config;
    require(kind == "alt" && in && !c.steps.empty() && !c.steps.back().kernel.empty(), line);
    while (in >> word) a.arguments.push_back(read_argument(word, c));
    c.steps.back().alternatives.push_back(a);
  }
}

inline std::vector<Case> read_manifest(const std::string& path) {
  std::ifstream in(path);
  require(in.good(), "cannot read " + path);
  std::vector<Case> cases(1);
  for (std::string line; std::getline(in, line);) {
    if (line == "end") cases.emplace_back();
    else read_line(line, cases.back());
  }
  cases.pop_back();
  return cases;
}
