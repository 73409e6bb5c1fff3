// safetensors: what is written is read again to the bit, conversions round as IEEE says, and bad files end in an Error.
#include <braid/io/safetensors.hpp>

#include <io/folder.hpp>

#include <doctest/doctest.h>

#include <csignal>
#include <cmath>
#include <limits>

#include <sys/resource.h>

namespace fs = std::filesystem;
using namespace braid;
using namespace braid::io;
using namespace braid::test;

namespace {
/// A file of a given header text and number of data bytes; `length` overrides the header's length field.
fs::path write_raw(const fs::path& path, const std::string& header, std::size_t data, std::uint64_t length = ~std::uint64_t{0}) {
  std::ofstream out(path, std::ios::binary);
  if (length == ~std::uint64_t{0}) length = header.size();
  for (int i = 0; i < 8; ++i) out.put(static_cast<char>(length >> (8 * i)));
  out << header << std::string(data, '\1');
  return path;
}
}  // namespace

TEST_CASE("half-precision conversions are exact and round to nearest even") {
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {  // every value there is
    const F16 half{static_cast<std::uint16_t>(bits)};
    const int exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const float x = to_float(half);
    if (exponent == 31) {
      CHECK_EQ(std::isnan(x), fraction != 0);
      CHECK_EQ(std::isinf(x), fraction == 0);
    } else {
      const float expected = std::ldexp(static_cast<float>(exponent ? 1024 + fraction : fraction), (exponent ? exponent : 1) - 25);
      REQUIRE_EQ(x, bits >> 15 ? -expected : expected);
      REQUIRE_EQ(to_f16(x).bits, bits);
      const float next = to_float(F16{static_cast<std::uint16_t>(bits + 1)});
      if (std::isfinite(next) && (bits & 0x7FFF) != 0x7FFF) {
        const float middle = (x + next) / 2;  // exact in float
        REQUIRE_EQ(to_f16(middle).bits, bits % 2 ? bits + 1 : bits);
        REQUIRE_EQ(to_f16(std::nextafter(middle, x)).bits, bits);
        REQUIRE_EQ(to_f16(std::nextafter(middle, next)).bits, bits + 1);
        REQUIRE_EQ(convert<F16>(static_cast<double>(middle) + (next - x) * 1e-12).bits, bits + 1);
      }
    }
    const Bf16 brain{static_cast<std::uint16_t>(bits)};
    const float y = to_float(brain);
    if (std::isfinite(y)) {
      REQUIRE_EQ(to_bf16(y).bits, bits);
      const auto up = std::bit_cast<float>(bits << 16 | 0x8001u), tie = std::bit_cast<float>(bits << 16 | 0x8000u);
      REQUIRE_EQ(to_bf16(up).bits, bits + 1);
      REQUIRE_EQ(to_bf16(tie).bits, bits % 2 ? bits + 1 : bits);
      if (y > 1e-30f && y < 1e30f) REQUIRE_EQ(convert<Bf16>(static_cast<double>(tie) * (1 + 1e-14)).bits, bits + 1);
    }
  }
  CHECK_EQ(to_f16(65519.f).bits, 0x7BFF);
  CHECK_EQ(to_f16(65520.f).bits, 0x7C00);
  CHECK_EQ(to_f16(-1e30f).bits, 0xFC00);
  CHECK_EQ(to_bf16(std::numeric_limits<float>::max()).bits, 0x7F80);
  CHECK(std::isnan(to_float(to_bf16(std::bit_cast<float>(0x7F800001u)))));
  CHECK(std::isnan(to_float(to_f16(std::bit_cast<float>(0x7F800001u)))));
}

TEST_CASE("every type is written and read again") {
  const Folder folder("safetensors");
  const std::vector<float> x{1.5f, -2, 0, 1e-40f, 3.14159f, 7};
  const std::vector<double> d{1e300, -0.1, 5};
  const std::vector<std::int64_t> i{-1, std::numeric_limits<std::int64_t>::max()};
  const std::vector<std::uint8_t> bytes{0, 1, 255};
  const bool flags[2] = {true, false};
  const std::vector<TensorSource> sources{
      tensor_source("x", {2, 3}, x.data()),  tensor_source("d", {3}, d.data()),          tensor_source("i", {2, 1}, i.data()),
      tensor_source("bytes", {3}, bytes.data()), tensor_source("flags", {2}, flags),     tensor_source("empty", {0, 4}, x.data()),
      tensor_source("half", {6}, x.data(), Stored::f16), tensor_source("brain", {6}, x.data(), Stored::bf16),
      tensor_source("scalar", {}, d.data()), tensor_source("näme \"quoted\"\n", {1}, d.data(), Stored::f32)};
  const auto path = folder / "a.safetensors";
  write_safetensors(path, sources, {{"format", "pt"}, {"step", "7"}});
  CHECK_EQ(folder.files(), 1);

  const SafetensorsFile file(path);
  CHECK_EQ(file.metadata(), Metadata{{"format", "pt"}, {"step", "7"}});
  REQUIRE_EQ(file.tensors().size(), sources.size());
  CHECK_EQ(file.read<float>("x"), x);
  CHECK_EQ(file.read<double>("d"), d);
  CHECK_EQ(file.read<std::int64_t>("i"), i);
  CHECK_EQ(file.read<std::uint8_t>("bytes"), bytes);
  CHECK_EQ(file.read<int>("bytes"), std::vector<int>{0, 1, 255});
  CHECK_EQ(file.read<float>("flags"), std::vector<float>{1, 0});
  CHECK(file.read<float>("empty").empty());
  CHECK_EQ(file.read<double>("scalar"), std::vector<double>{1e300});
  CHECK_EQ(file.at("x").shape, std::vector<Index>{2, 3});
  CHECK_EQ(file.read<double>("brain")[0], 1.5);
  CHECK_EQ(file.read<float>("half")[4], doctest::Approx(3.14159).epsilon(0x1p-11));
  float middle[3];
  file.read(file.at("x"), 1, 3, middle);
  CHECK_EQ(middle[1], 0);

  CHECK(has(error_of([&] { file.read<float>("y"); }), "tensor y"));
  CHECK(has(error_of([&] { file.read<int>("x"); }), "F32"));
  CHECK(has(error_of([&] { file.read<std::int32_t>("i"); }), "fit into I32"));
  CHECK(has(error_of([&] { file.read("x", middle, 3); }), "3 elements"));
  CHECK(has(error_of([&] { file.read(file.at("x"), 4, 3, middle); }), "range within"));
  CHECK(has(error_of([&] { write_safetensors(path, std::vector{sources[0], sources[0]}); }), "x twice"));
  CHECK(has(error_of([&] { write_safetensors(path, std::vector{tensor_source("a\xff", {1}, x.data())}); }), "names and metadata in UTF-8"));
  CHECK(has(error_of([&] { write_safetensors(path, sources, {{"note", "\xc3"}}); }), "names and metadata in UTF-8"));
  CHECK_EQ(SafetensorsFile(path).metadata(), file.metadata());  // what was there is untouched
}

TEST_CASE("large tensors are converted block by block") {
  const Folder folder("safetensors");
  std::vector<float> x(100'001);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i);
  write_safetensors(folder / "a", std::vector{tensor_source("x", {100'001}, x.data()), tensor_source("d", {100'001}, x.data(), Stored::f64)});
  const SafetensorsFile file(folder / "a");
  CHECK_EQ(file.read<float>("d"), x);
  CHECK_EQ(file.read<double>("x").back(), 100'000);
}

TEST_CASE("headers that lie are refused") {
  const Folder folder("safetensors");
  const auto path = folder / "bad.safetensors";
  const auto error = [&](const std::string& header, std::size_t data, std::uint64_t length = ~std::uint64_t{0}) {
    write_raw(path, header, data, length);
    return error_of([&] { SafetensorsFile file(path); });
  };
  const auto tensor = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return "\"dtype\":\"" + dtype + "\",\"shape\":[" + shape + "],\"data_offsets\":[" + offsets + "]";
  };
  const std::string good = "{\"a\":{" + tensor("F32", "2", "0,8") + "}}";
  CHECK_EQ(error(good, 8), "");
  CHECK_EQ(error(good + "   ", 8), "");
  CHECK_EQ(error("{}", 0), "");
  CHECK(has(error(good, 7), "within the file's 7 bytes"));
  CHECK(has(error(good, 9), "found 9"));
  CHECK(has(error(good, 8, 1000), "header within"));
  CHECK(has(error(good, 8, ~std::uint64_t{0} - 1), "header of at most"));
  CHECK(has(error(good, 8, good.size() - 1), "valid JSON"));
  CHECK(has(error(good + "x", 8), "valid JSON"));
  CHECK(has(error(good + std::string(1, '\0'), 8), "zero byte"));
  CHECK(has(error(" " + good, 8), "begins with {"));
  CHECK(has(error("[]", 0), "begins with {"));
  CHECK(has(error("{\"a\xff\":1}", 8), "valid JSON"));
  CHECK(has(error("{\"a\":1}", 0), "dtype, shape and data_offsets"));
  CHECK(has(error("{\"a\":{" + tensor("F32", "2", "0,8") + ",\"more\":1}}", 8), "dtype, shape and data_offsets"));
  CHECK(has(error("{\"a\":{" + tensor("F31", "2", "0,8") + "}}", 8), "F31"));
  CHECK(has(error("{\"a\":{" + tensor("F64", "2", "0,8") + "}}", 8), "16 bytes for F64 [2]"));
  CHECK(has(error("{\"a\":{" + tensor("F32", "3", "0,8") + "}}", 8), "12 bytes"));
  CHECK(has(error("{\"a\":{" + tensor("F32", "-2", "0,8") + "}}", 8), "found -2"));
  CHECK(has(error("{\"a\":{" + tensor("F32", "2.0", "0,8") + "}}", 8), "found 2.0"));
  CHECK(has(error("{\"a\":{" + tensor("F32", "\"2\"", "0,8") + "}}", 8), "whole numbers"));
  CHECK(has(error("{\"a\":{" + tensor("F32", "2", "8,0") + "}}", 8), "[8, 0]"));
  CHECK(has(error("{\"a\":{" + tensor("F32", "2", "0") + "}}", 8), "two data_offsets"));
  CHECK(has(error("{\"a\":{" + tensor("F32", "2", "0,8,8") + "}}", 8), "two data_offsets"));
  CHECK(has(error("{\"a\":{" + tensor("F32", "4611686018427387904,4", "0,0") + "}}", 0), "below 2^63 bytes"));
  CHECK(has(error("{\"a\":{" + tensor("F32", "18446744073709551615", "0,0") + "}}", 0), "below 2^63"));
  CHECK(has(error("{\"a\":{" + tensor("F32", "18446744073709551616", "0,0") + "}}", 0), "whole numbers"));
  CHECK(has(error("{\"a\":{" + tensor("F32", "1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1", "0,4") + "}}", 4), "16 extents"));
  const auto two = [&](const std::string& first, const std::string& second) {
    return "{\"a\":{" + tensor("U8", "4", first) + "},\"b\":{" + tensor("U8", "4", second) + "}}";
  };
  CHECK_EQ(error(two("4,8", "0,4"), 8), "");  // any order in the text
  CHECK(has(error(two("0,4", "2,6"), 6), "begins at 4"));   // overlap
  CHECK(has(error(two("0,4", "6,10"), 10), "begins at 4"));  // hole
  CHECK(has(error(two("0,4", "4,8"), 12), "found 12"));      // rest
  CHECK(has(error("{\"a\":{" + tensor("U8", "4", "0,4") + "},\"a\":{" + tensor("U8", "4", "4,8") + "}}", 8), "\"a\" twice"));
  CHECK(has(error("{\"a\":{\"dtype\":\"U8\"," + tensor("U8", "4", "0,4") + "}}", 4), "\"dtype\" twice"));
  CHECK(has(error("{\"__metadata__\":{\"a\":1}}", 0), "__metadata__ of strings"));
  CHECK(has(error("{\"__metadata__\":[]}", 0), "__metadata__"));
  std::string deep = "{\"a\":";
  for (int i = 0; i < 100'000; ++i) deep += "[";
  CHECK(has(error(deep, 0), "nested"));

  std::ofstream(path) << "short";
  CHECK(has(error_of([&] { SafetensorsFile file(path); }), "at least 8 bytes"));
  CHECK(has(error_of([&] { SafetensorsFile file(folder / "none"); }), "No such file"));
  CHECK(has(error_of([&] { SafetensorsFile file(folder.path); }), "regular file"));
  CHECK(has(error_of([&] { SafetensorsFile file("/dev/zero"); }), "regular file"));
}

TEST_CASE("a file that shrinks after it was opened is an Error, not a crash") {
  const Folder folder("safetensors");
  const std::vector<float> x(100'000, 1);
  write_safetensors(folder / "a", std::vector{tensor_source("x", {100'000}, x.data())});
  const SafetensorsFile file(folder / "a");
  fs::resize_file(folder / "a", 5000);
  CHECK(has(error_of([&] { file.read<float>("x"); }), "become shorter"));
  CHECK(has(error_of([&] { file.read<double>("x"); }), "become shorter"));
}

TEST_CASE("a disk without room loses nothing") {
  const Folder folder("safetensors");
  const std::vector<float> old(10, 1), x(1'000'000, 2);
  const auto path = folder / "a";
  write_safetensors(path, std::vector{tensor_source("x", {10}, old.data())});
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{65536, before.rlim_max};
  setrlimit(RLIMIT_FSIZE, &small);
  const std::string error = error_of([&] { write_safetensors(path, std::vector{tensor_source("x", {1'000'000}, x.data())}); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  CHECK(has(error, "room to write"));
  CHECK_EQ(SafetensorsFile(path).read<float>("x"), old);
  CHECK_EQ(folder.files(), 1);
  CHECK(has(error_of([&] { write_safetensors(folder / "no/such/folder", {}); }), "folder that can be written"));
}

TEST_CASE("a map shows the file without a copy") {
  const Folder folder("safetensors");
  write_text(folder / "a", "hello");
  MappedFile file(folder / "a");
  const auto map = file.map();
  CHECK_EQ(std::string(map.begin(), map.end()), "hello");
  write_text(folder / "a", "a longer text");  // a new file under the same name: the map still shows the old one
  CHECK_EQ(std::string(map.begin(), map.end()), "hello");
  CHECK_EQ(read_text(folder / "a"), "a longer text");
  CHECK(has(error_of([&] { read_text(folder / "a", 5); }), "at most 5 bytes"));
}
