# shellcheck shell=bash
# Shared by the probe scripts of this folder, which source it: every setting of python -m
# encoder_training.probe as a variable. Their own defaults come first.

export PATH="${VENV:-$(realpath scripts/..)/.venv}/bin:$PATH"
train_module=encoder_training.probe
is_smoke="${SMOKE:-0}"
unset SMOKE # the one of fine-tuning
source scripts/training.sh

if [ "$is_smoke" = 1 ]; then
    : "${OUTPUT_DIR:=outputs/smoke_$(basename "$0" .sh)}"
    : "${DATASETS:=custom}" "${CLASS_NAMES:=$OUTPUT_DIR/smoke/clips/classes.txt}" "${MODEL:=$OUTPUT_DIR/smoke/encoder}" "${FRAMES_TOKEN_NUM:=36}" "${EPOCHS:=4}" "${BATCH_SIZE:=8}"
    : "${TRAIN_LIST:=$OUTPUT_DIR/smoke/clips/train_new.csv}" "${VAL_LIST:=$OUTPUT_DIR/smoke/clips/val_new.csv}" "${VIDEO_ROOT:=$OUTPUT_DIR/smoke/clips}"
    : "${USE_CPU:=true}" "${BF16:=false}" "${NUM_GPUS:=1}" "${OMP_NUM_THREADS:=1}" "${NUM_WORKERS:=0}" "${CLIP_SLOTS:=16}"
    case "${INPUT:=frames:8}" in
        frames:*) ;;
        *) INPUT="${INPUT%%:*}:108" ;;
    esac
    if [ "${DRY_RUN:-0}" != 1 ] && [ ! -f "$OUTPUT_DIR/smoke/encoder/config.json" ]; then
        rm -rf "$OUTPUT_DIR/smoke"
        python -m encoder_training.probe.proof.actions "$OUTPUT_DIR/smoke/clips" --train 64 --val 32 --num_frames 16 --encoder "$OUTPUT_DIR/smoke/encoder"
    fi
elif [ "${USE_CPU:-}" = true ]; then
    : "${BF16:=false}"
fi

# launch_probe FLAG...: one run for each data set, in turn. The first code that is not 0 is returned in the
# end; an interrupt ends all.
launch_probe() {
    local dataset code worst=0 rates decays selection
    read -ra rates <<< "${LEARNING_RATES:-1e-4}"
    read -ra decays <<< "${WEIGHT_DECAYS:-0}"
    read -ra selection <<< "${SELECTION:-}"
    [ -n "${MODEL:-}" ] || fail "MODEL must be a folder with an encoder, or its name on the Hub"
    [ "${DRY_RUN:-0}" = 1 ] || require_gpu # once, not for every data set
    for dataset in ${DATASETS:-hmdb51}; do
        code=0
        (
            launch \
                --dataset "$dataset" \
                --data_root "${DATA_ROOT:-data/probe}" \
                ${TRAIN_LIST:+--train_list "$TRAIN_LIST"} \
                ${VAL_LIST:+--val_list "$VAL_LIST"} \
                ${VIDEO_ROOT:+--video_root "$VIDEO_ROOT"} \
                ${CLASS_NAMES:+--class_names "$CLASS_NAMES"} \
                --model_weight "$MODEL" \
                --embedding_size "${EMBEDDING_SIZE:-0}" \
                --frames_token_num "${FRAMES_TOKEN_NUM:-0}" \
                --input_size "${INPUT_SIZE:-0}" \
                --cls_token "${CLS_TOKEN:-drop}" \
                --attn_implementation "${ATTN_IMPLEMENTATION:-sdpa}" \
                --input "${INPUT:-frames:16}" \
                ${CLIP_SLOTS:+$([[ "${INPUT:-frames}" = frames* ]] || echo --num_frames "$CLIP_SLOTS")} \
                --scale_time "${SCALE_TIME:-false}" \
                ${SELECTION:+--selection "${selection[@]}"} \
                ${CACHE_DIR:+--cache_dir "$CACHE_DIR"} \
                --crop "${CROP:-centre}" \
                --augmentation "${AUGMENTATION:-none}" \
                --train_views "${TRAIN_VIEWS:-1}" \
                --val_segments "${VAL_SEGMENTS:-1}" \
                --num_segments "${NUM_SEGMENTS:-1}" \
                --val_crops "${VAL_CROPS:-1}" \
                --features "${FEATURES:-cached}" \
                ${FEATURE_DIR:+--feature_dir "$FEATURE_DIR"} \
                ${INPUT_DIR:+--input_dir "$INPUT_DIR"} \
                --feature_dtype "${FEATURE_DTYPE:-float16}" \
                --clips_per_shard "${CLIPS_PER_SHARD:-64}" \
                --encode_batch "${ENCODE_BATCH:-4}" \
                --num_workers "${NUM_WORKERS:-4}" \
                --on_broken "${ON_BROKEN:-stop}" \
                --default_lr_list "${rates[@]}" \
                --default_weight_decay "${decays[@]}" \
                --default_epoch "${EPOCHS:-0}" \
                --batch_size "${BATCH_SIZE:-0}" \
                --schedule "${SCHEDULE:-linear}" \
                --label_smoothing "${LABEL_SMOOTHING:-0.1}" \
                --clip_grad "${CLIP_GRAD:-5}" \
                --head_blocks "${HEAD_BLOCKS:-1}" \
                --choice_share "${CHOICE_SHARE:-0.1}" \
                --eval_freq "${EVAL_FREQ:-1}" \
                --seed "${SEED:-1}" \
                --output_dir "${OUTPUT_DIR:-results/attentive_probe}/$dataset" \
                ${SAVE_REPORT:+--save_report "$SAVE_REPORT"} \
                --resume "${RESUME:-true}" \
                --save_steps "${SAVE_STEPS:-0}" \
                --bf16 "${BF16:-true}" \
                ${USE_CPU:+--use_cpu "$USE_CPU"} \
                "$@"
        ) || code=$?
        [ "$code" != 130 ] || exit 130
        [ "$worst" != 0 ] || worst=$code
    done
    exit "$worst"
}
