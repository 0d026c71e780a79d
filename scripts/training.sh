# Shared by pretrain_ov_encoder.sh and sft_ov_encoder.sh, which source it: --help, the defaults of a
# smoke run on SMOKE_DATA, and the launch. Whatever is set outside wins over both kinds of defaults.

if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$0"
    exit 0
fi

if [ "${SMOKE:-0}" = 1 ]; then
    : "${OUTPUT_DIR:=outputs/smoke_$(basename "$0" .sh)}"
    : "${MODEL_NAME_OR_PATH:=$OUTPUT_DIR/smoke/model}" "${VISION_TOWER=}" "${PRETRAIN_MM_MLP_ADAPTER=}"
    : "${DATA_PATH:=$OUTPUT_DIR/smoke/data/$SMOKE_DATA}"
    : "${IMAGE_ASPECT_RATIO:=square}" "${MM_PROJECTOR_TYPE=}" "${MM_VISION_SELECT_LAYER=}"
    : "${LEARNING_RATE:=2e-3}" "${MM_VISION_TOWER_LR:=2e-3}" "${MAX_STEPS:=6}" "${SAVE_STRATEGY:=no}"
    : "${PER_DEVICE_TRAIN_BATCH_SIZE:=2}" "${GRADIENT_ACCUMULATION_STEPS:=1}"
    : "${BF16:=false}" "${TF32:=false}" "${GRADIENT_CHECKPOINTING:=false}" "${USE_CPU:=true}"
    : "${DATALOADER_NUM_WORKERS:=0}" "${NUM_GPUS:=1}" "${OMP_NUM_THREADS:=1}"
    [ "${DRY_RUN:-0}" = 1 ] || python -m llava.train.smoke --out "$OUTPUT_DIR/smoke"
fi

# launch ARG...: the run itself, on NUM_GPUS processes of NNODES machines.
launch() {
    local command=(
        python -m torch.distributed.run
        --nproc_per_node "${NUM_GPUS:-gpu}" --nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}"
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${MASTER_PORT:-29500}"
        -m llava.train.train "$@"
    )
    if [ "${DRY_RUN:-0}" = 1 ]; then
        printf '%q ' "${command[@]}"
        echo
        return
    fi
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"
    exec "${command[@]}"
}
