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
source scripts/training.sh

# These may be empty: a LLaVA checkpoint as the model brings its own tower and projector.
: "${VISION_TOWER=lmms-lab-encoder/onevision-encoder-large}" "${RESUME=auto}"
: "${MM_PROJECTOR_TYPE=mlp2x_gelu}" "${MM_VISION_SELECT_LAYER=-2}"

launch \
    --deepspeed "${DEEPSPEED:-scripts/zero2.json}" \
    --model_name_or_path "${MODEL_NAME_OR_PATH:-Qwen/Qwen3-4B-Instruct-2507}" \
    ${VISION_TOWER:+--vision_tower "$VISION_TOWER"} \
    ${MM_PROJECTOR_TYPE:+--mm_projector_type "$MM_PROJECTOR_TYPE"} \
    ${MM_VISION_SELECT_LAYER:+--mm_vision_select_layer "$MM_VISION_SELECT_LAYER"} \
    --mm_tunable_parts "${MM_TUNABLE_PARTS:-mm_mlp_adapter}" \
    --version "${PROMPT_VERSION:-plain}" \
    --data_path "${DATA_PATH:-data/blip_laion_cc_sbu_558k.json}" \
    ${IMAGE_FOLDER:+--image_folder "$IMAGE_FOLDER"} \
    ${VIDEO_FOLDER:+--video_folder "$VIDEO_FOLDER"} \
    --image_aspect_ratio "${IMAGE_ASPECT_RATIO:-square}" \
    --output_dir "${OUTPUT_DIR:-checkpoints/pretrain_ov_encoder}" \
    --learning_rate "${LEARNING_RATE:-1e-3}" \
    --lr_scheduler_type "${LR_SCHEDULER_TYPE:-cosine}" \
    --warmup_ratio "${WARMUP_RATIO:-0.03}" \
    --weight_decay "${WEIGHT_DECAY:-0}" \
    --num_train_epochs "${NUM_TRAIN_EPOCHS:-1}" \
    --max_steps "${MAX_STEPS:--1}" \
    --per_device_train_batch_size "${PER_DEVICE_TRAIN_BATCH_SIZE:-16}" \
    --gradient_accumulation_steps "${GRADIENT_ACCUMULATION_STEPS:-2}" \
    --model_max_length "${MODEL_MAX_LENGTH:-8192}" \
    --bf16 "${BF16:-true}" \
    --tf32 "${TF32:-true}" \
    --gradient_checkpointing "${GRADIENT_CHECKPOINTING:-true}" \
    --save_strategy "${SAVE_STRATEGY:-no}" \
    --save_steps "${SAVE_STEPS:-500}" \
    --save_total_limit "${SAVE_TOTAL_LIMIT:-1}" \
    --logging_steps "${LOGGING_STEPS:-1}" \
    --dataloader_num_workers "${DATALOADER_NUM_WORKERS:-16}" \
    --on_bad_sample "${ON_BAD_SAMPLE:-stop}" \
    --max_bad_fraction "${MAX_BAD_FRACTION:-0.01}" \
    --max_grad_norm "${MAX_GRAD_NORM:-1.0}" \
    --report_to "${REPORT_TO:-none}" \
    ${PACK_SEQUENCES:+--pack_sequences "$PACK_SEQUENCES"} \
    ${GROUP_BY_MODALITY_LENGTH:+--group_by_modality_length "$GROUP_BY_MODALITY_LENGTH"} \
    ${LENGTHS_FILE:+--lengths_file "$LENGTHS_FILE"} \
    ${LORA_ENABLE:+--lora_enable "$LORA_ENABLE"} \
    ${ATTN_IMPLEMENTATION:+--attn_implementation "$ATTN_IMPLEMENTATION"} \
    ${USE_CPU:+--use_cpu "$USE_CPU"} \
    ${RESUME:+--resume_from_checkpoint "$RESUME"} \
    ${RESUME_WITH_CHANGES:+--resume_with_changes "$RESUME_WITH_CHANGES"} \
    "$@"
