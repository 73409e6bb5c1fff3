#!/usr/bin/env bash
# Fails if a header includes one of a floor above its own, or a library that is not its folder's (docs/architecture.md, "Floors").
# Usage: tools/check_layers.sh [folder that holds braid/, default include]
set -euo pipefail
cd "${1:-$(dirname "$0")/../include}"

grep -rnE '^[[:space:]]*#[[:space:]]*include' braid | awk -F: '
  function floor(path) {
    if (path == "braid/models/config.hpp") return 0  # a layer takes a Config: with the models by meaning, on floor 0 by dependency
    if (path == "braid/version.hpp") return 0
    split(path, part, "/")
    if (part[2] in floors) return floors[part[2]]
    if (path ~ /^braid\/[a-z_]+\.(hpp|cuh)$/) return 9  # umbrellas
    return -1
  }
  function bad(reason) { printf "include/%s:%s: %s\n    %s\n", file, line, reason, text; failed = 1 }
  BEGIN {
    n = split("core:0 reference:1 cpu:1 cuda:1 layers:2 models:3 train:4 infer:4 io:4", list, " ")
    for (i = 1; i <= n; ++i) { split(list[i], pair, ":"); floors[pair[1]] = pair[2] }
  }
  {
    file = $1; line = $2; text = $0; sub(/^[^:]*:[^:]*:/, "", text)
    header = text; sub(/^[^<"]*[<"]/, "", header); sub(/[>"].*$/, "", header)
    split(file, from, "/"); split(header, to, "/")
    if (floor(file) < 0) bad("is in a folder without a floor")
    if (text ~ /include[[:space:]]*"/) bad("includes are written <braid/...>")
    if (header ~ /^braid\//) {
      if (floor(header) > floor(file)) bad("includes a floor above its own")
      if (floor(file) == 1 && floor(header) == 1 && from[2] != to[2]) bad(from[2] "/ and " to[2] "/ do not know each other")
    }
    if (header ~ /^(Eigen|unsupported)\// && from[2] != "cpu") bad("only cpu/ includes Eigen")
    if (header ~ /^(cuda|cub|thrust|cooperative_groups|mma|nv)/ && from[2] != "cuda") bad("only cuda/ includes CUDA")
    if (header ~ /^(nlohmann\/|pcre2)/ && from[2] != "io") bad("only io/ includes JSON and PCRE2")
    if (header ~ /^(doctest|CLI|png|benchmark)/) bad("the library needs no such package")
  }
  END { exit failed }
'
