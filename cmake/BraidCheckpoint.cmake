# braid_add_checkpoint(<name> <directory>): from a checkpoint directory to a type, at configure time.
#
#   braid_add_checkpoint(kimi /models/Kimi-Linear-48B-A3B-Instruct)
#   target_link_libraries(program PRIVATE kimi)
#
# writes <name>.hpp with `<name>::config`, the constexpr braid::Config that the directory's config.json describes, and makes the
# interface library <name>, which has the header's folder and braid::io:
#
#   #include <kimi.hpp>
#   using Model = braid::CausalLm<kimi::config>;
#
# CMake runs again when config.json changes. The header comes from the tool braid_config, compiled once at configure time, so that
# there is one reader of config.json; when cross-compiling, set BRAID_CONFIG_TOOL to a braid_config that runs on the host.

set(BRAID_CONFIG_TOOL "" CACHE FILEPATH "A braid_config program to use instead of compiling one")
mark_as_advanced(BRAID_CONFIG_TOOL)

# In an installed package the source lies beside this file, in the repository it lies in tools/.
foreach(folder ${CMAKE_CURRENT_LIST_DIR} ${CMAKE_CURRENT_LIST_DIR}/../tools)
  if(EXISTS ${folder}/braid_config.cpp)
    file(REAL_PATH ${folder}/braid_config.cpp path)
    set_property(GLOBAL PROPERTY BRAID_CONFIG_SOURCE ${path})
    break()
  endif()
endforeach()

# Sets <result> to a braid_config program, which is compiled if need be.
function(_braid_config_tool result)
  if(BRAID_CONFIG_TOOL)
    set(${result} ${BRAID_CONFIG_TOOL} PARENT_SCOPE)
    return()
  endif()
  get_property(source GLOBAL PROPERTY BRAID_CONFIG_SOURCE)
  get_target_property(include_folders braid::braid INTERFACE_INCLUDE_DIRECTORIES)
  set(headers "")
  foreach(folder ${include_folders})
    string(REGEX REPLACE "^\\$<BUILD_INTERFACE:(.*)>$" "\\1" folder ${folder})
    if(NOT folder MATCHES "^\\$")
      list(APPEND headers ${folder})
    endif()
  endforeach()
  # Compiled again only if something that it is made of changed.
  set(parts ${source})
  foreach(folder ${headers})
    file(GLOB found ${folder}/braid/io/*.hpp ${folder}/braid/models/config.hpp ${folder}/braid/core/*.hpp)
    list(APPEND parts ${found})
  endforeach()
  set(sums "")
  foreach(part ${parts})
    file(SHA1 ${part} sum)
    string(APPEND sums ${sum})
  endforeach()
  string(SHA1 sum "${sums}")
  string(SUBSTRING ${sum} 0 12 sum)
  set(tool ${CMAKE_BINARY_DIR}/braid_tools/braid_config-${sum}${CMAKE_HOST_EXECUTABLE_SUFFIX})
  if(NOT EXISTS ${tool})
    message(STATUS "braid: compiling braid_config")
    set(json "")
    if(TARGET nlohmann_json::nlohmann_json)  # elsewhere it is on the compiler's own path
      set(json LINK_LIBRARIES nlohmann_json::nlohmann_json)
    endif()
    try_compile(compiled ${CMAKE_BINARY_DIR}/braid_tools SOURCES ${source}
      CMAKE_FLAGS "-DINCLUDE_DIRECTORIES=${headers}"
      ${json}
      CXX_STANDARD 20 CXX_STANDARD_REQUIRED ON
      OUTPUT_VARIABLE log COPY_FILE ${tool})
    if(NOT compiled)
      message(FATAL_ERROR "braid: the tool braid_config did not compile. Set BRAID_CONFIG_TOOL to one that is there, or see:\n${log}")
    endif()
  endif()
  set(${result} ${tool} PARENT_SCOPE)
endfunction()

function(braid_add_checkpoint name directory)
  file(REAL_PATH ${directory} directory BASE_DIRECTORY ${CMAKE_CURRENT_SOURCE_DIR})
  _braid_config_tool(tool)
  set(folder ${CMAKE_CURRENT_BINARY_DIR}/braid_checkpoints)
  file(MAKE_DIRECTORY ${folder})
  execute_process(COMMAND ${tool} ${directory} --name ${name} --output ${folder}/${name}.hpp
    RESULT_VARIABLE status ERROR_VARIABLE message ERROR_STRIP_TRAILING_WHITESPACE)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "braid_add_checkpoint(${name}): ${message}")
  endif()
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${directory}/config.json)
  add_library(${name} INTERFACE)
  target_include_directories(${name} INTERFACE ${folder})
  target_link_libraries(${name} INTERFACE braid::io)
endfunction()

# In the repository itself, the tool is a program like any other.
if(PROJECT_NAME STREQUAL "braid" AND (PROJECT_IS_TOP_LEVEL OR BRAID_BUILD_TESTS))
  add_executable(braid_config ${CMAKE_CURRENT_LIST_DIR}/../tools/braid_config.cpp)
  target_link_libraries(braid_config PRIVATE braid braid_io braid_program)
  install(TARGETS braid_config RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
