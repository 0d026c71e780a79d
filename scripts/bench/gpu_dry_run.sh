#!/usr/bin/env bash
# Try scripts/bench/gpu.py without a GPU, in half a minute on two cores: a case that fails ends with code 1 and the log.
# On meta, models of full size without values; on the CPU, tiny ones. docs/gpu.md names the whole run.
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/../.."
source scripts/environment.sh
export OMP_NUM_THREADS=1
out="$(mktemp -d)"
trap 'rm -rf "$out"' EXIT

try() {
    python scripts/bench/gpu.py --device "$1" --out "$out/$1" "${@:2}" > "$out/$1.log" 2>&1 || { cat "$out/$1.log"; return 1; }
    echo "scripts/bench/gpu.py --device $1: $(grep ' cases finished' "$out/$1.log")"
}

try meta --parts encoder step --cases "large, 1 x 10368" "large, mixed" "1.7b, plain" "1.7b, selective" "loss" &
try cpu --parts correctness generation --cases "features" "codec, 10368" && cpu=0 || cpu=1
wait $! && exit "$cpu"
