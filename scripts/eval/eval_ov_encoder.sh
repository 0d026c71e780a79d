#!/usr/bin/env bash
# Evaluates a checkpoint with lmms-eval:
#   MODEL_PATH=checkpoints/my_model TASKS=videomme,mvbench,docvqa_val bash scripts/eval/eval_ov_encoder.sh
# Further arguments go to lmms-eval (--limit 8 ...). Environment:
#   MODEL_PATH     checkpoint folder (required)
#   TASKS          lmms-eval tasks or short names, separated by commas (default ai2d,chartqa,docvqa_val)
#   NUM_GPUS       processes, one per GPU (default: the GPUs of this machine, else 1)
#   CONV_TEMPLATE  prompt template (default qwen_1_5)
#   MODEL_ARGS     further model arguments, name=value,... (codec_miss=online,video_root=DIR ...)
#   BATCH_SIZE     samples per call (default 1)
#   OUTPUT_PATH    results and manifest.json (default eval_log/<name of the checkpoint>)
#   HF_HOME        benchmarks and assets (default .huggingface_cache)
#   LLAVA_CODEC_USE_OFFLINE=0  uniform frames instead of codec assets
#   LLAVA_CODEC_OFFLINE_ROOT   asset folders, instead of $HF_HOME/<name>_offline/assets of the video tasks
#   LLAVA_CODEC_SEQ_LEN_FRAMES, _NUM_IMAGES, _SQUARE_SIZE, _PATCH_SIZE   what the assets were made with (64, 8, 576, 16)
#   DRY_RUN=1      print the command and stop
# Exit codes: 0 all done, 1 the run ended early, 2 nothing was answered (settings, tasks, data or assets), 130 interrupted.
# An interrupted run continues where it stopped when started again with the same settings and OUTPUT_PATH.
set -euo pipefail
if [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; then sed -n '2,19s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0; fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PATH="${VENV:-$(realpath scripts/..)/.venv}/bin:$PATH" HF_HOME="${HF_HOME:-$PWD/.huggingface_cache}"
exec python -m llava.eval.run "$@"
