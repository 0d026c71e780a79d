#!/usr/bin/env bash
# Pack everything that scripts/bench/gpu.py needs on a machine without a network: code, data made
# beforehand, and wheels of packages that it may lack.
#
#   bash scripts/bench/gpu_bundle.sh OUT        (a new folder, or one that this script made)
#
# OUT/run.sh [flags of gpu.py]   runs there; figures and logs, few and small files, are in RESULTS (default OUT/results)
# OUT/code, OUT/assets, OUT/wheels
#
# The machine brings Python 3.12, torch with CUDA and transformers. PyAV and flash-attn are not packed: the
# data need no video, and flash-attn has no wheel that fits every torch.
#   TARGET_PYTHON=3.12   Python of that machine
#   MOST_MEGABYTES=64    largest size of OUT; a larger one is an error
#   WHEELS=0             pack no wheels

set -euo pipefail
if [ $# != 1 ] || [[ "$1" == -* ]]; then
    echo "usage: bash scripts/bench/gpu_bundle.sh OUT" >&2
    exit 2
fi
mkdir -p "$1"
out="$(cd "$1" && pwd)"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -z "$(ls -A "$out")" ] || [ -f "$out/run.sh" ] \
    || { echo "error: $out is not empty and no bundle; give a new folder" >&2; exit 2; }
export PATH="${VENV:-$PWD/.venv}/bin:$PATH"
target="${TARGET_PYTHON:-3.12}"

rm -rf "$out/code" "$out/wheels"
mkdir -p "$out/code" "$out/wheels"
# The working tree as git sees it, with changes that are not committed.
git ls-files -z --cached --others --exclude-standard -- \
    llava_next Compressed_Video_Reader/cv_reader scripts tests examples/quickstart pyproject.toml \
    | while IFS= read -r -d '' file; do if [ -e "$file" ]; then printf '%s\0' "$file"; fi; done \
    | tar --create --null --files-from - | tar --extract --directory "$out/code"

if [ ! -f "$out/assets/mixture.jsonl" ]; then
    PYTHONPATH="llava_next:Compressed_Video_Reader" python scripts/bench/gpu_parts/assets.py --out "$out/assets"
fi

# fetch NAME[==VERSION]...: wheels for the other machine; one that is not to be had is said and left out.
fetch() {
    local name
    for name in "$@"; do
        python -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
            --python-version "$target" --implementation cp --platform manylinux_2_28_x86_64 \
            --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d "$out/wheels" "$name" 2> /dev/null \
            || echo "left out: no wheel of $name for Python $target"
    done
}

if [ "${WHEELS:-1}" = 1 ]; then
    pinned="$(grep -i '^deepspeed==' constraints.txt)"
    # DeepSpeed comes as source; without its operators the wheel is the same for every machine.
    DS_BUILD_OPS=0 python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps \
        -w "$out/wheels" "$pinned" 2> /dev/null || echo "left out: $pinned cannot be built here"
    fetch hjson py-cpuinfo msgpack einops annotated-types typing-inspection pydantic liger-kernel
    # pydantic works with one version of its core alone.
    core="$(unzip -p "$out"/wheels/pydantic-2*.whl '*/METADATA' | sed -n 's/^Requires-Dist: pydantic-core==\([0-9.]*\).*/\1/p')"
    [ -z "$core" ] || fetch "pydantic-core==$core"
fi

cat > "$out/run.sh" << 'RUN'
#!/usr/bin/env bash
# Run scripts/bench/gpu.py of this bundle; flags are passed on.
#   PYTHON=python3     the interpreter
#   RESULTS=results    gpu.json (written after each case), gpu.html, logs
#   WORK               what is not kept, 10 GB (default: a folder in /dev/shm if 30 GB are free there, else in /tmp)
#   PACKAGES           packages that are missing (default: a folder in /tmp)
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
python="${PYTHON:-python3}"
packages="${PACKAGES:-/tmp/gpu_bundle_packages}"
if compgen -G "$here/wheels/*.whl" > /dev/null && [ ! -d "$packages" ]; then
    # Only what this interpreter lacks: its own versions belong together.
    missing="$("$python" - "$here"/wheels/*.whl << 'FIND'
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

for wheel in sys.argv[1:]:
    try:
        version(Path(wheel).name.partition("-")[0])
    except PackageNotFoundError:
        print(wheel)
FIND
)"
    if [ -n "$missing" ]; then
        mapfile -t missing <<< "$missing"
        "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$packages" "${missing[@]}" \
            || { echo "the packed packages cannot be installed; what needs them is left out"; rm -rf "$packages"; }
    fi
fi
if [ -z "${WORK:-}" ]; then
    free_kb="$(df -k --output=avail /dev/shm 2> /dev/null | tail -n 1)" || free_kb=0
    if [ "${free_kb:-0}" -gt 30000000 ]; then WORK=/dev/shm/gpu_bundle_work; else WORK=/tmp/gpu_bundle_work; fi
fi
export PYTHONPATH="$here/code/llava_next:$here/code/Compressed_Video_Reader:$packages${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" "$here/code/scripts/bench/gpu.py" --assets "$here/assets" --out "${RESULTS:-$here/results}" \
    --work "$WORK" "$@"
RUN
chmod +x "$out/run.sh"

megabytes="$(du -sm --exclude=results "$out" | cut -f1)"
echo "$out: $megabytes MB: $(du -sm "$out/code" | cut -f1) code, $(du -sm "$out/assets" | cut -f1) data," \
    "$(du -sm "$out/wheels" | cut -f1) in $(find "$out/wheels" -name '*.whl' | wc -l) wheels"
[ "$megabytes" -le "${MOST_MEGABYTES:-64}" ] \
    || { echo "error: more than ${MOST_MEGABYTES:-64} MB; leave out wheels (WHEELS=0)" >&2; exit 1; }
