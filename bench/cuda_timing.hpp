// Timing on the device: a graph of launches over rotating buffers, replayed; medians and spread.
#pragma once

#include <braid/core/error.hpp>

#include <cuda_runtime.h>

#include <algorithm>
#include <cxxabi.h>
#include <ctime>
#include <functional>
#include <string>
#include <vector>

namespace braid::bench {

inline void cuda_ok(cudaError_t status, const char* what) {
  if (status != cudaSuccess) throw braid::Error(what, "success", cudaGetErrorString(status));
}

/// Microseconds of one launch: the median of many, and the 10th and 90th percentile.
struct Time {
  double median = 0, low = 0, high = 0;
  std::string kernels;  ///< names of the kernels of one launch, from the graph itself
};

inline Time summarize(std::vector<double> us) {
  std::sort(us.begin(), us.end());
  auto at = [&](double f) { return us[static_cast<std::size_t>(f * static_cast<double>(us.size() - 1) + 0.5)]; };
  return {at(0.5), at(0.1), at(0.9), {}};
}

/// The distinct kernels of a graph, in order, without namespaces and template arguments.
inline std::string kernels_of(cudaGraph_t graph) {
  std::size_t count = 0;
  cuda_ok(cudaGraphGetNodes(graph, nullptr, &count), "cudaGraphGetNodes");
  std::vector<cudaGraphNode_t> nodes(count);
  cuda_ok(cudaGraphGetNodes(graph, nodes.data(), &count), "cudaGraphGetNodes");
  std::vector<std::string> names;
  for (cudaGraphNode_t node : nodes) {
    cudaGraphNodeType type;
    if (cudaGraphNodeGetType(node, &type) != cudaSuccess || type != cudaGraphNodeTypeKernel) continue;
    cudaKernelNodeParams params{};
    const char* mangled = nullptr;
    if (cudaGraphKernelNodeGetParams(node, &params) != cudaSuccess || cudaFuncGetName(&mangled, params.func) != cudaSuccess) continue;
    int status = 0;
    char* text = abi::__cxa_demangle(mangled, nullptr, nullptr, &status);
    std::string name = status == 0 ? text : mangled;
    std::free(text);
    name = name.substr(0, name.find('<'));
    const auto from = name.find_last_of(": ");
    if (from != std::string::npos) name = name.substr(from + 1);
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  std::string all;
  for (const auto& name : names) all += (all.empty() ? "" : " + ") + name;
  return all;
}

/// Captures launch(stream, set) for set = 0 .. sets-1 into one graph and replays it. The caller makes the sets together several times
/// larger than the L2 cache, so every launch finds its inputs in device memory.
inline Time time_graph(int sets, int repeats, const std::function<void(cudaStream_t, int)>& launch) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  cuda_ok(cudaStreamCreate(&stream), "cudaStreamCreate");
  cuda_ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int s = 0; s < sets; ++s) launch(stream, s);
  cuda_ok(cudaStreamEndCapture(stream, &graph), "capture");
  cuda_ok(cudaGraphInstantiate(&exec, graph, 0), "cudaGraphInstantiate");
  cudaEvent_t start, stop;
  cuda_ok(cudaEventCreate(&start), "cudaEventCreate");
  cuda_ok(cudaEventCreate(&stop), "cudaEventCreate");
  std::vector<double> us;
  for (int r = -2; r < repeats; ++r) {
    cuda_ok(cudaEventRecord(start, stream), "cudaEventRecord");
    cuda_ok(cudaGraphLaunch(exec, stream), "cudaGraphLaunch");
    cuda_ok(cudaEventRecord(stop, stream), "cudaEventRecord");
    cuda_ok(cudaEventSynchronize(stop), "graph replay");
    float ms = 0;
    cuda_ok(cudaEventElapsedTime(&ms, start, stop), "cudaEventElapsedTime");
    if (r >= 0) us.push_back(1e3 * ms / sets);
  }
  Time time = summarize(us);
  time.kernels = kernels_of(graph);
  cudaEventDestroy(start), cudaEventDestroy(stop);
  cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
  return time;
}

/// Microseconds of host time of one call, with an idle device.
inline double host_time(int repeats, const std::function<void()>& call) {
  std::vector<double> us;
  for (int r = 0; r < repeats; ++r) {
    cuda_ok(cudaDeviceSynchronize(), "synchronize");
    timespec a, b;
    clock_gettime(CLOCK_MONOTONIC, &a);
    call();
    clock_gettime(CLOCK_MONOTONIC, &b);
    us.push_back((b.tv_sec - a.tv_sec) * 1e6 + (b.tv_nsec - a.tv_nsec) * 1e-3);
  }
  return summarize(us).median;
}

}  // namespace braid::bench
