#!/usr/bin/env bash
# Makes the codec assets of video benchmarks for eval_ov_encoder.sh (once; a second run makes only what is missing):
#   bash scripts/precompute_codec_patch/preprocess_video_benchmark.sh videomme            one benchmark, or several
#   bash scripts/precompute_codec_patch/preprocess_video_benchmark.sh all
# Videos are looked for in $HF_HOME where lmms-eval keeps them, and fetched if absent and a data hub is reachable.
# Further flags go to the asset tool (--overwrite, --backend native, --num_shards 8 --shard_id 0 ...). Environment:
#   HF_HOME            benchmarks and assets (default .huggingface_cache)
#   NUM_WORKERS        processes (default 8)
#   SEQ_LEN_FRAMES     frames of the codec analysis (default 64)
#   NUM_IMAGES         mosaics per video (default 8)
#   SQUARE_SIZE        side of a mosaic in pixels (default 576)
#   PATCH_SIZE         side of a mosaic's cell in pixels (default 16)
#   DRY_RUN=1          say what would be done
# Exit codes: 0 all done, 1 some videos failed (named in the offline folder), 2 not started, 130 interrupted.
set -euo pipefail
if [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; then sed -n '2,14s/^# \{0,1\}//p' "$0"; exit 0; fi
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PATH="${VENV:-$(realpath scripts/..)/.venv}/bin:$PATH" HF_HOME="${HF_HOME:-$PWD/.huggingface_cache}"
exec python -m llava.eval.benchmarks.prepare "$@"
