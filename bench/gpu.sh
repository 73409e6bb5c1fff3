#!/usr/bin/env bash
# gpu.sh [sections...]: builds the GPU tests and the bench, checks, times, and prints the tables (also into $OUT/gpu.md when OUT is set).
# Peers, each optional: FLA (fla-core importable by $PYTHON) and FlashKDA (FLASH_KDA=<its checkout>, CUTLASS=<cutlass checkout>).
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build-gpu}
python=${PYTHON:-python3}
nvcc=${NVCC:-nvcc}
mkdir -p "$build"
flags=(-std=c++20 -O3 -Iinclude -diag-suppress=1886 -gencode=arch=compute_90a,code=sm_90a)
"$nvcc" "${flags[@]}" bench/cuda_linear_attention.cu -o "$build/bench.cuda_linear_attention"
if [ -n "${FLASH_KDA:-}" ]; then
  "$nvcc" -std=c++17 -O3 -U__CUDA_NO_HALF_OPERATORS__ -U__CUDA_NO_HALF_CONVERSIONS__ -U__CUDA_NO_HALF2_OPERATORS__ \
    -U__CUDA_NO_BFLOAT16_CONVERSIONS__ --expt-relaxed-constexpr --expt-extended-lambda --use_fast_math \
    -Xptxas --register-usage-level=10 -gencode=arch=compute_90a,code=sm_90a -I"$FLASH_KDA/csrc" -I"$CUTLASS/include" \
    -I"$CUTLASS/tools/util/include" bench/peers/flash_kda_bench.cu "$FLASH_KDA/csrc/smxx/fwd_launch.cu" -o "$build/flash_kda"
fi
{
  echo "commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(date -u +%F)"
  "$build/bench.cuda_linear_attention" "$@"
  echo
  echo "## Peers (peer|shape|heads|gate|us)"
  if [ -n "${FLASH_KDA:-}" ]; then "$build/flash_kda"; fi
  if "$python" -c 'import fla' 2>/dev/null; then "$python" bench/peers/fla_bench.py; else echo "# fla: not importable"; fi
} | tee "${OUT:-$build}/gpu.md"
