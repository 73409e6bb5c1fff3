// The version of the library, as macros (for the preprocessor) and as constants.
#pragma once

#define BRAID_VERSION_MAJOR 0
#define BRAID_VERSION_MINOR 1
#define BRAID_VERSION_PATCH 0

namespace braid {

inline constexpr int version_major = BRAID_VERSION_MAJOR;
inline constexpr int version_minor = BRAID_VERSION_MINOR;
inline constexpr int version_patch = BRAID_VERSION_PATCH;

}  // namespace braid
