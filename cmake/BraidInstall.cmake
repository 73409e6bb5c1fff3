# install() and the package files that find_package(braid CONFIG [COMPONENTS io]) reads.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(braid_package ${CMAKE_INSTALL_LIBDIR}/cmake/braid)

install(DIRECTORY include/braid DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(TARGETS braid EXPORT braidTargets)
install(EXPORT braidTargets NAMESPACE braid:: DESTINATION ${braid_package})
if(TARGET braid_io)
  install(TARGETS braid_io EXPORT braidIoTargets)
  install(EXPORT braidIoTargets NAMESPACE braid:: DESTINATION ${braid_package})
  install(FILES cmake/BraidCheckpoint.cmake tools/braid_config.cpp DESTINATION ${braid_package} OPTIONAL)
endif()

configure_package_config_file(cmake/braidConfig.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/braidConfig.cmake
  INSTALL_DESTINATION ${braid_package})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/braidConfigVersion.cmake
  COMPATIBILITY SameMinorVersion ARCH_INDEPENDENT)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/braidConfig.cmake ${CMAKE_CURRENT_BINARY_DIR}/braidConfigVersion.cmake
  DESTINATION ${braid_package})
