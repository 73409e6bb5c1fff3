include(BraidCuda)
add_executable(bare_kernel_cuda bare_kernel.cu)
braid_cuda_program(bare_kernel_cuda)
