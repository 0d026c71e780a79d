# shellcheck shell=bash disable=SC2034
# The flags of train.py that pretrain_ov_encoder.sh and sft_ov_encoder.sh have with the same defaults. Both source it
# after the variables that they set themselves.
shared_flags=(
    ${IMAGE_FOLDER:+--image_folder "$IMAGE_FOLDER"}
    ${VIDEO_FOLDER:+--video_folder "$VIDEO_FOLDER"}
    --num_train_epochs "${NUM_TRAIN_EPOCHS:-1}"
    --max_steps "${MAX_STEPS:--1}"
    --bf16 "${BF16:-true}"
    --tf32 "${TF32:-true}"
    --gradient_checkpointing "${GRADIENT_CHECKPOINTING:-true}"
    --save_steps "${SAVE_STEPS:-500}"
    --logging_steps "${LOGGING_STEPS:-1}"
    --on_bad_sample "${ON_BAD_SAMPLE:-stop}"
    --max_bad_fraction "${MAX_BAD_FRACTION:-0.01}"
    --max_grad_norm "${MAX_GRAD_NORM:-1.0}"
    --report_to "${REPORT_TO:-none}"
    --weight_decay "${WEIGHT_DECAY:-0}"
    ${PACK_SEQUENCES:+--pack_sequences "$PACK_SEQUENCES"}
    ${GROUP_BY_MODALITY_LENGTH:+--group_by_modality_length "$GROUP_BY_MODALITY_LENGTH"}
    ${LENGTHS_FILE:+--lengths_file "$LENGTHS_FILE"}
    ${LORA_ENABLE:+--lora_enable "$LORA_ENABLE"}
    ${ATTN_IMPLEMENTATION:+--attn_implementation "$ATTN_IMPLEMENTATION"}
    ${USE_CPU:+--use_cpu "$USE_CPU"}
    ${RESUME:+--resume_from_checkpoint "$RESUME"}
    ${RESUME_WITH_CHANGES:+--resume_with_changes "$RESUME_WITH_CHANGES"}
)
