# GPU benchmark (bench/gpu.sh builds, checks, times and compares) and the resource report of the shipped kernels.
include(BraidCuda)
add_executable(bench.cuda_linear_attention cuda_linear_attention.cu)
braid_cuda_program(bench.cuda_linear_attention)

add_custom_target(cuda_resources
  COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/cuda_resources.sh ${CMAKE_CUDA_COMPILER} ${CMAKE_CURRENT_SOURCE_DIR}/cuda_kernels.cu
          ${PROJECT_SOURCE_DIR}/include ${CMAKE_BINARY_DIR}/cuda_resources.md
  COMMENT "Registers, shared memory and spills of each kernel: ${CMAKE_BINARY_DIR}/cuda_resources.md" VERBATIM)
