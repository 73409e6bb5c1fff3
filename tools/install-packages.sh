#!/usr/bin/env bash
# Installs the Debian packages that building and testing braid needs, if any of them is missing.
# Usage: tools/install-packages.sh [quickstart|all]
set -euo pipefail

packages=(g++ cmake ninja-build pkg-config libeigen3-dev nlohmann-json3-dev libpcre2-dev libcli11-dev libpng-dev)
if [ "${1:-all}" = all ]; then
  packages+=(doctest-dev libbenchmark-dev clang libclang-rt-dev git python3)
fi

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
[ ${#missing[@]} -eq 0 ] && exit 0

echo "installing: ${missing[*]}"
as_root() { if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi; }
export DEBIAN_FRONTEND=noninteractive
as_root apt-get update -qq
as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
