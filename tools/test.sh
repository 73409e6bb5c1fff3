#!/usr/bin/env bash
# Installs what is missing, then builds and passes all tests: g++ optimised (with the CUDA targets where nvcc is found), then clang
# with the address and undefined-behaviour sanitizers.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"
tools/install-packages.sh all

build() {  # build <folder> <arguments of cmake...>
  local folder=$1
  shift
  cmake -S . -B "$folder" -G Ninja "$@" >/dev/null
  cmake --build "$folder"
}

echo "== g++, optimised"
build build/release -DCMAKE_CXX_COMPILER=g++ -DBRAID_BUILD_BENCH=ON
echo "== clang, address and undefined-behaviour sanitizers"
build build/sanitize -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS="-O1 -g1" \
  -DBRAID_SANITIZE=address,undefined -DBRAID_CUDA=OFF \
  -DBRAID_BUILD_EXAMPLES=OFF
ctest --test-dir build/sanitize --output-on-failure -j "$(nproc)"
ctest --test-dir build/release --output-on-failure -j "$(nproc)"
