// Megabytes of text per second, one thread: splitting alone, and encoding. bench/peers/tokenizer.py runs this beside tiktoken.
//
//   bench.tokenizer MODEL_DIRECTORY TEXT_FILE [Google Benchmark's options]
#include <braid/io/tokenizer.hpp>

#include <benchmark/benchmark.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

int main(int argc, char** argv) try {
  benchmark::Initialize(&argc, argv);
  braid::require(argc == 3, "bench.tokenizer", "a model's directory and a text file", argc - 1);
  const auto tokenizer = braid::io::Tokenizer::load(argv[1]);
  const std::string text = braid::io::read_text(argv[2]);
  const braid::io::Splitter splitter;
  std::vector<braid::Token> tokens = tokenizer.encode(text);
  braid::require(tokenizer.decode(tokens) == braid::io::replace_invalid_utf8(text), "bench.tokenizer", "the text after a round trip", "another");
  std::uint64_t sum = 0;  // for a peer to compare: of token times place, from 1, modulo 2^64
  for (std::size_t i = 0; i < tokens.size(); ++i) sum += static_cast<std::uint64_t>(tokens[i]) * (i + 1);
  std::printf("%zu bytes, %zu tokens, sum %llu\n", text.size(), tokens.size(), static_cast<unsigned long long>(sum));
  std::fflush(stdout);

  const auto run = [&](const char* name, auto body) {
    benchmark::RegisterBenchmark(name, [&text, body](benchmark::State& state) {
      for (auto _ : state) body();
      state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) * static_cast<std::int64_t>(text.size()));
    })->Unit(benchmark::kMillisecond);
  };
  run("split", [&] {
    std::size_t pieces = 0;
    splitter.split(text, [&](std::string_view) { ++pieces; });
    benchmark::DoNotOptimize(pieces);
  });
  run("encode", [&] {
    tokens.clear();
    tokenizer.encode(text, tokens);
    benchmark::DoNotOptimize(tokens.data());
  });
  run("decode", [&] { benchmark::DoNotOptimize(tokenizer.decode(tokens)); });
  benchmark::RunSpecifiedBenchmarks();
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "bench.tokenizer: %s\n", error.what());
  return 1;
}
