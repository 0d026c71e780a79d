"""Time of one k-means iteration of the concept bank, and whether the backends agree.

    python scripts/bench/concepts.py [--rows 1000000] [--width 256] [--centres 4096] [--threads 2]

Rows are float16 on disk, as the features command writes them. Seconds of the processor count where
others use the machine at the same time.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from encoder_training.pretrain.concepts.kmeans import FeatureRows, KMeansState, agreement, lloyd
from encoder_training.pretrain.concepts.nearest import search_by, unit_rows


def processor_seconds() -> float:
    """Return what this process has used so far, all threads."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def make_rows(path: Path, count: int, width: int) -> np.ndarray:
    """Write rows around 20,000 random points, so that there is something to find."""
    random = np.random.default_rng(0)
    middles = random.normal(size=(20_000, width)).astype(np.float32)
    rows = np.lib.format.open_memmap(path, "w+", np.float16, (count, width))
    for start in range(0, count, 50_000):
        size = min(50_000, count - start)
        noise = random.normal(0, 0.7, (size, width)).astype(np.float32)
        rows[start : start + size] = middles[random.integers(0, len(middles), size)] + noise
    return rows


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="N")
    parser.add_argument("--width", type=int, default=256, help="d")
    parser.add_argument("--centres", type=int, default=4096, help="k")
    parser.add_argument("--threads", type=int, default=2, help="of each backend")
    parser.add_argument(
        "--compared", type=int, default=100_000, help="rows whose assignments are compared"
    )
    parser.add_argument("--backends", nargs="+", default=["faiss", "torch"], help="which to time")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = make_rows(Path(folder) / "rows.npy", arguments.rows, arguments.width)
        rows = FeatureRows([data])
        start = unit_rows(np.asarray(data[: arguments.centres], np.float32))
        result: dict[str, object] = {"operations": 2 * data.size * arguments.centres}
        for backend in arguments.backends:
            wall, used = time.perf_counter(), processor_seconds()
            state = lloyd(rows, KMeansState(start.copy()), iterations=1, backend=backend)
            used = processor_seconds() - used
            result[backend] = {
                "wall_seconds": round(time.perf_counter() - wall, 1),
                "processor_seconds": round(used, 1),
                "of_30_seconds_on_2_cores": round(used / 2 / 30, 2),
                "mean_cosine": state.history[0]["mean_cosine"],
            }
        some = unit_rows(np.asarray(data[: arguments.compared], np.float32))
        found = [search_by(name, start)(some, 1).numbers for name in arguments.backends]
        result["compared"] = len(some)
        result["agreement"] = agreement(found[0], found[-1])
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
