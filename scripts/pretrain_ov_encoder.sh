#!/usr/bin/env bash
# Projector alignment on captions; the encoder and the language model stay frozen.
#
#   DATA_PATH=captions.json IMAGE_FOLDER=images bash scripts/pretrain_ov_encoder.sh [more train.py flags]
#
# Every variable below can be set in the environment. Also:
#   DRY_RUN=1    print the command and do nothing
#   SMOKE=1      tiny random model on the CPU, a few steps; DATA_PATH= takes your data there too
#   RESUME=auto  continue from the newest complete checkpoint of OUTPUT_DIR (default); empty: never
#   RESUME_WITH_CHANGES=true   continue although data or settings have changed

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="${VENV:-$(realpath scripts/..)/.venv}/bin:$PATH"
SMOKE_DATA=captions.jsonl
script_files=("$0" scripts/shared_flags.sh)
source scripts/training.sh

# These may be empty: a LLaVA checkpoint as the model brings its own tower and projector.
: "${VISION_TOWER=lmms-lab-encoder/onevision-encoder-large}" "${RESUME=auto}"
: "${MM_PROJECTOR_TYPE=mlp2x_gelu}" "${MM_VISION_SELECT_LAYER=-2}"
source scripts/shared_flags.sh

launch \
    --deepspeed "${DEEPSPEED-scripts/zero2.json}" \
    --model_name_or_path "${MODEL_NAME_OR_PATH:-Qwen/Qwen3-4B-Instruct-2507}" \
    ${VISION_TOWER:+--vision_tower "$VISION_TOWER"} \
    ${MM_PROJECTOR_TYPE:+--mm_projector_type "$MM_PROJECTOR_TYPE"} \
    ${MM_VISION_SELECT_LAYER:+--mm_vision_select_layer "$MM_VISION_SELECT_LAYER"} \
    --mm_tunable_parts "${MM_TUNABLE_PARTS:-mm_mlp_adapter}" \
    --version "${PROMPT_VERSION:-plain}" \
    --data_path "${DATA_PATH:-data/blip_laion_cc_sbu_558k.json}" \
    --image_aspect_ratio "${IMAGE_ASPECT_RATIO:-square}" \
    --output_dir "${OUTPUT_DIR:-checkpoints/pretrain_ov_encoder}" \
    --learning_rate "${LEARNING_RATE:-1e-3}" \
    --lr_scheduler_type "${LR_SCHEDULER_TYPE:-cosine}" \
    --warmup_ratio "${WARMUP_RATIO:-0.03}" \
    --per_device_train_batch_size "${PER_DEVICE_TRAIN_BATCH_SIZE:-16}" \
    --gradient_accumulation_steps "${GRADIENT_ACCUMULATION_STEPS:-2}" \
    --model_max_length "${MODEL_MAX_LENGTH:-8192}" \
    --save_strategy "${SAVE_STRATEGY:-no}" \
    --save_total_limit "${SAVE_TOTAL_LIMIT:-1}" \
    --dataloader_num_workers "${DATALOADER_NUM_WORKERS:-16}" \
    "${shared_flags[@]}" "$@"
