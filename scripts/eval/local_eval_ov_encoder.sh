#!/usr/bin/env bash
# Evaluates on what this machine already has, without a network: eval_ov_encoder.sh with all data hubs off.
#   MODEL_PATH=checkpoints/my_model bash scripts/eval/local_eval_ov_encoder.sh
# TASKS defaults to the video benchmarks whose codec assets are in $HF_HOME. All other variables: eval_ov_encoder.sh --help
if [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; then sed -n '2,4s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; fi
export LOCAL=1 HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1
exec bash "$(dirname "${BASH_SOURCE[0]}")/eval_ov_encoder.sh" "$@"
