#!/usr/bin/env bash
# braid beside PyTorch (transformers' kimi_linear, eager, float32) on the same model, the same cores, in turn. Both must compute the
# same logits first.
# Usage: bench/peers/kimi_linear.sh [build folder, default build/release] ; PYTHON names the interpreter that has torch and transformers
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-$root/build/release}
python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

printf '%s, %s cores, %s, commit %s\n' "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)" "$(nproc)" "$(date +%F)" \
  "$(git -C "$root" rev-parse --short HEAD)"
printf '| feed-forward | | braid, tokens/s | PyTorch, tokens/s | ratio |\n|---|---|---:|---:|---:|\n'
for kind in dense moe; do
  "$build/bench/bench.model" "$kind" "$work/$kind" >"$work/braid"
  "$python" "$(dirname "$0")/kimi_linear.py" "$work/$kind" >"$work/peer" 2>"$work/log" || { cat "$work/log" >&2; exit 1; }
  for what in prefill decode; do
    read -r _ ours ours_least ours_most < <(grep "^$what" "$work/braid")
    read -r _ peer peer_least peer_most < <(grep "^$what" "$work/peer")
    printf '| %s | %s | %s (%s to %s) | %s (%s to %s) | %s |\n' "$kind" "$what" "$ours" "$ours_least" "$ours_most" "$peer" "$peer_least" \
      "$peer_most" "$(awk "BEGIN { printf \"%.1f\", $ours / $peer }")"
  done
  printf '%s: a plain sum of the weights %s tokens/s, least %s, most %s\n' "$kind" $(sed -n 's/^read //p' "$work/braid") >&2
  printf '%s: logits differ by %s of their norm\n' "$kind" "$(sed -n 's/^agreement //p' "$work/peer")" >&2
done
