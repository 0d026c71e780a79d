#!/usr/bin/env bash
# Full fine-tuning on mixed codec, image, video and text data.
#
#   DATA_PATH=train.jsonl IMAGE_FOLDER=data bash scripts/sft_ov_encoder.sh [more train.py flags]
#
# Every variable below can be set in the environment. Also:
#   DRY_RUN=1    print the command and do nothing
#   SMOKE=1      tiny random model on the CPU, a few steps; DATA_PATH= takes your data there too
#   RESUME=auto  continue from the newest complete checkpoint of OUTPUT_DIR (default); empty: never
#   RESUME_WITH_CHANGES=true   continue although data or settings have changed

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PATH="${VENV:-$(realpath scripts/..)/.venv}/bin:$PATH"
SMOKE_DATA=train.jsonl
script_files=("$0" scripts/shared_flags.sh)
source scripts/training.sh

# These may be empty: a LLaVA checkpoint as the model brings its own tower and projector.
: "${VISION_TOWER=lmms-lab-encoder/onevision-encoder-large}" "${RESUME=auto}"
: "${PRETRAIN_MM_MLP_ADAPTER=checkpoints/pretrain_ov_encoder/mm_projector.safetensors}"
source scripts/shared_flags.sh

launch \
    --deepspeed "${DEEPSPEED-scripts/zero3.json}" \
    --model_name_or_path "${MODEL_NAME_OR_PATH:-Qwen/Qwen3-4B-Instruct-2507}" \
    ${VISION_TOWER:+--vision_tower "$VISION_TOWER"} \
    ${PRETRAIN_MM_MLP_ADAPTER:+--pretrain_mm_mlp_adapter "$PRETRAIN_MM_MLP_ADAPTER"} \
    --mm_tunable_parts "${MM_TUNABLE_PARTS:-mm_vision_tower,mm_mlp_adapter,mm_language_model}" \
    --version "${PROMPT_VERSION:-qwen_1_5}" \
    --data_path "${DATA_PATH:-data/video800k_with_codec8f_or_8fkeep_mixed_image800k.jsonl}" \
    --image_aspect_ratio "${IMAGE_ASPECT_RATIO:-anyres}" \
    --image_grid_pinpoints "${IMAGE_GRID_PINPOINTS:-(574,1120),(1120,574),(1120,1120),(1694,574),(574,1694)}" \
    --output_dir "${OUTPUT_DIR:-checkpoints/sft_ov_encoder}" \
    --learning_rate "${LEARNING_RATE:-1e-5}" \
    --mm_vision_tower_lr "${MM_VISION_TOWER_LR:-2e-6}" \
    --lr_scheduler_type "${LR_SCHEDULER_TYPE:-linear}" \
    --warmup_ratio "${WARMUP_RATIO:-0}" \
    --per_device_train_batch_size "${PER_DEVICE_TRAIN_BATCH_SIZE:-1}" \
    --gradient_accumulation_steps "${GRADIENT_ACCUMULATION_STEPS:-16}" \
    --model_max_length "${MODEL_MAX_LENGTH:-32768}" \
    ${CHECKPOINTING_POLICY:+--checkpointing_policy "$CHECKPOINTING_POLICY"} \
    --save_strategy "${SAVE_STRATEGY:-steps}" \
    --save_total_limit "${SAVE_TOTAL_LIMIT:-2}" \
    --dataloader_num_workers "${DATALOADER_NUM_WORKERS:-4}" \
    --dataloader_drop_last "${DATALOADER_DROP_LAST:-true}" \
    "${shared_flags[@]}" "$@"
