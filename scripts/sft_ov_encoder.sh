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
source scripts/training.sh

# These may be empty: a LLaVA checkpoint as the model brings its own tower and projector.
: "${VISION_TOWER=lmms-lab-encoder/onevision-encoder-large}" "${RESUME=auto}"
: "${PRETRAIN_MM_MLP_ADAPTER=checkpoints/pretrain_ov_encoder/mm_projector.safetensors}"

launch \
    --deepspeed "${DEEPSPEED:-scripts/zero3.json}" \
    --model_name_or_path "${MODEL_NAME_OR_PATH:-Qwen/Qwen3-4B-Instruct-2507}" \
    ${VISION_TOWER:+--vision_tower "$VISION_TOWER"} \
    ${PRETRAIN_MM_MLP_ADAPTER:+--pretrain_mm_mlp_adapter "$PRETRAIN_MM_MLP_ADAPTER"} \
    --mm_tunable_parts "${MM_TUNABLE_PARTS:-mm_vision_tower,mm_mlp_adapter,mm_language_model}" \
    --version "${PROMPT_VERSION:-qwen_1_5}" \
    --data_path "${DATA_PATH:-data/video800k_with_codec8f_or_8fkeep_mixed_image800k.jsonl}" \
    ${IMAGE_FOLDER:+--image_folder "$IMAGE_FOLDER"} \
    ${VIDEO_FOLDER:+--video_folder "$VIDEO_FOLDER"} \
    --image_aspect_ratio "${IMAGE_ASPECT_RATIO:-anyres}" \
    --image_grid_pinpoints "${IMAGE_GRID_PINPOINTS:-(574,1120),(1120,574),(1120,1120),(1694,574),(574,1694)}" \
    --output_dir "${OUTPUT_DIR:-checkpoints/sft_ov_encoder}" \
    --learning_rate "${LEARNING_RATE:-1e-5}" \
    --mm_vision_tower_lr "${MM_VISION_TOWER_LR:-2e-6}" \
    --lr_scheduler_type "${LR_SCHEDULER_TYPE:-linear}" \
    --warmup_ratio "${WARMUP_RATIO:-0}" \
    --weight_decay "${WEIGHT_DECAY:-0}" \
    --num_train_epochs "${NUM_TRAIN_EPOCHS:-1}" \
    --max_steps "${MAX_STEPS:--1}" \
    --per_device_train_batch_size "${PER_DEVICE_TRAIN_BATCH_SIZE:-1}" \
    --gradient_accumulation_steps "${GRADIENT_ACCUMULATION_STEPS:-16}" \
    --model_max_length "${MODEL_MAX_LENGTH:-32768}" \
    --bf16 "${BF16:-true}" \
    --tf32 "${TF32:-true}" \
    --gradient_checkpointing "${GRADIENT_CHECKPOINTING:-true}" \
    ${CHECKPOINTING_POLICY:+--checkpointing_policy "$CHECKPOINTING_POLICY"} \
    --save_strategy "${SAVE_STRATEGY:-steps}" \
    --save_steps "${SAVE_STEPS:-500}" \
    --save_total_limit "${SAVE_TOTAL_LIMIT:-2}" \
    --logging_steps "${LOGGING_STEPS:-1}" \
    --dataloader_num_workers "${DATALOADER_NUM_WORKERS:-4}" \
    --dataloader_drop_last "${DATALOADER_DROP_LAST:-true}" \
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
