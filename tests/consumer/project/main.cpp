#include <braid/cpu/swiglu.hpp>
#include <braid/cpu/linear.hpp>
#include <braid/layers/mlp.hpp>
#include <braid/version.hpp>

#include <cstdio>

int main() {
  braid::cpu::Context cpu;
  braid::SwiGlu<float> mlp(8, 16);
  braid::ParamStorage<float> storage(cpu.memory(), mlp);
  braid::initialize(mlp, braid::seed(1));
  braid::Tensor<float, 2> x(cpu.memory(), 3, 8), y(cpu.memory(), 3, 8);
  for (float& e : x.view()) e = 1;
  mlp.forward(cpu, x, y);
  std::printf("braid %d.%d.%d: %g\n", BRAID_VERSION_MAJOR, BRAID_VERSION_MINOR, BRAID_VERSION_PATCH, double(y(0, 0)));
  return y(0, 0) == y(2, 0) && y(0, 0) != 0 ? 0 : 1;
}
