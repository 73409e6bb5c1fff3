// The kernels whose resources the target cuda_resources reports: the published model's cells, raw bf16 inputs, shipped policies.
#include <braid/cuda/decode.cuh>
#include <braid/cuda/dplr.cuh>
#include <braid/cuda/linear_attention.cuh>

using namespace braid;
using bf16 = __nv_bfloat16;

#define PREFILL(Gate, Update)                                                                                                          \
  template void cuda::linear_attention<Gate, Update, __half, bf16, bf16>(cudaStream_t, const cuda::PrefillInputs<bf16, bf16>&,         \
                                                                         const cuda::PrefillOutputs<bf16>&, const cuda::Workspace&, const cuda::PrefillOptions&);
PREFILL(BoundedGate<-5>, DeltaRule)
PREFILL(SoftplusGate, DeltaRule)
PREFILL(PerHead<SoftplusGate>, DeltaRule)
PREFILL(LogDecay<>, Additive)

template void cuda::linear_attention<LogDecay<>, DeltaRule, bf16, bf16, bf16>(cudaStream_t, const cuda::PrefillInputs<bf16, bf16>&,
                                                                              const cuda::PrefillOutputs<bf16>&, const cuda::Workspace&,
                                                                              const cuda::PrefillOptions&);
template void cuda::dplr<LogDecay<>, __half, bf16, bf16>(cudaStream_t, const cuda::DplrInputs<bf16, bf16>&, const cuda::PrefillOutputs<bf16>&,
                                                         const cuda::Workspace&);
template void cuda::decode<SoftplusGate, DeltaRule, bf16, bf16>(cudaStream_t, const cuda::DecodeInputs<bf16, bf16>&, const cuda::DecodeOutputs<bf16>&);
template void cuda::decode<LogDecay<>, Dplr, bf16, bf16>(cudaStream_t, const cuda::DecodeInputs<bf16, bf16>&, const cuda::DecodeOutputs<bf16>&);
