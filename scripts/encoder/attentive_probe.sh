#!/usr/bin/env bash
# Attentive probes of any encoder on any data set: learning rates and decays in one pass.
#
#   DATASET=ssv2 MODEL=lmms-lab-encoder/onevision-encoder-large INPUT=codec:2048 bash scripts/encoder/attentive_probe.sh [more flags]
#
# Every variable below can be set in the environment. Also:
#   DRY_RUN=1    print the commands and do nothing
#   SMOKE=1      a tiny encoder and made clips on the CPU, a minute
# A run that was stopped continues. docs/probe.md says how data sets are laid out, and what the results are.

set -euo pipefail
script_files=("$(realpath "$0")" scripts/encoder/probing.sh)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

: "${DATASET=hmdb51}" "${INPUT=frames:16}"
if [ "${SMOKE:-0}" != 1 ]; then
    : "${OUTPUT_DIR=results/attentive_probe/run}" "${MODEL=lmms-lab-encoder/onevision-encoder-large}" "${DATASETS=$DATASET}"
fi
source scripts/encoder/probing.sh
launch_probe "$@"
