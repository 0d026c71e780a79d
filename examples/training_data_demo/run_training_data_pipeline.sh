#!/usr/bin/env bash
# Raw videos to training data: stage 1 selects patches, stage 2 packs them and writes the JSONL.
#   bash examples/training_data_demo/run_training_data_pipeline.sh             on clips that it makes itself
#   bash examples/training_data_demo/run_training_data_pipeline.sh RAW_JSON    on your own data set
# OUT          output folder (default outputs/training_data_demo in the project)
# VIDEO_ROOT   folder that relative video paths join (default: the folder of RAW_JSON)
# NUM_WORKERS  parallel videos (default 2)
# PYTHON       interpreter (default .venv/bin/python where it exists, else python)
# Exit code: 0 all samples made, 1 some failed (listed in the failure files), 2 nothing started.
set -euo pipefail
if [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; then sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0; fi
demo="$(cd -P "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
root="$(cd "$demo/../.." && pwd)"
out="${OUT:-$root/outputs/training_data_demo}"
python="${PYTHON:-$root/.venv/bin/python}"
[ -n "${PYTHON:-}" ] || [ -x "$python" ] || python=python
tool="$root/Compressed_Video_Reader/tool"

status=0
# Failed samples (exit code 1) do not stop the others; any other code does.
step() { "$@" || { code=$?; [ "$code" -eq 1 ] || exit "$code"; status=1; }; }

raw="${1:-}"
if [ -z "$raw" ]; then
    "$python" "$root/examples/quickstart/make_clips.py" --out "$out/clips" --num_clips 2
    raw="$out/clips/raw_videos.json"
fi
common=(--num_workers "${NUM_WORKERS:-2}" --square_size 576)
if [ -n "${VIDEO_ROOT:-}" ]; then common+=(--video_root "$VIDEO_ROOT"); fi

step "$python" "$tool/stage1.py" --dataset_path "$raw" --out_root "$out/stage1" "${common[@]}" \
    --sequence_length 64 --keep_frames_equiv 8 --patch_size 16 --keep_first_full_frame --padding_policy zero
step "$python" "$tool/stage2.py" --input_dataset "$raw" --out_jsonl "$out/training_codec.jsonl" "${common[@]}" \
    --visidx_root "$out/stage1" --out_image_root "$out/stage2" --num_images 8 --T 64 --patch 16 \
    --first_full --write_positions
step "$python" "$demo/show_first_record.py" "$out/training_codec.jsonl"
[ "$status" = 0 ] || echo "some samples failed; see the failure files above" >&2
exit "$status"
