#!/usr/bin/env bash
# Build the static FFmpeg that cv_reader_native links: bash build_ffmpeg.sh PREFIX
#
# Source, first that is there: FFMPEG_TARBALL=FILE, the cache, the release server, Debian's source
# package. Its SHA-256 must be the pinned one in each case. Sources are kept in
# CV_READER_CACHE (default: build/ next to this script). JOBS=N limits parallel jobs.
# CV_READER_NATIVE_SANITIZE=address (or undefined) builds it with that sanitizer, without assembly,
# into which no sanitizer sees.
set -euo pipefail

VERSION=5.1.9
SHA256=d9b593bb2ba93d4b50f74177e0cdcd41747e708596367deed0c30348a71dd176
RELEASE=https://ffmpeg.org/releases/ffmpeg-$VERSION.tar.xz
DEBIAN_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${CV_READER_CACHE:-$here/build}
tarball=$cache/ffmpeg-$VERSION.tar.xz

fail() {
    echo "build_ffmpeg.sh: $*" >&2
    exit 2
}

is_pinned() {
    [ -f "$1" ] && echo "$SHA256  $1" | sha256sum --check --status
}

need_tools() {
    local missing=()
    command -v cc >/dev/null || command -v gcc >/dev/null || missing+=("a C compiler (gcc)")
    command -v make >/dev/null || missing+=(make)
    command -v patch >/dev/null || missing+=(patch)
    command -v xz >/dev/null || missing+=(xz-utils)
    command -v nasm >/dev/null || missing+=(nasm)
    [ ${#missing[@]} -eq 0 ] || fail "missing: ${missing[*]}; on Debian and Ubuntu:" \
        "apt-get install build-essential nasm xz-utils"
}

download() {
    local part=$tarball.part
    echo "downloading FFmpeg $VERSION" >&2
    if command -v curl >/dev/null; then
        curl --fail --silent --location --connect-timeout 10 --max-time 300 -o "$part" "$RELEASE"
    elif command -v wget >/dev/null; then
        wget --quiet --timeout=10 --tries=1 -O "$part" "$RELEASE"
    else
        return 1
    fi && mv "$part" "$tarball"
}

# Where this system gets a release of Debian from; DEBIAN_MIRROR= names a mirror where it has none.
mirror_of() {
    local mirror
    mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 2>/dev/null |
        awk -v release="$1" '$1 == release && !seen++ { print $2 }')
    echo "${mirror:-${DEBIAN_MIRROR:+$DEBIAN_MIRROR${1#bookworm}}}"
}

# Through apt, with lists of its own: the system's sources stay as they are.
from_debian() {
    command -v apt-get >/dev/null && [ -f "$DEBIAN_KEYRING" ] || return 1
    echo "fetching FFmpeg $VERSION from Debian's source package" >&2
    local apt=$cache/apt
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    local release mirror
    for release in bookworm bookworm-security; do
        mirror=$(mirror_of $release)
        [ -z "$mirror" ] || echo "deb-src [signed-by=$DEBIAN_KEYRING] $mirror $release main"
    done >"$apt/sources.list"
    [ -s "$apt/sources.list" ] || return 1
    cat >"$apt/apt.conf" <<-CONF
	Dir::Etc::SourceList "$apt/sources.list";
	Dir::Etc::SourceParts "-";
	Dir::State::Lists "$apt/lists";
	Dir::Cache "$apt/cache";
	APT::Sandbox::User "root";
	CONF
    (
        cd "$apt"
        export APT_CONFIG=$apt/apt.conf
        apt-get -qq update && apt-get -qq source --download-only "ffmpeg=7:$VERSION-0+deb12u1"
    ) && mv "$apt/ffmpeg_$VERSION.orig.tar.xz" "$tarball" && rm -rf "$apt"
}

get_source() {
    if [ -n "${FFMPEG_TARBALL:-}" ]; then
        is_pinned "$FFMPEG_TARBALL" || fail "FFMPEG_TARBALL=$FFMPEG_TARBALL must be" \
            "ffmpeg-$VERSION.tar.xz with SHA-256 $SHA256; it is missing or another file"
        tarball=$FFMPEG_TARBALL
        return
    fi
    local way
    for way in true download from_debian; do
        "$way" || continue
        is_pinned "$tarball" && return
        [ ! -f "$tarball" ] || echo "not the pinned FFmpeg $VERSION: its SHA-256 differs" >&2
        rm -f "$tarball"
    done
    fail "cannot get the source of FFmpeg $VERSION; download ffmpeg-$VERSION.tar.xz elsewhere" \
        "and give it with FFMPEG_TARBALL=FILE"
}

build() {
    local prefix=$1
    work=$(mktemp -d "$cache/work.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    tar -xf "$tarball" -C "$work"
    patch --quiet --strip=1 --directory="$work/ffmpeg-$VERSION" <"$here/ffmpeg/hooks.diff"
    cp "$here"/ffmpeg/libavcodec/* "$work/ffmpeg-$VERSION/libavcodec/"
    mkdir "$work/objects"
    local sanitizer=()
    case ${CV_READER_NATIVE_SANITIZE:-} in
        address) sanitizer=(--toolchain=gcc-asan --disable-asm) ;;
        # Without assembly FFmpeg aligns its memory to less than its types declare.
        undefined) sanitizer=(--toolchain=gcc-usan --disable-asm
            --extra-cflags=-fno-sanitize=alignment) ;;
    esac
    (
        cd "$work/objects"
        # shellcheck disable=SC2046,SC2086  # one option per word
        "$work/ffmpeg-$VERSION/configure" --prefix="$work/installed" \
            $(cat "$here/ffmpeg/configure.args") "${sanitizer[@]}" ${CV_READER_CONFIGURE:-} \
            >configure.log ||
            fail "configure failed; the end of its log: $(tail -n 5 configure.log)"
        make -j"${JOBS:-$(nproc)}" install >make.log 2>&1 ||
            fail "make failed; the end of its log: $(tail -n 20 make.log)"
    )
    rm -rf "$prefix"
    mkdir -p "$(dirname "$prefix")"
    mv "$work/installed" "$prefix"
}

[ $# -eq 1 ] || fail "usage: bash build_ffmpeg.sh PREFIX"
need_tools
mkdir -p "$cache"
get_source
build "$1"
