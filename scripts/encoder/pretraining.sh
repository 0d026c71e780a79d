# shellcheck shell=bash
# Shared by the scripts of this folder, which source it: every setting of python -m
# encoder_training.pretrain.train as a variable. Their own defaults come first.

export PATH="${VENV:-$(realpath scripts/..)/.venv}/bin:$PATH"
train_module=encoder_training.pretrain.train
source scripts/training.sh

: "${RESUME=auto}"

# launch_pretraining FLAG...: the run itself.
launch_pretraining() {
    local image_set ocr_set video_set
    read -ra image_set <<< "${IMAGE_SET:-}"
    read -ra ocr_set <<< "${OCR_SET:-}"
    read -ra video_set <<< "${VIDEO_SET:-}"
    launch \
        --output_dir "$OUTPUT_DIR" \
        ${IMAGE_SET:+--image_set "${image_set[@]}"} \
        ${OCR_SET:+--ocr_set "${ocr_set[@]}"} \
        ${VIDEO_SET:+--video_set "${video_set[@]}"} \
        --size "${SIZE:-base}" \
        ${INIT:+--init "$INIT"} \
        ${INIT_CENTRES:+--init_centres "$INIT_CENTRES"} \
        --patch_size "${PATCH_SIZE:-14}" \
        --image_px "${IMAGE_PX:-224}" \
        --max_image_px "${MAX_IMAGE_PX:-0}" \
        --ocr_px "${OCR_PX:-448}" \
        --video_px "${VIDEO_PX:-224}" \
        --num_frames "${NUM_FRAMES:-8}" \
        --residual_ratio "${RESIDUAL_RATIO:-0.5}" \
        --frame_sampling_ratio "${FRAME_SAMPLING_RATIO:-0.375}" \
        --ratio_reading "${RATIO_READING:-additive}" \
        --image_batch "${IMAGE_BATCH:-128}" \
        --ocr_batch "${OCR_BATCH:-8}" \
        --video_batch "${VIDEO_BATCH:-16}" \
        --image_loss_weight "${IMAGE_LOSS_WEIGHT:-1}" \
        --ocr_loss_weight "${OCR_LOSS_WEIGHT:-1}" \
        --video_loss_weight "${VIDEO_LOSS_WEIGHT:-1}" \
        --sample_rate "${SAMPLE_RATE:-0.1}" \
        --labels_per_step "${LABELS_PER_STEP:-8}" \
        --margin_kind "${MARGIN_KIND:-cosface}" \
        --margin "${MARGIN:-0.3}" \
        --reference_gradient_scale "${REFERENCE_GRADIENT_SCALE:-true}" \
        --learning_rate "${LEARNING_RATE:-1e-3}" \
        --schedule "${SCHEDULE:-linear}" \
        --warmup_ratio "${WARMUP_RATIO:-0.1}" \
        --weight_decay "${WEIGHT_DECAY:-0.05}" \
        --max_grad_norm "${MAX_GRAD_NORM:-5}" \
        --ema_decay "${EMA_DECAY:-0}" \
        --num_samples "${NUM_SAMPLES:-13e9}" \
        --max_steps "${MAX_STEPS:-0}" \
        --accumulation_steps "${ACCUMULATION_STEPS:-1}" \
        --seed "${SEED:-0}" \
        --bf16 "${BF16:-true}" \
        --tf32 "${TF32:-true}" \
        --compile "${COMPILE:-false}" \
        --gradient_checkpointing "${GRADIENT_CHECKPOINTING:-false}" \
        --attn_implementation "${ATTN_IMPLEMENTATION:-auto}" \
        --num_workers "${NUM_WORKERS:-4}" \
        --on_bad_sample "${ON_BAD_SAMPLE:-stop}" \
        --save_steps "${SAVE_STEPS:-1000}" \
        --save_total_limit "${SAVE_TOTAL_LIMIT:-3}" \
        --logging_steps "${LOGGING_STEPS:-10}" \
        --embedding_steps "${EMBEDDING_STEPS:-0}" \
        --tensorboard "${TENSORBOARD:-false}" \
        ${PEAK_TFLOPS:+--peak_tflops "$PEAK_TFLOPS"} \
        ${USE_CPU:+--use_cpu "$USE_CPU"} \
        ${RESUME:+--resume_from_checkpoint "$RESUME"} \
        ${RESUME_WITH_CHANGES:+--resume_with_changes "$RESUME_WITH_CHANGES"} \
        "$@"
}
