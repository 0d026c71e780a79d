# shellcheck shell=bash
# Shared by pretrain_ov_encoder.sh, sft_ov_encoder.sh and the scripts of encoder/, which source it: --help,
# the defaults of a smoke run on SMOKE_DATA, and the launch. Variables that are set outside override all
# defaults. A script may set, before it sources this:
#   train_module   the module to run (default llava.train.train)
#   script_files   the files that name its variables (default the script itself)

train_module="${train_module:-llava.train.train}"
[ -n "${script_files[*]:-}" ] || script_files=("$0")

# Print each variable of the script with its default, in the order of the script.
_list_variables() {
    grep -ohE '\$\{[A-Z][A-Z0-9_]*(:-|-|=|:\+)[^}]*\}' "${script_files[@]}" | sed -E 's/^\$\{//; s/\}$//' | awk '
        /^(VENV|BASH_SOURCE|SMOKE_DATA)[:=]/ { next }
        { name = $0; sub(/(:-|-|=|:\+).*/, "", name); value = substr($0, length(name) + 1) }
        value ~ /^:\+/ { value = "(not set)" }
        { sub(/^(:-|-|=)/, "", value); if (value == "") value = "(empty)" }
        !(name in seen) { seen[name] = 1; order[++count] = name; text[name] = value; next }
        text[name] == "(not set)" { text[name] = value }
        END { for (i = 1; i <= count; i++) printf "  %-30s %s\n", order[i], text[order[i]] }'
}

if [ "${1:-}" = "--help" ] || [ "${1:-}" = "-h" ]; then
    awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "${script_files[0]}"
    echo
    sed -n '/^# Launch:/,/^$/ { s/^# \{0,1\}//p }' scripts/training.sh
    echo
    echo "Variables and their defaults. Each sets the flag of its name, which"
    if [ "$train_module" = llava.train.train ]; then
        echo "python -m $train_module --help explains; SMOKE=1 has small defaults of its own."
    else
        echo "python -m $train_module --help explains."
    fi
    _list_variables
    exit 0
fi

# Launch: how many processes, and where.
#   NUM_GPUS=8       processes on each machine (default: one per GPU; SMOKE and USE_CPU: 1)
#   USE_CPU=true     train on the CPU, in float32
#   OMP_NUM_THREADS=8  threads of each process (default 8; SMOKE: 1)
#   NNODES=4 NODE_RANK=0 MASTER_ADDR=HOST [MASTER_PORT=29500]
#                    several machines: run the same command on each, with its own NODE_RANK
#   HOSTFILE=hosts   several machines by the DeepSpeed launcher (lines "HOST slots=8"), from one of
#                    them; needs pdsh and ssh without a password, and this folder on all
#   srun             under SLURM nothing need be set: one task per machine, as in
#                    sbatch --nodes 4 --ntasks-per-node 1 --gpus-per-node 8 \
#                        --wrap 'srun bash scripts/sft_ov_encoder.sh'

fail() { echo "error: $*" >&2; exit 2; }

# A step of SLURM with one task on each of several machines.
if [ "${SLURM_STEP_NUM_NODES:-1}" -gt 1 ] && [ -z "${HOSTFILE:-}" ]; then
    [ "${SLURM_STEP_NUM_TASKS:-}" = "$SLURM_STEP_NUM_NODES" ] \
        || fail "SLURM started ${SLURM_STEP_NUM_TASKS:-?} tasks on $SLURM_STEP_NUM_NODES machines; add --ntasks-per-node 1"
    if [ -z "${MASTER_ADDR:-}" ]; then
        read -r MASTER_ADDR _ <<< "$(scontrol show hostnames "$SLURM_STEP_NODELIST" | tr '\n' ' ')" || true
        [ -n "$MASTER_ADDR" ] || fail "scontrol did not name the first machine of $SLURM_STEP_NODELIST; set MASTER_ADDR="
    fi
    : "${NNODES:=$SLURM_STEP_NUM_NODES}" "${NODE_RANK:=$SLURM_NODEID}" "${MASTER_PORT:=$((20000 + SLURM_JOB_ID % 10000))}"
fi

[[ "${NUM_GPUS:-gpu}" =~ ^([1-9][0-9]*|gpu|cpu|auto)$ ]] || fail "NUM_GPUS must be a number from 1 on, got '$NUM_GPUS'"
[[ "${NNODES:-1}" =~ ^[1-9][0-9]*$ ]] || fail "NNODES must be a number from 1 on, got '$NNODES'"
if [ "${NNODES:-1}" -gt 1 ]; then
    [[ "${NODE_RANK:-}" =~ ^[0-9]+$ && "$NODE_RANK" -lt "$NNODES" ]] \
        || fail "NODE_RANK must be a number from 0 to $((NNODES - 1)), each machine its own, got '${NODE_RANK:-}'"
    [ -n "${MASTER_ADDR:-}" ] || fail "MASTER_ADDR must be set for NNODES=$NNODES: the machine with NODE_RANK=0"
fi
[ -z "${HOSTFILE:-}" ] || [ -f "$HOSTFILE" ] || fail "HOSTFILE $HOSTFILE does not exist"

if [ "${SMOKE:-0}" = 1 ]; then
    [ "$train_module" = llava.train.train ] || fail "SMOKE=1 is for fine-tuning; run scripts/encoder/ov_encoder_base_stage1_si_dry_run.sh"
    : "${OUTPUT_DIR:=outputs/smoke_$(basename "$0" .sh)}"
    smoke_files="$OUTPUT_DIR/smoke" # a machine's own, should they share a file system
    if [ "${NODE_RANK:-0}" != 0 ]; then smoke_files+="_node$NODE_RANK"; fi
    : "${MODEL_NAME_OR_PATH:=$smoke_files/model}" "${VISION_TOWER=}" "${PRETRAIN_MM_MLP_ADAPTER=}"
    : "${DATA_PATH:=$smoke_files/data/$SMOKE_DATA}"
    : "${IMAGE_ASPECT_RATIO:=square}" "${MM_PROJECTOR_TYPE=}" "${MM_VISION_SELECT_LAYER=}"
    : "${LEARNING_RATE:=2e-3}" "${MM_VISION_TOWER_LR:=2e-3}" "${MAX_STEPS:=6}" "${SAVE_STRATEGY:=no}"
    : "${PER_DEVICE_TRAIN_BATCH_SIZE:=2}" "${GRADIENT_ACCUMULATION_STEPS:=1}"
    : "${BF16:=false}" "${TF32:=false}" "${GRADIENT_CHECKPOINTING:=false}" "${USE_CPU:=true}"
    : "${DATALOADER_NUM_WORKERS:=0}" "${DATALOADER_DROP_LAST:=false}" "${NUM_GPUS:=1}" "${OMP_NUM_THREADS:=1}"
    [ "${DRY_RUN:-0}" = 1 ] || python -m llava.train.smoke --out "$smoke_files"
fi

if [ "${USE_CPU:-}" = true ]; then
    : "${NUM_GPUS:=1}" "${BF16:=false}" "${TF32:=false}"
fi

# Whether this machine has a GPU; torch is asked only where no device file says so, since that takes seconds.
_has_gpu() {
    compgen -G '/dev/nvidia[0-9]*' > /dev/null || [ -e /dev/kfd ] || [ -e /dev/dxg ] \
        || python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2> /dev/null
}

# End with code 2 where this machine starts the processes, a GPU is asked for and none is there. One look is enough.
require_gpu() {
    if [ -n "${_gpu_found:-}" ] || [ -n "${HOSTFILE:-}" ] || [ "${USE_CPU:-}" = true ]; then return; fi
    if ! _has_gpu; then
        local trial="the script with SMOKE=1 (a tiny model on the CPU, a minute)"
        if [ "$train_module" = encoder_training.pretrain.train ]; then
            trial="scripts/encoder/ov_encoder_base_stage1_si_dry_run.sh (a tiny model on the CPU, a few minutes)"
        fi
        fail "no GPU found on this machine; try $trial, or train on the CPU with NUM_GPUS=1 USE_CPU=true"
    fi
    _gpu_found=1
}

# DeepSpeed's launcher passes words to a shell on the other machine, and quotes only those with a blank.
_quote_for_ssh() {
    if [[ "$1" == *" "* ]]; then printf '%s' "$1"; else printf '%q' "$1"; fi
}

# launch ARG...: the run itself, on NUM_GPUS processes of each machine.
launch() {
    local command=(python -m) arguments=("$@") index
    if [ -n "${HOSTFILE:-}" ]; then
        command+=(deepspeed.launcher.runner --hostfile "$HOSTFILE" --master_port "${MASTER_PORT:-29500}")
        if [ -n "${MASTER_ADDR:-}" ]; then command+=(--master_addr "$MASTER_ADDR"); fi
        if [ -n "${NUM_GPUS:-}" ]; then command+=(--num_gpus "$NUM_GPUS"); fi
        command+=(--no_local_rank --module)
        for index in "${!arguments[@]}"; do arguments[index]=$(_quote_for_ssh "${arguments[index]}"); done
    elif [ "${NUM_GPUS:-gpu}" != 1 ] || [ "${NNODES:-1}" != 1 ]; then
        command+=(
            torch.distributed.run
            --nproc_per_node "${NUM_GPUS:-gpu}" --nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}"
            --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${MASTER_PORT:-29500}" -m
        )
    fi
    command+=("$train_module" "${arguments[@]}")
    if [ "${DRY_RUN:-0}" = 1 ]; then
        printf '%q ' "${command[@]}"
        echo
        return
    fi
    require_gpu
    export OMP_NUM_THREADS="${OMP_NUM_THREADS:-8}"
    exec "${command[@]}"
}
