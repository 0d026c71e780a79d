#!/usr/bin/env bash
# Build and install the native reader: bash Compressed_Video_Reader/install.sh [PYTHON]
#
# PYTHON is the interpreter to install for (default: the active environment, else .venv, else
# python3). Nothing is built twice: FFmpeg and the wheel are cached by the content they are made
# from, in CV_READER_CACHE (default: native/build). FFMPEG_TARBALL=FILE gives the source of FFmpeg
# where neither the release server nor Debian's can be reached; JOBS=N limits parallel jobs.
# CV_READER_NATIVE_SANITIZE=address (or undefined) makes a build for fuzzing instead, below the cache:
# the environment stays as it is. `scripts/fuzz/native_reader.py --sanitize address` runs it.
# Exit codes: 0 installed and checked, 2 something is missing (named) or failed.
set -euo pipefail
if [ "${1:-}" = "-h" ] || [ "${1:-}" = "--help" ]; then sed -n '2,10s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit 0; fi

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
native=$here/native
export CV_READER_CACHE=${CV_READER_CACHE:-$native/build}

fail() {
    echo "install.sh: $*" >&2
    exit 2
}

choose_python() {
    if [ $# -gt 0 ]; then
        echo "$1"
    elif [ -n "${VIRTUAL_ENV:-}" ]; then
        echo "$VIRTUAL_ENV/bin/python"
    elif [ -n "${CONDA_PREFIX:-}" ] && [ -x "$CONDA_PREFIX/bin/python" ]; then
        echo "$CONDA_PREFIX/bin/python"
    elif [ -x "$here/../.venv/bin/python" ]; then
        echo "$here/../.venv/bin/python"
    else
        echo python3
    fi
}

check_python() {
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))' ||
        fail "$python must be Python 3.10 to 3.13; give another one as the argument"
}

check_tools() {
    "$python" - <<-CHECK || fail "$python has no headers; on Debian: apt-get install python3-dev"
	import pathlib, sys, sysconfig
	sys.exit(not pathlib.Path(sysconfig.get_paths()["include"], "Python.h").is_file())
	CHECK
    "$python" -m pip --version >/dev/null 2>&1 || fail "$python has no pip; $python -m ensurepip"
}

# 12 hex digits of the content of files and of further words.
key() {
    local words=$1
    shift
    { echo "$words"; cat "$@"; } | sha256sum | cut -c1-12
}

# A sanitized build runs only in a process that has its runtime from the start.
with_sanitizer() {
    LD_PRELOAD=$("${CC:-gcc}" -print-file-name="$runtime") ASAN_OPTIONS=detect_leaks=0 \
        PYTHONPATH=$site "$@"
}

install_wheel() {
    local wheels=$CV_READER_CACHE/wheel-$build isolation=()
    if ! compgen -G "$wheels/*.whl" >/dev/null; then
        # An isolated build downloads setuptools; one that is here will do.
        "$python" -c 'import setuptools as s; assert int(s.__version__.split(".")[0]) >= 71' \
            2>/dev/null && isolation=(--no-build-isolation)
        CV_READER_FFMPEG=$ffmpeg CV_READER_NATIVE_BUILD=$build "$python" -m pip wheel --quiet \
            --no-deps "${isolation[@]}" --wheel-dir "$wheels" "$native" ||
            fail "the extension could not be built; see above"
        rm -rf "$native/build/lib."* "$native/build/temp."* "$native/build/bdist."*
    fi
    local target=()
    [ -z "$sanitize" ] || target=(--upgrade --target "$site")
    "$python" -m pip install --quiet --no-deps --force-reinstall "${target[@]}" "$wheels"/*.whl ||
        fail "the wheel could not be installed; see above"
}

sanitize=${CV_READER_NATIVE_SANITIZE:-}
site=$CV_READER_CACHE/$sanitize
run=()
case $sanitize in
    "") ;;
    address) runtime=libasan.so run=(with_sanitizer) ;;
    undefined) runtime=libubsan.so run=(with_sanitizer) ;;
    *) fail "CV_READER_NATIVE_SANITIZE must be address or undefined, got '$sanitize'" ;;
esac
python=$(choose_python "$@")
check_python
compiler=$({ cc --version || gcc --version; } 2>/dev/null | head -n 1) || true
library=$(key "$(uname -m) $compiler $sanitize ${CV_READER_CONFIGURE:-}" "$native/build_ffmpeg.sh" \
    "$native/ffmpeg/configure.args" "$native/ffmpeg/hooks.diff" "$native"/ffmpeg/libavcodec/*)
tag=$("$python" -c 'import sys; print(sys.implementation.cache_tag)')
build=$(key "$library $tag" "$native/setup.py" "$native/pyproject.toml" "$native"/src/*.[ch] \
    "$native"/src/cv_reader_native/*.py*)
ffmpeg=$CV_READER_CACHE/ffmpeg-$library

installed=$("${run[@]}" "$python" -c 'import cv_reader_native as n; print(n.BUILD_ID)' 2>/dev/null) || true
if [ "$installed" != "$build" ]; then
    check_tools
    if [ ! -f "$ffmpeg/lib/libavcodec.a" ]; then
        echo "building FFmpeg (about two minutes on two cores)"
        bash "$native/build_ffmpeg.sh" "$ffmpeg"
    fi
    install_wheel
fi
"${run[@]}" "$python" -m cv_reader_native || fail "the installed reader does not pass its check"
