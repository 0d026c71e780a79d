#!/usr/bin/env bash
# Stage 2 on images, text images and videos; large, 16 machines of 8 GPUs.
#
#   NODE_RANK=0 MASTER_ADDR=gpu-00 bash scripts/encoder/ov_encoder_large_stage2_residual_128gpus.sh [more flags]
#
# Every variable below can be set in the environment. Also:
#   DRY_RUN=1    print the command and do nothing
#   RESUME=auto  continue from the newest complete checkpoint of OUTPUT_DIR (default); empty: never
# docs/pretraining.md says what the data are and how they are made.

set -euo pipefail
script_files=("$(realpath "$0")" scripts/encoder/pretraining.sh)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

: "${OUTPUT_DIR=checkpoints/ov_encoder_large_stage2_residual_128gpus}" "${SIZE=large}" "${INIT=checkpoints/onevision-encoder-large-si}"
: "${IMAGE_SET=data/pretrain/images}" "${OCR_SET=data/pretrain/ocr}" "${VIDEO_SET=data/pretrain/videos}"
: "${IMAGE_BATCH=16}" "${OCR_BATCH=8}" "${VIDEO_BATCH=16}" "${IMAGE_PX=448}" "${VIDEO_PX=224}"
: "${RESIDUAL_RATIO=0.5}" "${FRAME_SAMPLING_RATIO=0.4}"
: "${LEARNING_RATE=5e-5}" "${WARMUP_RATIO=0.0001}" "${ACCUMULATION_STEPS=4}" "${NUM_SAMPLES=3.2e8}"
: "${NUM_GPUS=8}" "${NNODES=16}"
source scripts/encoder/pretraining.sh
launch_pretraining "$@"
