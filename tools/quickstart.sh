#!/usr/bin/env bash
# From a fresh Debian machine to a trained hybrid model: installs what is missing, builds examples/quickstart and runs it.
# Arguments are handed to the program (--help lists them).
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
"$root/tools/install-packages.sh" quickstart
cmake -S "$root" -B "$root/build" -G Ninja -DBRAID_BUILD_TESTS=OFF -DBRAID_CUDA=OFF >/dev/null
cmake --build "$root/build" --target quickstart
exec "$root/build/examples/quickstart" "$@"
