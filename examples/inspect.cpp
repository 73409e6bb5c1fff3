// What is in a checkpoint directory: its config, parameters, tensors, and what a sequence costs in cache beside full attention.
#include <braid/io/config_json.hpp>
#include <braid/io/index.hpp>
#include <braid/io/summary.hpp>
#include <tools/options.hpp>

#include <cstdio>
#include <iostream>

using braid::Config;
using braid::Index;

namespace {

/// 1234567 as "1,234,567".
std::string grouped(std::uint64_t n) {
  const std::string digits = std::to_string(n);
  std::string text;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i > 0 && (digits.size() - i) % 3 == 0) text.push_back(',');
    text.push_back(digits[i]);
  }
  return text;
}

/// Bytes with a unit that a person can compare.
std::string readable(double bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  int unit = 0;
  for (; bytes >= 1024 && unit < 4; ++unit) bytes /= 1024;
  char text[32];
  std::snprintf(text, sizeof text, unit ? "%.2f %s" : "%.0f %s", bytes, units[unit]);
  return text;
}

void print_config(const Config& c) {
  std::printf("model        %d layers of width %d, vocabulary %s%s\n", c.layers, c.hidden, grouped(static_cast<std::uint64_t>(c.vocab)).c_str(),
              c.tied ? ", tied embeddings" : "");
  std::printf("order        %s   (K linear attention, M full attention)\n", braid::layer_letters(c).c_str());
  if (c.linear_layers())
    std::printf("linear       %d layers, %d heads, key %d, value %d, convolution %d, gate rank %d\n", c.linear_layers(), c.heads, c.key_dim,
                c.value_dim, c.conv, c.low_rank());
  if (c.full_layers())
    std::printf("full (MLA)   %d layers, %d heads, latent %d, query %s, nope %d + rope %d (%s), value %d\n", c.full_layers(), c.full_heads(),
                c.kv_rank, c.q_rank ? std::to_string(c.q_rank).c_str() : "direct", c.nope_dim, c.rope_dim,
                c.position == braid::Position::rope ? "rotated" : "not rotated", c.mla_value_dim);
  if (c.moe_layers() < c.layers) std::printf("dense        %d layers of width %d\n", c.layers - c.moe_layers(), c.dense_width);
  if (c.moe_layers())
    std::printf("experts      %d layers, %d of %d per token in %d of %d groups, %d shared, width %d, scale %g\n", c.moe_layers(),
                c.experts_per_token, c.experts, c.groups_per_token, c.expert_groups, c.shared_experts, c.expert_width, c.routed_scale);
  const auto counts = braid::count_parameters(c);
  std::printf("parameters   %s in all, %s activated per token\n", grouped(static_cast<std::uint64_t>(counts.total)).c_str(),
              grouped(static_cast<std::uint64_t>(counts.activated)).c_str());
}

/// The cache of one sequence beside that of the same model with full attention in every layer.
void print_cache(const Config& c, Index width) {
  std::printf("\ncache of one sequence, %lld bytes per latent, states in float\n", static_cast<long long>(width));
  std::printf("%14s %14s %14s %9s\n", "tokens", "this order", "all MLA", "saved");
  for (Index tokens : {Index{4} << 10, Index{128} << 10, Index{1} << 20}) {
    const double own = braid::count_cache_bytes(c, tokens, width).total();
    const double full = braid::count_cache_bytes(braid::all_full_attention(c), tokens, width).total();
    std::printf("%14s %14s %14s %8.1f%%\n", grouped(static_cast<std::uint64_t>(tokens)).c_str(), readable(own).c_str(), readable(full).c_str(),
                100 * (1 - own / full));
  }
}

void print_weights(const braid::io::WeightFiles& files, bool list) {
  std::map<std::string_view, std::pair<std::uint64_t, std::uint64_t>> by_type;  // elements and bytes
  std::uint64_t elements = 0, bytes = 0;
  for (const auto& [name, entry] : files.tensors()) {
    const std::uint64_t size = entry.tensor->end - entry.tensor->begin, count = static_cast<std::uint64_t>(entry.tensor->size());
    auto& [type_elements, type_bytes] = by_type[braid::io::name_of(entry.tensor->type)];
    type_elements += count;
    type_bytes += size;
    elements += count;
    bytes += size;
  }
  std::printf("weights      %s tensors in %zu file%s, %s elements, %s\n", grouped(files.tensors().size()).c_str(), files.files().size(),
              files.files().size() == 1 ? "" : "s", grouped(elements).c_str(), readable(static_cast<double>(bytes)).c_str());
  for (const auto& [type, sums] : by_type)
    std::printf("  %-10s %s elements, %s\n", std::string(type).c_str(), grouped(sums.first).c_str(), readable(static_cast<double>(sums.second)).c_str());
  if (!list) return;
  for (const auto& [name, entry] : files.tensors())
    std::printf("  %-4s %-16s %s\n", std::string(braid::io::name_of(entry.tensor->type)).c_str(), braid::io::shape_text(entry.tensor->shape).c_str(),
                name.c_str());
}

/// Reads every weight; throws Error if one is NaN or infinite.
void check_weights(const braid::io::WeightFiles& files) {
  std::string bad;
  std::vector<double> block;
  constexpr Index step = 1 << 20;
  for (const auto& [name, entry] : files.tensors()) {
    bool finite = true;
    for (Index i = 0; i < entry.tensor->size(); i += step) {
      block.resize(static_cast<std::size_t>(std::min(step, entry.tensor->size() - i)));
      entry.file->read(*entry.tensor, i, static_cast<Index>(block.size()), block.data());
      finite &= braid::io::all_finite(block.data(), block.size());
    }
    if (!finite) bad += (bad.empty() ? "" : ", ") + name;
  }
  braid::require(bad.empty(), files.where(), "finite weights", "NaN or infinity in " + bad);
  std::printf("checked      every weight is finite\n");
}

}  // namespace

int main(int argc, char** argv) {
  std::string directory;
  bool list = false, check = false;
  braid::Index width = 4;
  braid::Options options("Shows what is in a checkpoint directory: config.json, parameters, tensors, bytes of cache.\n"
                         "Exit codes: 0 all is well, 1 the directory cannot be used, 2 wrong arguments.");
  options.need("directory", directory, "with config.json and, if there are weights, model.safetensors or its shards");
  options.flag("-l,--list", list, "list every tensor");
  options.flag("-c,--check", check, "read every weight and look for NaN and infinity");
  options.add("-w,--width", width, std::vector<braid::Index>{1, 2, 4, 8}, "bytes per element of the latent cache");
  options.parse(argc, argv);
  try {
    const Config config = braid::read_config(directory);
    print_config(config);
    namespace fs = std::filesystem;
    const fs::path folder = directory;
    if (fs::exists(folder / braid::io::single_file_name) || fs::exists(folder / braid::io::index_file_name)) {
      const braid::io::WeightFiles files(directory);
      print_weights(files, list);
      if (check) check_weights(files);
    } else {
      std::printf("weights      none\n");
    }
    print_cache(config, width);
  } catch (const std::exception& error) {
    std::cerr << "inspect: " << error.what() << "\n";
    return 1;
  }
}
