// Times flash-linear-attention without PyTorch: replays on the GPU what fla_capture.py recorded, one line `fla|what|heads|gate|microseconds`
// for each case, once its output and final state agree with a token-by-token recurrence in float.
//
//   fla_replay <directory> [substrings of `what|heads|gate`...]
//   fla_replay <directory> --parse                                 only reads the manifest
//
// Link with -lcuda. Each case runs in a process of its own, so that none can take others along.
#include "fla_manifest.hpp"
#include "fla_reference.cuh"

#include <cuda.h>
#include <cuda_runtime.h>

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace {

void ok(cudaError_t status, const char* what) { require(status == cudaSuccess, std::string(what) + ": " + cudaGetErrorString(status)); }
void ok(CUresult status, const char* what) {
  const char* text = "?";
  if (status != CUDA_SUCCESS) cuGetErrorString(status, &text);
  require(status == CUDA_SUCCESS, std::string(what) + ": " + text);
}

// ---- inputs and outputs

void fill_buffer(char* p, const Buffer& b, unsigned seed) {
  if (b.fill == "poison" || b.fill == "zero") return ok(cudaMemset(p, b.fill == "zero" ? 0 : 0xff, b.bytes), "fill");
  if (b.fill.starts_with("hex:")) {
    const Bytes bytes = from_hex(b.fill.substr(4));
    require(bytes.size() == b.bytes, "contents of another size");
    return ok(cudaMemcpy(p, bytes.data(), bytes.size(), cudaMemcpyHostToDevice), "fill");
  }
  std::istringstream in(b.fill);
  std::vector<std::string> words;
  for (std::string word; std::getline(in, word, ':');) words.push_back(word);
  const bool normal = words.at(0) == "normal", narrow = words.back() == "bf16";
  const float x = std::stof(words.at(1)), y = normal ? 0 : std::stof(words.at(2));
  if (narrow) fill<<<1024, 256>>>(reinterpret_cast<bf16*>(p), b.bytes / 2, seed, normal, x, y);
  else fill<<<1024, 256>>>(reinterpret_cast<float*>(p), b.bytes / 4, seed, normal, x, y);
  ok(cudaGetLastError(), "fill");
}

template <class T> T* allocate(std::size_t count) {
  void* p = nullptr;
  ok(cudaMalloc(&p, std::max<std::size_t>(count * sizeof(T), 256)), "cudaMalloc");
  return static_cast<T*>(p);
}

template <class T> double relative_error(const char* x, const float* reference, std::size_t count) {
  double* sums = allocate<double>(2);
  double host[2];
  ok(cudaMemset(sums, 0, sizeof host), "memset");
  difference<<<1024, 256>>>(reinterpret_cast<const T*>(x), reference, count, sums);
  ok(cudaMemcpy(host, sums, sizeof host, cudaMemcpyDeviceToHost), "comparison");
  ok(cudaFree(sums), "cudaFree");
  return std::sqrt(host[0] / host[1]);
}

/// The relative errors of the output and of the final state that the device now holds for the first set.
std::pair<double, double> errors(const Case& c) {
  std::vector<int> starts{0};
  for (int n : c.lengths) starts.push_back(starts.back() + n);
  const std::size_t values = static_cast<std::size_t>(starts.back()) * c.heads * D, states = c.lengths.size() * c.heads * D * D;
  auto* device_starts = allocate<int>(starts.size());
  ok(cudaMemcpy(device_starts, starts.data(), starts.size() * sizeof(int), cudaMemcpyHostToDevice), "copy");
  auto half = [&](const char* name) { return reinterpret_cast<const bf16*>(c.get(name)); };
  auto single = [&](const char* name) { return reinterpret_cast<const float*>(c.get(name)); };
  const Problem p{half("q"), half("k"), half("v"), half("g"), half("beta"), half("a"), half("b"), single("A_log"), single("dt_bias"),
                  single("initial_state"), allocate<float>(values), allocate<float>(states), device_starts, c.heads, c.l2norm, c.sigmoid,
                  c.gate == "given" ? 0 : c.gate == "softplus" ? 1 : 2, c.bound};
  const dim3 grid(static_cast<unsigned>(c.heads), static_cast<unsigned>(c.lengths.size()));
  if (c.op == "dplr") recurrence<true><<<grid, D>>>(p);
  else recurrence<false><<<grid, D>>>(p);
  ok(cudaDeviceSynchronize(), "recurrence");
  return {relative_error<bf16>(c.get("o"), p.o, values), relative_error<float>(c.get("final_state"), p.final_state, states)};
}

// ---- the replay

/// The kernel of an alternative, with the preparations of Triton's loader; throws if its parameters are not those of the manifest.
CUfunction load(const std::string& directory, const Alternative& a) {
  static std::map<std::string, CUfunction> loaded;
  const std::string key = a.cubin + ":" + std::to_string(a.shared);
  if (auto found = loaded.find(key); found != loaded.end()) return found->second;
  std::ifstream in(directory + "/" + a.cubin, std::ios::binary);
  const std::string image((std::istreambuf_iterator<char>(in)), {});
  require(!image.empty(), "no " + a.cubin);
  CUmodule module;
  CUfunction f;
  ok(cuModuleLoadData(&module, image.data()), "cuModuleLoadData");
  ok(cuModuleGetFunction(&f, module, a.name.c_str()), "cuModuleGetFunction");
  std::size_t offset = 0, size = 0, count = 0;
  for (; cuFuncGetParamInfo(f, count, &offset, &size) == CUDA_SUCCESS; ++count)
    require(count < a.arguments.size() && size == (a.arguments[count].buffer >= 0 ? 8 : a.arguments[count].scalar.size()), "parameters of " + a.name);
  require(count == a.arguments.size(), "number of parameters of " + a.name);
  if (a.shared > 49152) {
    ok(cuFuncSetCacheConfig(f, CU_FUNC_CACHE_PREFER_SHARED), "cuFuncSetCacheConfig");
    ok(cuFuncSetAttribute(f, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, static_cast<int>(a.shared)), "shared memory");
  }
  return loaded[key] = f;
}

CUresult launch(const std::string& directory, const Case& c, const Alternative& a, int set, cudaStream_t stream) {
  std::vector<const void*> values(a.arguments.size());
  std::vector<void*> pointers(a.arguments.size());
  for (std::size_t i = 0; i < values.size(); ++i) {
    const Argument& x = a.arguments[i];
    if (x.buffer >= 0) values[i] = c.buffers[static_cast<std::size_t>(x.buffer)].at(set) + x.offset;
    pointers[i] = x.buffer >= 0 ? static_cast<void*>(&values[i]) : const_cast<unsigned char*>(x.scalar.data());
  }
  return cuLaunchKernel(load(directory, a), a.grid[0], a.grid[1], a.grid[2], a.threads, 1, 1, a.shared, stream, pointers.data(), nullptr);
}

void run_step(const std::string& directory, const Case& c, const Step& s, int set, cudaStream_t stream) {
  if (s.alternatives.empty()) ok(cudaMemsetAsync(c.buffers[static_cast<std::size_t>(s.buffer)].at(set) + s.offset, 0, s.bytes, stream), "memset");
  else ok(launch(directory, c, s.alternatives[s.chosen], set, stream), s.kernel.c_str());
}

struct Clock {
  cudaEvent_t start, stop;
  Clock() { ok(cudaEventCreate(&start), "event"), ok(cudaEventCreate(&stop), "event"); }
  template <class F> float us(cudaStream_t stream, F f) {
    ok(cudaEventRecord(start, stream), "event"), f(), ok(cudaEventRecord(stop, stream), "event");
    ok(cudaEventSynchronize(stop), "replay");
    float ms = 0;
    ok(cudaEventElapsedTime(&ms, start, stop), "event");
    return 1e3f * ms;
  }
};

/// Runs the case, and chooses on the way, for each launch, the fastest alternative. One that cannot be launched is passed over, as by Triton.
void tune(const std::string& directory, Case& c, cudaStream_t stream) {
  Clock clock;
  for (Step& s : c.steps) {
    float best = 1e30f;
    for (std::size_t i = 0; s.alternatives.size() > 1 && i < s.alternatives.size(); ++i) {
      if (launch(directory, c, s.alternatives[i], 0, stream) != CUDA_SUCCESS) continue;
      auto timed = [&](int n) { return clock.us(stream, [&] { while (n--) ok(launch(directory, c, s.alternatives[i], 0, stream), "launch"); }); };
      float us = timed(1);
      if (us > 3 * best) continue;
      for (int repeat = 0; repeat < 3; ++repeat) us = std::min(us, timed(4) / 4);
      if (us < best) best = us, s.chosen = i;
    }
    require(s.alternatives.size() < 2 || best < 1e30f, "no configuration of " + s.kernel + " can be launched");
    run_step(directory, c, s, 0, stream);
  }
  ok(cudaStreamSynchronize(stream), "tuning");
}

/// Microseconds of one sequence: the median of replays of a graph of the sequences of all sets.
double time_case(const std::string& directory, const Case& c, cudaStream_t stream) {
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int set = 0; set < c.sets; ++set)
    for (const Step& s : c.steps) run_step(directory, c, s, set, stream);
  ok(cudaStreamEndCapture(stream, &graph), "capture");
  ok(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  Clock clock;
  std::vector<float> us;
  for (int i = -3; i < 30; ++i) {
    const float x = clock.us(stream, [&] { ok(cudaGraphLaunch(exec, stream), "cudaGraphLaunch"); });
    if (i >= 0) us.push_back(x);
  }
  std::sort(us.begin(), us.end());
  return us[us.size() / 2] / c.sets;
}

void run_case(const std::string& directory, Case& c) {
  unsigned seed = 1;
  for (Buffer& b : c.buffers)
    for (int i = 0; i < (b.per_set ? c.sets : 1); ++i) b.copies.push_back(allocate<char>(b.bytes)), fill_buffer(b.copies.back(), b, seed++);
  ok(cudaDeviceSynchronize(), "inputs");
  cudaStream_t stream;
  ok(cudaStreamCreate(&stream), "cudaStreamCreate");
  tune(directory, c, stream);
  for (const Buffer& b : c.buffers)
    if (b.fill == "poison") fill_buffer(b.at(0), b, 0);
  ok(cudaDeviceSynchronize(), "poison");
  for (const Step& s : c.steps) run_step(directory, c, s, 0, stream);
  ok(cudaStreamSynchronize(stream), "run");
  const auto [o, state] = errors(c);
  std::string chosen;
  for (const Step& s : c.steps)
    if (s.alternatives.size() > 1) chosen += "; " + s.kernel + " " + s.alternatives[s.chosen].config.substr(0, 40);
  std::printf("# fla %s: errors %.1e of o, %.1e of the state%s\n", c.key().c_str(), o, state, chosen.c_str());
  require(o < 2e-2 && state < 2e-2, "WRONG");
  std::printf("fla|%s|%.2f\n", c.key().c_str(), time_case(directory, c, stream));
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.empty()) return std::fprintf(stderr, "usage: fla_replay <directory> [--parse | case substrings...]\n"), 2;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  std::vector<Case> cases;
  try {
    cases = read_manifest(words[0] + "/manifest");
  } catch (const std::exception& error) {
    return std::printf("# fla: %s\n", error.what()), 1;
  }
  for (Case& c : cases) {
    if (words.size() > 1 && words[1] == "--parse") {
      std::printf("# fla %s: %zu buffers, %zu steps\n", c.key().c_str(), c.buffers.size(), c.steps.size());
      continue;
    }
    if (words.size() > 1 && std::none_of(words.begin() + 1, words.end(), [&](auto& w) { return c.key().find(w) != std::string::npos; })) continue;
    std::fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
      alarm(120);  // ends a kernel that does not
      try {
        run_case(words[0], c);
      } catch (const std::exception& error) {
        std::printf("# fla %s: %s\n", c.key().c_str(), error.what());
      }
      std::fflush(stdout);
      _exit(0);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) < 0 || WIFSIGNALED(status))
      std::printf("# fla %s: ended by signal %d\n", c.key().c_str(), WTERMSIG(status));
  }
}
