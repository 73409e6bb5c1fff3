# Configures, builds and runs the outside project: cmake -DUSE=... -DWORK=<scratch folder> -DBRAID_SOURCE=... -DCOMPILER=...
# -DGENERATOR=... -P run.cmake. For find_package, braid is installed into the scratch folder first.
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE status)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "failed: ${ARGV}")
  endif()
endfunction()

set(options -G ${GENERATOR} -DCMAKE_CXX_COMPILER=${COMPILER} -DCMAKE_BUILD_TYPE=Debug)
set(project ${CMAKE_CURRENT_LIST_DIR}/project)
file(REMOVE_RECURSE ${WORK})
if(USE STREQUAL "find_package")
  run(${CMAKE_COMMAND} -S ${BRAID_SOURCE} -B ${WORK}/braid ${options} -DBRAID_BUILD_TESTS=OFF -DBRAID_BUILD_EXAMPLES=OFF
    -DBRAID_CUDA=OFF -DCMAKE_INSTALL_PREFIX=${WORK}/prefix)
  run(${CMAKE_COMMAND} --build ${WORK}/braid --target all)
  run(${CMAKE_COMMAND} --install ${WORK}/braid)
  list(APPEND options -DCMAKE_PREFIX_PATH=${WORK}/prefix)
endif()
run(${CMAKE_COMMAND} -S ${project} -B ${WORK}/build ${options} -DUSE=${USE} -DBRAID_SOURCE=${BRAID_SOURCE})
run(${CMAKE_COMMAND} --build ${WORK}/build)
run(${WORK}/build/consumer)
run(${WORK}/build/consumer_io)

if(USE STREQUAL "find_package")  # the component io is there, and says what it needs where that is missing
  list(APPEND options -DUSE=find_package_io -DBRAID_SOURCE=${BRAID_SOURCE})
  run(${CMAKE_COMMAND} -S ${project} -B ${WORK}/io ${options})
  execute_process(COMMAND ${CMAKE_COMMAND} -S ${project} -B ${WORK}/no_json ${options} -DCMAKE_DISABLE_FIND_PACKAGE_nlohmann_json=ON
    RESULT_VARIABLE status ERROR_VARIABLE message)
  if(status EQUAL 0 OR NOT message MATCHES "apt-get[ \n]+install[ \n]+nlohmann-json3-dev")
    message(FATAL_ERROR "without JSON, find_package(braid COMPONENTS io) said: ${message}")
  endif()
endif()
file(REMOVE_RECURSE ${WORK})
