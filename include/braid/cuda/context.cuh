// The GPU a call runs on: its properties, read once per device, and the stream.
#pragma once

#include <braid/cuda/check.cuh>

#include <algorithm>
#include <array>
#include <atomic>
#include <mutex>

namespace braid::cuda {

/// What launchers need to know of a device.
struct Device {
  int index = 0, capability = 0;  ///< capability: 80 for sm_80, 90 for sm_90
  int multiprocessors = 0;
  int shared_bytes = 0;  ///< shared memory a block can ask for
  double memory_bytes_per_us = 0;  ///< what its memory can move at most
};

inline constexpr int most_devices = 64;

/// The calling thread's current device. Throws Error below compute capability 8.0.
inline const Device& current_device() {
  static std::array<Device, most_devices> devices;
  static std::array<std::once_flag, most_devices> read;
  int index = 0;
  check(cudaGetDevice(&index), "cuda device");
  require(index < most_devices, "cuda device", "a device below number 64", index);
  const auto at = static_cast<std::size_t>(index);
  std::call_once(read[at], [&] {
    auto attribute = [&](cudaDeviceAttr which) {
      int value = 0;
      check(cudaDeviceGetAttribute(&value, which, index), "cuda device");
      return value;
    };
    devices[at] = {index, attribute(cudaDevAttrComputeCapabilityMajor) * 10 + attribute(cudaDevAttrComputeCapabilityMinor),
                   attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
                   2e-3 * attribute(cudaDevAttrMemoryClockRate) * attribute(cudaDevAttrGlobalMemoryBusWidth) / 8};
  });
  require(devices[at].capability >= 80, "cuda device", "compute capability 8.0 or above", devices[at].capability / 10.0);
  return devices[at];
}

namespace detail {

/// Raises a kernel's limit of dynamic shared memory, once on each device, and has multiprocessors that run it keep as much of it as they can:
/// beside a kernel that was content with less no other could start.
template <auto Kernel> void allow_shared(int bytes) {
  static std::array<std::atomic<bool>, most_devices> allowed{};
  std::atomic<bool>& here = allowed[static_cast<std::size_t>(current_device().index)];
  if (here.load(std::memory_order_relaxed)) return;
  check(cudaFuncSetAttribute(Kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "cuda device");
  check(cudaFuncSetAttribute(Kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared), "cuda device");
  here.store(true, std::memory_order_relaxed);
}

/// What a program holds of a kernel for a device, zeros if nothing: registers of a thread, and the architecture it was compiled for (90 for sm_90).
struct Code {
  int registers = 0, architecture = 0;
};
/// Read once on each device.
template <auto Kernel> const Code& code_of(const Device& device) {
  static std::array<Code, most_devices> code;
  static std::array<std::once_flag, most_devices> read;
  const auto at = static_cast<std::size_t>(device.index);
  std::call_once(read[at], [&] {
    cudaFuncAttributes attributes{};
    if (cudaFuncGetAttributes(&attributes, Kernel) == cudaSuccess) code[at] = {attributes.numRegs, std::min(attributes.ptxVersion, attributes.binaryVersion)};
    else cudaGetLastError();
  });
  return code[at];
}

/// Launches with `shared` bytes of dynamic shared memory. `overlap`: the blocks may start while the previous kernel of the stream drains, and wait for it
/// themselves (ptx::wait_for_previous_grid), which takes code for sm_90.
template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 blocks, int threads, int shared, bool overlap, cudaStream_t stream, const Arguments&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<std::size_t>(shared);
  config.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &attribute;
  config.numAttrs = overlap ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, arguments...), "cuda launch");
}

}  // namespace detail

/// What operations of namespace braid::cuda may be given in place of a stream.
class Context {
 public:
  explicit Context(cudaStream_t stream = nullptr) : device_(current_device()), stream_(stream) {}
  const Device& device() const { return device_; }
  cudaStream_t stream() const { return stream_; }
  operator cudaStream_t() const { return stream_; }

 private:
  Device device_;
  cudaStream_t stream_;
};

}  // namespace braid::cuda
