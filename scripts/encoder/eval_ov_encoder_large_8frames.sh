#!/usr/bin/env bash
# The published table with 8 frames of a clip (chunk-wise sampling), all eight data sets; 8 GPUs.
#
#   bash scripts/encoder/eval_ov_encoder_large_8frames.sh [MODEL] [more flags]
#
# Every variable below can be set in the environment. Also:
#   DRY_RUN=1    print the commands and do nothing
#   SMOKE=1      a tiny encoder and made clips on the CPU, a minute
# A run that was stopped continues. docs/probe.md says how data sets are laid out, and what the results are.

set -euo pipefail
script_files=("$(realpath "$0")" scripts/encoder/probing.sh)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

[ $# = 0 ] || [[ "$1" = -* ]] || { MODEL="$1"; shift; }
: "${INPUT=frames:8}"
if [ "${SMOKE:-0}" != 1 ]; then
    : "${OUTPUT_DIR=results/attentive_probe/large_8frames}" "${MODEL=lmms-lab-encoder/onevision-encoder-large}" "${EMBEDDING_SIZE=1024}" "${FRAMES_TOKEN_NUM=256}" "${NUM_GPUS=8}"
    : "${DATASETS=ssv2 diving48 perception_test charadesego epic_verb epic_noun k400 hmdb51}" "${FEATURES=streamed}" "${AUGMENTATION=reference}" "${CHOICE_SHARE=0}"
fi
source scripts/encoder/probing.sh
: "${SAVE_REPORT=$OUTPUT_DIR}"
launch_probe "$@"
