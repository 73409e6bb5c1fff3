// Times FlashKDA on the shapes of cuda_linear_attention.cu: one line `flashkda|what|heads|gate|microseconds` each. Nothing of FlashKDA is
// in this repository: compile with -I<FlashKDA>/csrc -I<cutlass>/include and link with its csrc/smxx/fwd_launch.cu (see bench/gpu.sh).
#include <fwd.h>

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

void ok(cudaError_t status) {
  if (status != cudaSuccess) {
    std::fprintf(stderr, "# flashkda: %s\n", cudaGetErrorString(status));
    std::exit(1);
  }
}

template <class T> __global__ void fill(T* out, std::size_t count, unsigned seed) {
  for (std::size_t i = blockIdx.x * static_cast<std::size_t>(blockDim.x) + threadIdx.x; i < count; i += static_cast<std::size_t>(gridDim.x) * blockDim.x) {
    unsigned h[2];
    for (unsigned j = 0; j < 2; ++j) {
      unsigned x = static_cast<unsigned>(i) * 2654435761u + (seed * 2 + j) * 0x9e3779b9u;
      x ^= x >> 16, x *= 0x85ebca6bu, x ^= x >> 13, x *= 0xc2b2ae35u, x ^= x >> 16;
      h[j] = x;
    }
    out[i] = T(sqrtf(-2 * logf((h[0] + 0.5f) * 0x1p-32f)) * cosf(6.2831853f * (h[1] * 0x1p-32f)));
  }
}
template <class T> T* array(std::size_t count, unsigned seed) {
  T* p = nullptr;
  ok(cudaMalloc(&p, count * sizeof(T)));
  fill<<<1024, 256>>>(p, count, seed);
  return p;
}

void run(const char* name, const std::vector<std::int64_t>& lengths, int heads) {
  using bf16 = cutlass::bfloat16_t;
  std::vector<std::int64_t> offsets{0};
  for (auto x : lengths) offsets.push_back(offsets.back() + x);
  const auto tokens = static_cast<int>(offsets.back()), sequences = static_cast<int>(lengths.size());
  const bool equal = std::all_of(lengths.begin(), lengths.end(), [&](auto x) { return x == lengths[0]; });
  const std::size_t rows = static_cast<std::size_t>(tokens) * heads, states = static_cast<std::size_t>(sequences) * heads * 128 * 128;
  auto *q = array<bf16>(rows * 128, 1), *k = array<bf16>(rows * 128, 2), *v = array<bf16>(rows * 128, 3), *g = array<bf16>(rows * 128, 4);
  auto *beta = array<bf16>(rows, 5), *out = array<bf16>(rows * 128, 6);
  auto *A_log = array<float>(heads, 7), *bias = array<float>(heads * 128, 8), *initial = array<float>(states, 9), *final_state = array<float>(states, 10);
  std::int64_t* cu = nullptr;
  ok(cudaMalloc(&cu, offsets.size() * 8));
  ok(cudaMemcpy(cu, offsets.data(), offsets.size() * 8, cudaMemcpyHostToDevice));
  const int tiles = equal ? sequences * static_cast<int>((lengths[0] + 15) / 16) : (tokens + 15) / 16 + sequences;
  void* workspace = nullptr;
  ok(cudaMalloc(&workspace, static_cast<std::size_t>(heads) * ((tokens + 15) / 16 + sequences) * (3 * 16 * 128 * 2 + 128 * 4 + 2 * 16 * 16 * 2) + 4096));
  auto call = [&] {
    const float scale = 0.08838834764f, gate_scale = -5 * 1.44269504f;
    if (equal) launch_fwd<128, true, true, true, false>(q, k, v, g, beta, initial, scale, final_state, out, workspace, tiles, tokens, heads, sequences, nullptr, A_log, bias, gate_scale, nullptr);
    else launch_fwd<128, true, true, true, true>(q, k, v, g, beta, initial, scale, final_state, out, workspace, tiles, tokens, heads, sequences, cu, A_log, bias, gate_scale, nullptr);
  };
  cudaEvent_t start, stop;
  ok(cudaEventCreate(&start)), ok(cudaEventCreate(&stop));
  std::vector<float> us;
  for (int i = -3; i < 30; ++i) {
    ok(cudaEventRecord(start));
    call();
    ok(cudaEventRecord(stop));
    ok(cudaEventSynchronize(stop));
    float ms = 0;
    ok(cudaEventElapsedTime(&ms, start, stop));
    if (i >= 0) us.push_back(1e3f * ms);
  }
  ok(cudaGetLastError());
  std::sort(us.begin(), us.end());
  std::printf("flashkda|%s|%d|bounded|%.2f\n", name, heads, us[us.size() / 2]);
  std::fflush(stdout);
  for (void* p : {(void*)q, (void*)k, (void*)v, (void*)g, (void*)beta, (void*)out, (void*)A_log, (void*)bias, (void*)initial, (void*)final_state, (void*)cu, workspace}) cudaFree(p);
}

}  // namespace

int main() {
  const std::vector<std::int64_t> ragged{1300, 547, 2048, 963, 271, 3063};
  auto repeat = [](std::int64_t length, int n) { return std::vector<std::int64_t>(static_cast<std::size_t>(n), length); };
  for (int heads : {96, 64}) {
    run("8192", {8192}, heads);
    run("1300+547+2048+963+271+3063", ragged, heads);
    run("8 x 1024", repeat(1024, 8), heads);
  }
  run("8192", {8192}, 32), run("4096", {4096}, 32), run("8 x 4096", repeat(4096, 8), 32), run("32768", {32768}, 32), run("65536", {65536}, 32);
  run("8192", {8192}, 16), run("8 x 2048", repeat(2048, 8), 16), run("2048", {2048}, 12), run("131072", {131072}, 4);
}
