#!/usr/bin/env bash
# Evaluates a checkpoint with lmms-eval:
#   MODEL_PATH=checkpoints/my_model TASKS=videomme,mvbench,docvqa_val bash scripts/eval/eval_ov_encoder.sh
# Further arguments go to lmms-eval (--limit 8 ...). Environment:
#   MODEL_PATH     checkpoint folder (required)
#   TASKS          lmms-eval tasks, separated by commas (default ai2d,chartqa,docvqa_val)
#   NUM_GPUS       processes, one per GPU (default: the GPUs of this machine, else 1)
#   CONV_TEMPLATE  prompt template (default qwen_1_5)
#   MODEL_ARGS     further model arguments, name=value,... (codec_miss=online,video_root=DIR ...)
#   BATCH_SIZE     samples per call (default 1)
#   OUTPUT_PATH    results and manifest.json (default eval_log/<name of the checkpoint>)
#   HF_HOME        benchmarks and assets (default .huggingface_cache)
#   LLAVA_CODEC_USE_OFFLINE=0  uniform frames instead of codec assets
#   LLAVA_CODEC_OFFLINE_ROOT   asset folders instead of $HF_HOME/<task>_offline/assets of the video tasks
#   DRY_RUN=1      print the command and stop
set -euo pipefail
if [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; then sed -n '2,16s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0; fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
if [ -z "${MODEL_PATH:-}" ]; then echo "error: set MODEL_PATH to a checkpoint folder (--help)" >&2; exit 2; fi

TASKS="${TASKS:-ai2d,chartqa,docvqa_val}"
export HF_HOME="${HF_HOME:-$PWD/.huggingface_cache}"
case "${LLAVA_CODEC_USE_OFFLINE:-1}" in 0 | false | False | no) LLAVA_CODEC_USE_OFFLINE=0 ;; *) LLAVA_CODEC_USE_OFFLINE=1 ;; esac
export LLAVA_CODEC_USE_OFFLINE
export LLAVA_CODEC_VISIDX_MODE="${LLAVA_CODEC_VISIDX_MODE:-pack_topk}"
export LLAVA_CODEC_SEQ_LEN_FRAMES="${LLAVA_CODEC_SEQ_LEN_FRAMES:-64}"
export LLAVA_CODEC_NUM_IMAGES="${LLAVA_CODEC_NUM_IMAGES:-8}"
export LLAVA_CODEC_SQUARE_SIZE="${LLAVA_CODEC_SQUARE_SIZE:-576}"
export LLAVA_CODEC_PATCH_SIZE="${LLAVA_CODEC_PATCH_SIZE:-16}"

# The name under which preprocess_video_benchmark.sh keeps the assets of a task; none for image tasks.
offline_name() {
  case "$1" in
    videomme | videomme_*) echo videomme ;;
    mvbench | mvbench_*) echo mvbench ;;
    perceptiontest_val_mc) echo perceptiontest ;;
    nextqa_mc_test) echo nextqa ;;
    temporalbench_long_qa) echo temporalbench ;;
    video_mmmu | video_mmmu_*) echo video_mmmu ;;
    tomato) echo tomato ;;
    longvideobench_val_v) echo longvideobench ;;
    mlvu_dev) echo mlvu_dev ;;
  esac
}

roots=""
for task in ${TASKS//,/ }; do
  name="$(offline_name "$task")"
  root="$HF_HOME/${name}_offline/assets"
  if [ -z "$name" ] || [ "$LLAVA_CODEC_USE_OFFLINE" = 0 ] || [ -n "${LLAVA_CODEC_OFFLINE_ROOT:-}" ]; then continue; fi
  if [ -z "$(find "$root" -mindepth 2 -maxdepth 2 -name meta.json -print -quit 2>/dev/null)" ]; then
    echo "error: no codec assets of $task in $root; make them:" >&2
    echo "  bash scripts/precompute_codec_patch/preprocess_video_benchmark.sh $name" >&2
    echo "or set LLAVA_CODEC_OFFLINE_ROOT, or LLAVA_CODEC_USE_OFFLINE=0 for uniform frames" >&2
    exit 2
  fi
  case ":$roots:" in *":$root:"*) ;; *) roots="${roots:+$roots:}$root" ;; esac
done
if [ -n "$roots" ]; then export LLAVA_CODEC_OFFLINE_ROOT="$roots"; fi
# Image tasks need no assets, and "use them" without a folder is refused.
if [ -z "${LLAVA_CODEC_OFFLINE_ROOT:-}" ] && [ "$LLAVA_CODEC_USE_OFFLINE" != 0 ]; then unset LLAVA_CODEC_USE_OFFLINE; fi

if [ -z "${NUM_GPUS:-}" ]; then NUM_GPUS="$(nvidia-smi --list-gpus 2>/dev/null | grep -c . || true)"; fi
launch=(python)
if [ "$NUM_GPUS" -gt 1 ]; then launch=(python -m torch.distributed.run --standalone --nproc_per_node "$NUM_GPUS"); fi
command=(
  "${launch[@]}" -m lmms_eval --model llava_ov_encoder
  --model_args "pretrained=$MODEL_PATH,conv_template=${CONV_TEMPLATE:-qwen_1_5}${MODEL_ARGS:+,$MODEL_ARGS}"
  --tasks "$TASKS" --batch_size "${BATCH_SIZE:-1}" --log_samples
  --output_path "${OUTPUT_PATH:-eval_log/$(basename "$MODEL_PATH")}" "$@"
)
if [ "${DRY_RUN:-0}" = 1 ]; then
  env | grep '^LLAVA_CODEC_' | sort
  printf '%q ' "${command[@]}"
  echo
  exit 0
fi
exec "${command[@]}"
