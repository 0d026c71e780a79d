#!/usr/bin/env bash
# Try stage 1 on made images: bank, labels, shards, and a few minutes of training a tiny encoder on the CPU.
#
#   bash scripts/encoder/ov_encoder_base_stage1_si_dry_run.sh [more flags]
#
# Every variable below can be set in the environment. Also:
#   DRY_RUN=1    print the command and do nothing
#   RESUME=auto  continue from the newest complete checkpoint of OUTPUT_DIR (default); empty: never
# docs/pretraining.md says what the data are and how they are made.

set -euo pipefail
script_files=("$(realpath "$0")" scripts/encoder/pretraining.sh)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

: "${OUTPUT_DIR=outputs/ov_encoder_base_stage1_si_dry_run}" "${MADE_IMAGES=480}"
: "${IMAGE_SET=$OUTPUT_DIR/data/set}" "${SIZE=tiny}" "${PATCH_SIZE=8}" "${IMAGE_PX=48}" "${IMAGE_BATCH=32}"
: "${LEARNING_RATE=1e-3}" "${WARMUP_RATIO=0.1}" "${MAX_STEPS=120}" "${SAMPLE_RATE=0.5}" "${SAVE_STEPS=0}" "${RESUME=}"
: "${LOGGING_STEPS=10}" "${USE_CPU=true}" "${NUM_GPUS=1}" "${OMP_NUM_THREADS=2}" "${NUM_WORKERS=0}"
source scripts/encoder/pretraining.sh

# The data, made once: files, features, bank of concepts, labels, shards.
made="$OUTPUT_DIR/data"
export OMP_NUM_THREADS
if [ "${DRY_RUN:-0}" != 1 ] && [ "$IMAGE_SET" = "$made/set" ] && [ ! -f "$IMAGE_SET/set.json" ]; then
    rm -rf "$made"
    python -m encoder_training.pretrain.data.made "$made/files" --images "$MADE_IMAGES" --clips 0
    concepts=(python -m encoder_training.pretrain.concepts)
    "${concepts[@]}" features "$made/files/images" "$made/features"
    "${concepts[@]}" cluster "$made/features" "$made/bank" --centres 120 --iterations 10
    "${concepts[@]}" label "$made/features" "$made/bank" "$made/labels" --count 10
    python -m encoder_training.pretrain.data.write "$made/files/images" "$IMAGE_SET" --labels "$made/labels"
fi
launch_pretraining "$@"
