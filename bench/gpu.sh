#!/usr/bin/env bash
# gpu.sh [sections...]: builds the GPU tests and the bench, checks, times, and prints the tables with the ratios to peers (also into
# $OUT/gpu.md when OUT is set). Sections are those of bench.cuda_linear_attention; none: all. Each is a process of its own, like each peer: in pages that
# an earlier section has used and given back, the first shapes take up to 8 % longer. What is newer than its sources is not built again.
# Peers, each optional: FlashKDA (FLASH_KDA=<its checkout>, CUTLASS=<cutlass checkout>) and FLA: fla-core importable by $PYTHON, or, without
# PyTorch, FLA_KERNELS=<directory that bench/peers/fla_capture.py has filled elsewhere>.
set -euo pipefail
cd "$(dirname "$0")/.."
build=${BUILD:-build-gpu} python=${PYTHON:-python3} nvcc=${NVCC:-nvcc} out=${OUT:-${BUILD:-build-gpu}}
mkdir -p "$build"
sources=$(find include/braid tests/cuda bench -name '*.hpp' -o -name '*.cuh' -o -name '*.cu')
hopper=-gencode=arch=compute_90a,code=sm_90a

make_program() {  # make_program <name> <arguments of nvcc...>
  local program=$build/$1 source
  shift
  if [ -x "$program" ]; then
    for source in $sources; do [ "$source" -nt "$program" ] && break; source=; done
    [ -z "$source" ] && return
  fi
  echo "building $program" >&2
  "$nvcc" -std=c++20 -O3 -Iinclude -Itests -diag-suppress=1886 $hopper "$@" -o "$program"
}

tests=(prefill decode golden)
for name in "${tests[@]}"; do
  make_program "test.cuda.$name" '-DBRAID_GOLDEN="../shared/golden"' "tests/cuda/$name.cu" tests/main.cpp &
done
make_program bench.cuda_linear_attention bench/cuda_linear_attention.cu &
if [ -n "${FLASH_KDA:-}" ] && [ ! -x "$build/flash_kda" ]; then
  "$nvcc" -std=c++17 -O3 -U__CUDA_NO_HALF_OPERATORS__ -U__CUDA_NO_HALF_CONVERSIONS__ -U__CUDA_NO_HALF2_OPERATORS__ \
    -U__CUDA_NO_BFLOAT16_CONVERSIONS__ --expt-relaxed-constexpr --expt-extended-lambda --use_fast_math \
    -Xptxas --register-usage-level=10 $hopper -I"$FLASH_KDA/csrc" -I"$CUTLASS/include" \
    -I"$CUTLASS/tools/util/include" bench/peers/flash_kda_bench.cu "$FLASH_KDA/csrc/smxx/fwd_launch.cu" -o "$build/flash_kda" &
fi
if [ -n "${FLA_KERNELS:-}" ]; then make_program fla_replay bench/peers/fla_replay.cu -lcuda & fi
wait

for name in "${tests[@]}"; do "$build/test.cuda.$name" | tail -3; done
{
  echo "commit $(git rev-parse --short HEAD 2>/dev/null || echo unknown), $(date -u +%F)"
  [ $# -gt 0 ] || set -- decode prefill portable dplr
  for section; do "$build/bench.cuda_linear_attention" "$section" | if [ "$section" = "$1" ]; then cat; else sed 1d; fi; done
} | tee "$out/gpu.md"
{
  if [ -x "$build/flash_kda" ]; then "$build/flash_kda"; fi
  if [ -n "${FLA_KERNELS:-}" ]; then "$build/fla_replay" "$FLA_KERNELS" || true
  elif "$python" -c 'import fla' 2>/dev/null; then timeout "${FLA_SECONDS:-600}" "$python" bench/peers/fla_bench.py || true; fi
} | tee "$out/peers.txt"
"$python" bench/peers/ratios.py "$out/gpu.md" "$out/peers.txt" | tee -a "$out/gpu.md"
