# braid_cuda_program(<target>): flags of braid's own CUDA programs.
include_guard()
set(BRAID_CUDA_ARCHITECTURES "90a-real" CACHE STRING
  "Devices braid's own CUDA programs are built for, for example \"80-real;90a-real\"; wgmma needs 90a")

function(braid_cuda_program target)
  set_target_properties(${target} PROPERTIES CUDA_ARCHITECTURES "${BRAID_CUDA_ARCHITECTURES}")
  # Not CUDA_STANDARD: CMake 3.25 does not know that nvcc 13 has C++20.
  # Explicit instantiations of kernels use extern shared arrays of one name and different alignment, which nvcc remarks on.
  set(werror $<$<BOOL:${BRAID_WERROR}>:,-Werror>)
  target_compile_options(${target} PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20 -diag-suppress=1886 -Xcompiler=-Wall,-Wextra${werror}>
    $<$<AND:$<COMPILE_LANGUAGE:CUDA>,$<BOOL:${BRAID_WERROR}>>:-Werror=all-warnings>)
  target_link_libraries(${target} PRIVATE braid CUDA::cudart_static)
endfunction()
