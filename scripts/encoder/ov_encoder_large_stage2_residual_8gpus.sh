#!/usr/bin/env bash
# Stage 2: continue with videos (codec patches, chunks, collages) and images; large, 8 GPUs.
#
#   INIT=checkpoints/ov_encoder_large_stage1/final bash scripts/encoder/ov_encoder_large_stage2_residual_8gpus.sh [more flags]
#
# Every variable below can be set in the environment. Also:
#   DRY_RUN=1    print the command and do nothing
#   RESUME=auto  continue from the newest complete checkpoint of OUTPUT_DIR (default); empty: never
# docs/pretraining.md says what the data are and how they are made.

set -euo pipefail
script_files=("$(realpath "$0")" scripts/encoder/pretraining.sh)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

: "${OUTPUT_DIR=checkpoints/ov_encoder_large_stage2_residual_8gpus}" "${SIZE=large}" "${INIT=checkpoints/onevision-encoder-large-si}"
: "${IMAGE_SET=data/pretrain/images}" "${VIDEO_SET=data/pretrain/videos}" "${IMAGE_BATCH=10}" "${VIDEO_BATCH=10}"
: "${IMAGE_PX=448}" "${VIDEO_PX=224}" "${RESIDUAL_RATIO=0.1}" "${FRAME_SAMPLING_RATIO=0.8}"
: "${LEARNING_RATE=5e-5}" "${WARMUP_RATIO=0.001}" "${ACCUMULATION_STEPS=4}" "${NUM_SAMPLES=1.28e9}" "${NUM_GPUS=8}"
source scripts/encoder/pretraining.sh
launch_pretraining "$@"
