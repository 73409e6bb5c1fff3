#!/usr/bin/env bash
# cuda_resources.sh <nvcc> <source.cu> <include folder> <report.md>: what ptxas says of each kernel, for sm_80 and sm_90a, as a table.
set -euo pipefail
nvcc=$1 source=$2 include=$3 report=$4
{
  echo "| kernel | device | registers | shared bytes (static) | stack | spill stores | spill loads |"
  echo "|---|---|---|---|---|---|---|"
  for arch in 80 90a; do
    "$nvcc" -std=c++20 -O3 -I"$include" -diag-suppress=1886 -gencode=arch=compute_$arch,code=sm_$arch -Xptxas -v -cubin -o /dev/null "$source" 2>&1 |
      c++filt | awk -v device="sm_$arch" '
        /Compiling entry function/ { name = $0; sub(/.*function .void /, "", name); sub(/\(.*$/, "", name); gsub(/braid::(cuda::)?(detail::)?/, "", name);
                                     gsub(/__nv_bfloat16/, "bf16", name); gsub(/\(DType\)/, "", name) }
        /bytes stack frame/ { stack = $1; stores = $5; loads = $9 }
        /Used [0-9]+ registers/ { registers = $0; sub(/.*Used /, "", registers); sub(/ .*/, "", registers);
                                  shared = 0; if (match($0, /[0-9]+ bytes smem/)) { shared = substr($0, RSTART, RLENGTH); sub(/ .*/, "", shared) }
                                  print "| " name " | " device " | " registers " | " shared " | " stack " | " stores " | " loads " |" }'
  done
} > "$report"
grep -c '^| [a-z]' "$report" | xargs -I{} echo "{} lines in $report"
awk -F'|' 'NR > 2 && ($7 + $8 > 0) { spills++; print "spills:" $2 "on" $3 } END { print spills + 0, "kernels spill" }' "$report"
