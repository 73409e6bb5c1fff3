// KDA on raw device pointers: one include and one call for a prompt, one more for each token after it. No tensor class, no model.
//   nvcc -std=c++20 -I include -gencode=arch=compute_90a,code=sm_90a examples/bare_kernel.cu      (or arch=compute_80,code=sm_80)
#include <braid/cuda/decode.cuh>
#include <braid/cuda/linear_attention.cuh>

#include <cmath>
#include <cstdio>
#include <vector>

using bf16 = __nv_bfloat16;

static bf16* upload(braid::Index count, float frequency) {
  std::vector<bf16> host(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < host.size(); ++i) host[i] = __float2bfloat16(std::sin(frequency * static_cast<float>(i * i % 1009)));
  bf16* device = nullptr;
  cudaMalloc(&device, host.size() * sizeof(bf16));
  cudaMemcpy(device, host.data(), host.size() * sizeof(bf16), cudaMemcpyHostToDevice);
  return device;
}

int main() try {
  const braid::Index tokens = 1000, heads = 32, dim = 128;  // one sequence

  braid::cuda::PrefillInputs<bf16> in;
  in.tokens = tokens;
  in.heads = in.value_heads = heads;
  in.key_dim = in.value_dim = dim;
  in.q = upload(tokens * heads * dim, 0.3f);
  in.k = upload(tokens * heads * dim, 0.7f);
  in.v = upload(tokens * heads * dim, 1.1f);
  in.gate = upload(tokens * heads * dim, 0.5f);  // raw: the gate below turns it into a log decay
  in.beta = upload(tokens * heads, 0.9f);
  float* weights = nullptr;  // A_log [heads], then dt_bias [heads, dim]
  cudaMalloc(&weights, heads * (dim + 1) * sizeof(float));
  cudaMemset(weights, 0, heads * (dim + 1) * sizeof(float));
  in.A_log = weights;
  in.dt_bias = weights + heads;
  in.normalize = true;   // q and k are L2-normalised inside
  in.beta_logit = true;  // beta = sigmoid(.)
  in.scale = 1 / std::sqrt(static_cast<float>(dim));

  braid::cuda::PrefillOutputs<bf16> out;
  cudaMalloc(&out.o, tokens * heads * dim * sizeof(bf16));
  cudaMalloc(&out.final_state, heads * dim * dim * sizeof(float));
  braid::cuda::Workspace workspace;
  workspace.bytes = braid::cuda::workspace_bytes<braid::DeltaRule>(tokens, 1, heads, dim, dim);
  cudaMalloc(&workspace.data, workspace.bytes);

  cudaStream_t stream = nullptr;
  braid::cuda::linear_attention<braid::SoftplusGate, braid::DeltaRule>(stream, in, out, workspace);

  // The next token continues the state in place.
  braid::cuda::DecodeInputs<bf16> next;
  next.sequences = next.slot_count = 1;
  next.heads = next.value_heads = heads;
  next.key_dim = next.value_dim = dim;
  next.q = in.q, next.k = in.k, next.v = in.v, next.gate = in.gate, next.beta = in.beta;
  next.A_log = in.A_log, next.dt_bias = in.dt_bias;
  next.normalize = next.beta_logit = true;
  next.scale = in.scale;
  braid::cuda::DecodeOutputs<bf16> decoded;
  cudaMalloc(&decoded.o, heads * dim * sizeof(bf16));
  decoded.states = out.final_state;
  braid::cuda::decode<braid::SoftplusGate, braid::DeltaRule>(stream, next, decoded);

  std::vector<bf16> o(static_cast<std::size_t>(heads * dim));
  braid::cuda::check(cudaMemcpy(o.data(), decoded.o, o.size() * sizeof(bf16), cudaMemcpyDeviceToHost), "bare_kernel");
  double norm = 0;
  for (bf16 x : o) norm += double(__bfloat162float(x)) * __bfloat162float(x);
  std::printf("%lld tokens, then one more: |o| = %.6f\n", static_cast<long long>(tokens), std::sqrt(norm));
} catch (const braid::Error& error) {
  std::printf("%s\n", error.what());
  return 1;
}
