r"""Feeds damaged H.264 and H.265 files to the reader: it must neither crash, hang nor leak.

    python scripts/fuzz/native_reader.py --count 2000

Sound clips are made with x264 and x265, among them the unusual kinds of ``kinds.py``, and mutated:
file number i of a seed is always the same.
Child processes read them under a memory limit; a child reads many files, and is replaced when one
kills it. A file passes when its frames come out, or an error class of the reader says why not.
Files that fail are kept below ``--keep``. Exit code: 0 all passed, 1 some failed, 2 wrong settings.

Under a sanitizer, with a separate build, without assembly, which sanitizers cannot check:

    CV_READER_NATIVE_SANITIZE=address bash Compressed_Video_Reader/install.sh
    python scripts/fuzz/native_reader.py --count 1000 --sanitize address

``undefined`` the same way; what it finds in FFmpeg's own files is listed, in ours it is a failure.
"""

import argparse
import importlib.util
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutations import make_seeds, mutant

FRAMES_READ = "read"
REFUSED = "refused"
PARTIAL = "partial"
FINDING = "runtime error"
PASSED = (FRAMES_READ, REFUSED, PARTIAL)
CRASH, HANG, FOREIGN = "crash", "hang", "foreign error"

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "Compressed_Video_Reader" / "native"
RUNTIMES = {"address": "libasan.so", "undefined": "libubsan.so"}

_WARM_UP_FILES = 150
"""Files after which a child's memory is taken as its normal size."""

_STDERR_CHARACTERS = 8000


def main(argv: list[str] | None = None) -> int:
    """Run the parent, or (with ``--child``) one reading process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=2000, help="files to read")
    parser.add_argument("--start", type=int, default=0, help="number of the first file")
    parser.add_argument("--seed", type=int, default=0, help="seed of the damage")
    parser.add_argument("--backend", default="native", help="backend to test")
    parser.add_argument("--processes", type=int, default=2, help="number of child processes")
    parser.add_argument(
        "--memory_mb", type=int, default=2048, help="memory limit of a child process; 0 = none"
    )
    parser.add_argument(
        "--time_limit", type=float, default=30, help="time limit for one file, in seconds"
    )
    parser.add_argument(
        "--max_growth_mb", type=float, default=64, help="memory by which one child process may grow"
    )
    parser.add_argument("--sanitize", choices=list(RUNTIMES), help="use the build with sanitizers")
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz_failures"), help="folder for files that failed"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        return read_files(options.backend, options.memory_mb)
    if options.backend == "native" and importlib.util.find_spec("cv_reader_native") is None:
        print("cv_reader_native is not installed; run bash Compressed_Video_Reader/install.sh")
        return 2
    if options.sanitize:
        if not sanitized_build(options.sanitize).is_dir():
            print(
                f"{sanitized_build(options.sanitize)} is missing; run CV_READER_NATIVE_SANITIZE="
                f"{options.sanitize} bash Compressed_Video_Reader/install.sh"
            )
            return 2
        # A sanitizer reserves address space by the terabyte, and is slow.
        options.memory_mb, options.time_limit = 0, 5 * options.time_limit
    return _run(options)


def sanitized_build(sanitizer: str) -> Path:
    """Return where ``install.sh`` puts the build for a sanitizer."""
    return Path(os.environ.get("CV_READER_CACHE", NATIVE / "build")) / sanitizer


def child_environment(sanitizer: str | None) -> dict[str, str]:
    """Return the environment of the reading processes: one thread for numpy, and the sanitizer's
    runtime."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    if sanitizer is None:
        return environment
    find = ["gcc", f"-print-file-name={RUNTIMES[sanitizer]}"]
    runtime = subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip()
    return {
        **environment,
        "LD_PRELOAD": runtime,
        "PYTHONPATH": str(sanitized_build(sanitizer)),
        "ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1:quarantine_size_mb=16",
    }


def read_files(backend: str, memory_mb: int) -> int:
    """Read, as a child, the file that each line of stdin names; answer a JSON line each."""
    if memory_mb:
        limit = memory_mb << 20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    from cv_reader import open_video
    from cv_reader.errors import CvReaderError

    for line in sys.stdin:
        frames, errors = 0, []
        for num_threads, step in ((1, 1), (2, 3)):
            try:
                with open_video(line.strip(), backend=backend, num_threads=num_threads) as video:
                    for frame in video.frames(range(0, video.index.num_frames, step)):
                        frame.luma()
                        frame.rgb()
                        frame.planes((64, 48), (32, 24))
                        frames += 1
            except CvReaderError as error:
                errors.append(f"{type(error).__name__}: {error}")
        outcome = FRAMES_READ if not errors else PARTIAL if frames else REFUSED
        answer = {"outcome": outcome, "frames": frames, "errors": errors, "rss_mb": _rss_mb()}
        print(json.dumps(answer), flush=True)
    return 0


def _rss_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 2**20


class _Child:
    """A reading process that is replaced when a file kills it."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self._options = options
        self._environment = child_environment(options.sanitize)
        self.stderr_path = folder / f"stderr_{id(self)}.txt"
        self.stderr_path.touch()
        self._stderr_start = 0
        self._process: subprocess.Popen[bytes] | None = None
        self.files = 0
        self.normal_mb = 0.0
        self.growth_mb = 0.0

    def read(self, path: Path) -> tuple[str, str]:
        """Outcome of one file, and details."""
        process = self._started()
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{path}\n".encode())
        process.stdin.flush()
        ready, _, _ = select.select([process.stdout], [], [], self._options.time_limit)
        line = process.stdout.readline() if ready else b""
        if line:
            return self._understood(json.loads(line))
        if not ready:
            self.close()
            return HANG, f"no answer within {self._options.time_limit} s"
        code = process.wait()
        self._process = None
        outcome = FOREIGN if code > 0 and b"Traceback" in self._stderr_tail() else CRASH
        name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        said = self._stderr_tail().decode(errors="replace").strip()
        return outcome, f"{name}: {said if outcome == CRASH else said.splitlines()[-1]}"

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _understood(self, answer: dict[str, object]) -> tuple[str, str]:
        self.files += 1
        rss_mb = float(str(answer["rss_mb"]))
        if self.files <= _WARM_UP_FILES:
            self.normal_mb = max(self.normal_mb, rss_mb)
        else:
            self.growth_mb = max(self.growth_mb, rss_mb - self.normal_mb)
        return str(answer["outcome"]), str(answer["errors"])

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self.files, self.normal_mb = 0, 0.0
            self._stderr_start = self.stderr_path.stat().st_size
            command = [sys.executable, __file__, "--child", f"--backend={self._options.backend}"]
            self._process = subprocess.Popen(
                [*command, f"--memory_mb={self._options.memory_mb}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self.stderr_path.open("ab"),
                env=self._environment,
            )
        return self._process

    def _stderr_tail(self) -> bytes:
        return self.stderr_path.read_bytes()[self._stderr_start :][-_STDERR_CHARACTERS:]


def _run(options: argparse.Namespace) -> int:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz_") as name:
        folder = Path(name)
        seeds = make_seeds(folder / "seeds")
        numbers = range(options.start, options.start + options.count)
        parts = [numbers[place :: options.processes] for place in range(options.processes)]
        children = [_Child(options, folder) for _ in parts]
        with ThreadPoolExecutor(len(parts)) as pool:
            results = list(
                pool.map(
                    lambda part, child: list(_work(options, seeds, folder, part, child)),
                    parts,
                    children,
                )
            )
        for child in children:
            child.close()
        own_findings = _report_findings([child.stderr_path for child in children])
    outcomes = Counter(outcome for part in results for outcome in part)
    growth_mb = max(child.growth_mb for child in children)
    failed = sum(count for outcome, count in outcomes.items() if outcome not in PASSED)
    print(
        f"{sum(outcomes.values())} files: {outcomes[FRAMES_READ]} read whole, "
        f"{outcomes[PARTIAL]} in part, {outcomes[REFUSED]} refused; {outcomes[CRASH]} crashes, "
        f"{outcomes[HANG]} hangs, {outcomes[FOREIGN]} errors of other classes; memory growth "
        f"{growth_mb:.0f} MB; {time.monotonic() - started:.0f} s"
    )
    return 1 if failed or own_findings or growth_mb > options.max_growth_mb else 0


def _report_findings(stderr_paths: list[Path]) -> int:
    """Print the places that a sanitizer complained of; returns how many are in our own files."""
    own = {path.name for path in [*NATIVE.glob("src/*.[ch]"), *NATIVE.glob("ffmpeg/*/*.[ch]")]}
    places: Counter[tuple[str, str]] = Counter()
    for path in stderr_paths:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            place, mark, said = line.partition(f": {FINDING}: ")
            if mark:
                places[Path(place).name, said] += 1
    own_places = {key for key in places if key[0].split(":")[0] in own}
    for place, said in sorted(places):
        kind = "OURS" if (place, said) in own_places else "FFmpeg"
        print(f"{FINDING} ({kind}): {place}: {said}")
    return len(own_places)


def _work(
    options: argparse.Namespace, seeds: list[Path], folder: Path, numbers: range, child: _Child
) -> Iterator[str]:
    """Outcomes of some files, read by one child after another."""
    for number in numbers:
        recipe, suffix, data = mutant(seeds, options.seed, number)
        path = folder / f"{number:06d}.{suffix}"
        path.write_bytes(data)
        outcome, details = child.read(path)
        if outcome not in PASSED:
            options.keep.mkdir(parents=True, exist_ok=True)
            kept = options.keep / f"seed{options.seed}_{path.name}"
            kept.write_bytes(data)
            print(f"{outcome}: {kept} ({recipe}): {details}", flush=True)
        path.unlink()
        yield outcome


if __name__ == "__main__":
    sys.exit(main())
