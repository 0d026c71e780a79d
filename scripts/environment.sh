#!/usr/bin/env bash
# Creates or reuses the virtual environment of this project: the one way to install it, for people, tests
# and containers. Run it, or source it to put the environment's programs first in PATH:
#   bash scripts/environment.sh
#   source scripts/environment.sh            also leaves $VENV
# PYTHON   the interpreter to create it with (3.10 to 3.13; default python3)
# VENV     its folder (default .venv in the project's root)
# EXTRAS   the extras of pyproject.toml to install (default train,eval,pretrain,serve,dev; may be empty)
# NATIVE   1: also build the native reader (needs a C compiler and nasm), or fail
#          auto: build it if the tools are there; otherwise say in one line what is missing
# FLASH    1: also build flash-attn (needs the CUDA compiler; up to an hour; MAX_JOBS= limits its memory)
# Versions are those of constraints.txt (on Python 3.10: the supported ranges). A second call does nothing twice and takes no time.

if [ "${BASH_SOURCE[0]}" = "$0" ] && { [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; }; then
    sed -n '2,13s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
fi

project_root="$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${VENV:-$project_root/.venv}"
EXTRAS="${EXTRAS-train,eval,pretrain,serve,dev}"

_fail() { echo "error: $*" >&2; exit 2; }

_wanted_stamp() {
    cat "$project_root/pyproject.toml" "$project_root/constraints.txt" | cksum
    echo "$project_root $EXTRAS ${FLASH:-0}"
}

# The pinned versions need Python 3.11; on 3.10 pip takes the newest within the supported ranges.
_pip_install() {
    local pins=(-c "$project_root/constraints.txt")
    if "$VENV/bin/python" -c 'import sys; sys.exit(sys.version_info >= (3, 11))'; then pins=(); fi
    "$VENV/bin/python" -m pip install --disable-pip-version-check "${pins[@]}" "$@"
}

# It compiles against the torch that is there, so with the tools that are there, too.
_install_flash() {
    [ "${FLASH:-0}" = 1 ] || return 0
    _pip_install ninja packaging psutil setuptools wheel && _pip_install --no-build-isolation flash-attn
}

_create_environment() {
    local python="${PYTHON:-python3}"
    command -v "$python" > /dev/null || _fail "no $python found; install Python 3.11 or set PYTHON="
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
        || _fail "$("$python" --version) is not supported; set PYTHON= to Python 3.10 to 3.13 (3.11 is tested)"
    "$python" -m venv "$VENV" || _fail "cannot create $VENV (on Debian: apt-get install python3-venv)"
}

_install() {
    echo "Installing into $VENV (a few minutes the first time) ..."
    local started=$SECONDS log="$VENV/install.log"
    { _pip_install -e "$project_root${EXTRAS:+[$EXTRAS]}" && _install_flash; } > "$log" 2>&1 || { tail -n 25 "$log" >&2; _fail "installation failed; the whole log is in $log"; }
    # A torchvision without its compiled operators (as happens with a CPU build of torch) makes transformers,
    # peft and lmms-eval fail on import. Nothing here needs it, and timm cannot be imported without it.
    if "$VENV/bin/python" -m pip show --quiet torchvision 2> /dev/null \
        && ! "$VENV/bin/python" -c 'import torchvision' > /dev/null 2>&1; then
        echo "torchvision does not load with this torch: removing torchvision and timm (not needed here)"
        "$VENV/bin/python" -m pip uninstall --yes torchvision timm >> "$log" 2>&1
    fi
    echo "Installed in $((SECONDS - started)) s."
}

# Without it everything still runs: the PyAV backend reads the videos.
_native_if_possible() {
    local missing=() tool log="$VENV/native.log" started=$SECONDS
    command -v cc > /dev/null || command -v gcc > /dev/null || missing+=("a C compiler")
    for tool in make patch xz nasm; do command -v "$tool" > /dev/null || missing+=("$tool"); done
    if [ ${#missing[@]} -gt 0 ] && "$VENV/bin/python" -c 'import cv_reader_native' 2> /dev/null; then
        return 0
    elif [ ${#missing[@]} -gt 0 ]; then
        local names; printf -v names '%s, ' "${missing[@]}"
        echo "Native reader: not built, missing ${names%, } (Debian, Ubuntu: apt-get install build-essential nasm xz-utils);" \
            "signals are less exact without it."
        return 0
    fi
    if (set -o pipefail; bash "$project_root/Compressed_Video_Reader/install.sh" "$VENV/bin/python" 2>&1 \
        | tee "$log" | sed -un 's/^building FFmpeg/Native reader: &/p'); then
        echo "Native reader: ready$([ $((SECONDS - started)) -lt 10 ] || echo ", built in $((SECONDS - started)) s")."
    else
        echo "Native reader: not built ($(tail -n 1 "$log"); whole log: $log); signals are less exact without it."
    fi
}

if [ ! -x "$VENV/bin/python" ]; then _create_environment; fi
if [ "$(cat "$VENV/installed.stamp" 2> /dev/null)" != "$(_wanted_stamp)" ]; then
    _install
    _wanted_stamp > "$VENV/installed.stamp"
fi
case "${NATIVE:-0}" in
    0) ;;
    1) bash "$project_root/Compressed_Video_Reader/install.sh" "$VENV/bin/python" ;;
    auto) _native_if_possible ;;
    *) _fail "NATIVE must be 0, 1 or auto, got '$NATIVE'" ;;
esac
export PATH="$VENV/bin:$PATH"
