// Loading a checkpoint of several GB, beside the speed at which the page cache can be read. Not Google Benchmark: one pass takes
// seconds, and the two must alternate so that a busy machine slows both.
//
//   load_checkpoint [GiB of weights in float, default 2] [folder for the files, default the system's temporary one]
#include <braid/io/checkpoint.hpp>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <span>

#include <time.h>

namespace fs = std::filesystem;
using namespace braid;

namespace {

/// Square matrices of a given total size: all that loading sees of a model.
struct Model {
  using T = float;
  static constexpr Index width = 4096;
  std::vector<Param<T>> matrices;
  ParamStorage<T> storage;
  explicit Model(Index count) : matrices(static_cast<std::size_t>(count), Param<T>{{width, width}}), storage(cpu::host_memory(), *this) {}
  template <class V> void visit(V&& v) {
    for (std::size_t i = 0; i < matrices.size(); ++i) v("model.layers." + std::to_string(i) + ".weight", matrices[i]);
  }
};

double seconds(auto&& f) {
  const auto start = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Seconds of all processors' time spent in this process: steady on a busy machine, where the clock on the wall is not.
double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

struct Times {
  std::vector<double> wall, cpu;
  void add(auto&& f) {
    const double start = cpu_seconds();
    wall.push_back(seconds(f));
    cpu.push_back(cpu_seconds() - start);
  }
};

/// Reads every byte of a directory's files on all threads, round and round into `to`.
void read_all(const fs::path& directory, std::span<unsigned char> to) {
  const cpu::Context cpu;
  constexpr std::uint64_t step = 1 << 20;
  for (const auto& entry : fs::directory_iterator(directory)) {
    const io::MappedFile file(entry.path());
    cpu::parallel_for(cpu, static_cast<Index>((file.size() + step - 1) / step), [&](Index i) {
      const std::uint64_t offset = static_cast<std::uint64_t>(i) * step;
      file.read(offset, to.data() + offset % to.size(), static_cast<std::size_t>(std::min(step, file.size() - offset)));
    });
  }
}

/// Writes every byte on all threads.
void write_all(std::span<unsigned char> to) {
  const cpu::Context cpu;
  constexpr std::size_t step = 1 << 20;
  cpu::parallel_for(cpu, static_cast<Index>(to.size() / step), [&](Index i) { std::memset(to.data() + static_cast<std::size_t>(i) * step, 1, step); });
}

/// A field of /proc/self/status in bytes.
double status(const std::string& field) {
  std::ifstream in("/proc/self/status");
  for (std::string line; std::getline(in, line);)
    if (line.starts_with(field)) return std::stod(line.substr(field.size() + 1)) * 1024;
  return 0;
}

/// Median, smallest and largest of seven.
struct Spread {
  double median, least, most;
  explicit Spread(std::vector<double> x) {
    std::sort(x.begin(), x.end());
    median = x[x.size() / 2];
    least = x.front();
    most = x.back();
  }
};

/// A line of results: GB/s by the wall's clock.
void report(const char* what, double gb, const Times& times) {
  const Spread wall(times.wall), cpu(times.cpu);
  std::printf("  %-34s %6.2f GB/s (%.2f to %.2f), %.2f s of processor time per GB\n", what, gb / wall.median, gb / wall.most, gb / wall.least,
              cpu.median / gb);
}

void measure(const fs::path& directory, Model& model, io::Stored stored, const char* name) {
  std::vector<io::NamedArray<float>> arrays = io::detail::named_arrays<float>(model);
  io::save_weights(arrays, directory, stored, std::uint64_t{1} << 30);
  std::uint64_t bytes = 0;
  for (const auto& entry : fs::directory_iterator(directory)) bytes += entry.file_size();
  Times to_memory, to_cache, writing, loading;
  const std::span<unsigned char> memory(reinterpret_cast<unsigned char*>(model.storage.values()), static_cast<std::size_t>(model.storage.size()) * sizeof(float));
  std::vector<unsigned char> block(1 << 20);
  read_all(directory, memory);  // fills the page cache
  for (int i = 0; i < 7; ++i) {
    to_memory.add([&] { read_all(directory, memory); });
    loading.add([&] { load_checkpoint(model, directory); });
    to_cache.add([&] { read_all(directory, block); });
    writing.add([&] { write_all(memory); });
  }
  std::ofstream("/proc/self/clear_refs") << 5;  // resets the peak
  load_checkpoint(model, directory);
  const double weights = static_cast<double>(memory.size()), gb = static_cast<double>(bytes) / 1e9;
  const auto percent = [](const Times& read, const Times& load) { return 100 * Spread(read.wall).median / Spread(load.wall).median; };
  std::printf("%s: %.2f GB in files into %.2f GB of float weights, peak of resident memory %.3f of the weights\n", name, gb, weights / 1e9,
              status("VmHWM:") / weights);
  report("page cache to a block of 1 MiB", gb, to_cache);
  report("page cache to memory", gb, to_memory);
  report("memory, writing the weights' size", weights / 1e9, writing);
  report("loading", gb, loading);
  std::printf("  loading is %.0f %% of reading to memory, %.0f %% of reading to a block\n", percent(to_memory, loading), percent(to_cache, loading));
}

}  // namespace

int main(int argc, char** argv) {
  const double gib = argc > 1 ? std::stod(argv[1]) : 2;
  const fs::path folder = (argc > 2 ? fs::path(argv[2]) : fs::temp_directory_path()) / ("braid-load-" + std::to_string(::getpid()));
  Model model(static_cast<Index>(gib * 16));  // 64 MiB each
  for (Index i = 0; i < model.storage.size(); ++i) model.storage.values()[i] = static_cast<float>(i % 1000);
  for (const auto& [stored, name] : {std::pair{io::Stored::f32, "F32"}, {io::Stored::bf16, "BF16"}, {io::Stored::f16, "F16"}}) {
    measure(folder, model, stored, name);
    fs::remove_all(folder);
  }
}
