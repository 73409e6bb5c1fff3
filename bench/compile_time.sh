#!/usr/bin/env bash
# Seconds to compile, g++ -O2, one after another: the umbrella header alone, quickstart, a stack of 4 layers and one of 27.
# Usage: bench/compile_time.sh ; CXX names the compiler
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
flags=(-std=c++20 -O2 -c -o "$work/out.o" -I"$root/include" -I"$root" $(pkg-config --cflags eigen3))

stack() {  # stack <layers>: a model of that depth, forward and gradients
  cat >"$work/stack$1.cpp" <<END
#include <braid/braid.hpp>
constexpr braid::Config c = [] { braid::Config c; c.layers = $1, c.hidden = 64, c.heads = 2, c.experts = 8, c.vocab = 100; return c; }();
template class braid::CausalLm<c>;
int main() {
  braid::cpu::Context cpu;
  braid::CausalLm<c> model(cpu, braid::seed(1));
  const braid::Token t[4] = {1, 2, 3, 4};
  return model.gradients(cpu, t, t, braid::Batch(4)) > 0 ? 0 : 1;
}
END
}
echo '#include <braid/braid.hpp>' >"$work/umbrella.cpp"
stack 4
stack 27
for source in "$work/umbrella.cpp" "$root/examples/quickstart.cpp" "$work/stack4.cpp" "$work/stack27.cpp"; do
  TIMEFORMAT="| $(basename "$source" .cpp) | %R | %U |"
  time "${CXX:-g++}" "${flags[@]}" "$source"
done
