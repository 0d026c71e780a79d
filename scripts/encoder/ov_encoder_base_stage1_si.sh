#!/usr/bin/env bash
# Stage 1: an encoder of base size from scratch, on images with labels of a concept bank; 8 GPUs.
#
#   IMAGE_SET="data/pretrain/coyo400m data/pretrain/laion260m" bash scripts/encoder/ov_encoder_base_stage1_si.sh [more flags]
#
# Every variable below can be set in the environment. Also:
#   DRY_RUN=1    print the command and do nothing
#   RESUME=auto  continue from the newest complete checkpoint of OUTPUT_DIR (default); empty: never
# docs/pretraining.md says what the data are and how they are made.

set -euo pipefail
script_files=("$(realpath "$0")" scripts/encoder/pretraining.sh)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

: "${OUTPUT_DIR=checkpoints/ov_encoder_base_stage1_si}" "${SIZE=base}" "${IMAGE_SET=data/pretrain/images}" "${IMAGE_BATCH=128}" "${IMAGE_PX=224}"
: "${LEARNING_RATE=1e-3}" "${WARMUP_RATIO=0.1}" "${NUM_SAMPLES=13e9}" "${NUM_GPUS=8}"
source scripts/encoder/pretraining.sh
launch_pretraining "$@"
