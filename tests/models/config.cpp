#include <braid/models/presets.hpp>

#include <doctest/doctest.h>

#include <cmath>
#include <string>

using namespace braid;

namespace {
std::string letters(const Config& c) {
  std::string out;
  for (int l = 0; l < c.layers; ++l) out += c.is_full(l) ? 'M' : 'K';
  return out;
}
Config with(Ratio ratio, int layers) {
  Config c;
  c.ratio = ratio;
  c.layers = layers;
  return c;
}
/// |count / published - 1|
constexpr double off(Index count, double published) {
  const double r = static_cast<double>(count) / published - 1;
  return r < 0 ? -r : r;
}
}  // namespace

TEST_CASE("the ratio puts full attention where the published model has it") {
  CHECK(letters(kimi_linear_48b) == "KKKMKKKMKKKMKKKMKKKMKKKMKKM");
  CHECK(letters(with({7, 1}, 8)) == "KKKKKKKM");
  CHECK(letters(with({1, 1}, 4)) == "KMKM");
  CHECK(letters(with({0, 1}, 3)) == "MMM");
  CHECK(letters(with({1, 0}, 3)) == "KKK");
  CHECK(letters(with({3, 1}, 2)) == "KM");
}

TEST_CASE("an explicit order overrides the ratio, up to 128 layers") {
  Config c;
  c.layers = 5;
  c.order = "KMKMM";
  CHECK(letters(c) == "KMKMM");
  CHECK(c.full_layers() == 3);
  LayerOrder long_order(std::string(128, 'M').c_str());
  CHECK(long_order.is_full(127));
  CHECK_THROWS_AS(LayerOrder(std::string(129, 'K').c_str()), Error);
  CHECK_THROWS_AS(LayerOrder("KX"), Error);
}

TEST_CASE("parameter counts are constants and meet the published ones") {
  // 48B-A3B: 49.1 B in its files, about 3 B active.
  static_assert(off(KimiLinear48B::parameter_count, 49.1e9) < 0.005);
  static_assert(KimiLinear48B::activated_count > 2'950'000'000 && KimiLinear48B::activated_count < 3'150'000'000);
  // Table 2: activated parameters; 8 columns of expert width are about 0.7 % of the smallest model.
  static_assert(off(CausalLm<scaling_653m>::activated_count, 653e6) < 0.005);
  static_assert(off(CausalLm<scaling_878m>::activated_count, 878e6) < 0.005);
  static_assert(off(CausalLm<scaling_1100m>::activated_count, 1.1e9) < 0.005);
  static_assert(off(CausalLm<scaling_1400m>::activated_count, 1.4e9) < 0.005);
  static_assert(off(CausalLm<scaling_1700m>::activated_count, 1.7e9) < 0.005);
}

TEST_CASE("the hybrid's cache is a quarter of the all-MLA model's at a million tokens") {
  // 7 of 27 layers keep latents; the 20 states weigh little at this length. The paper: "up to 75 %" smaller.
  const double ratio = static_cast<double>(KimiLinear48B::cache_bytes(1 << 20)) / static_cast<double>(Mla48B::cache_bytes(1 << 20));
  CHECK(ratio < 0.27);
  CHECK(ratio > 0.25);
}
