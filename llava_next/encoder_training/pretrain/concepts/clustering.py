"""From features to a bank, and from features and a bank to labels."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from encoder_training.pretrain.concepts.bank import Bank, Projection, principal_directions
from encoder_training.pretrain.concepts.features import Features
from encoder_training.pretrain.concepts.kmeans import (
    BLOCK_ROWS,
    FeatureRows,
    KMeansState,
    drawn_centres,
    hierarchical,
    lloyd,
)
from encoder_training.pretrain.concepts.nearest import Floats, search_by, unit_rows
from encoder_training.pretrain.data.labels import (
    LabelInfo,
    part_path,
    save_array,
    write_keys,
    write_label_info,
)
from run_kit.files import replace_file

_STATE_FILE = ".kmeans.safetensors"
_PROJECTION_ROWS = 100_000


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """How a bank is made.

    Attributes:
        centres: k.
        iterations: number of iterations of k-means.
        fraction: part of the rows that an iteration sees; 1 sees all.
        hierarchical: coarse clusters first, each divided on its own.
        components: project features onto so many principal directions first; 0 leaves them.
        whiten: scale these directions to the same spread.
        backend: ``torch``, ``faiss`` or ``auto``.
        device: where products are computed.
        seed: seed of everything random.
    """

    centres: int
    iterations: int = 20
    fraction: float = 1.0
    hierarchical: bool = False
    components: int = 0
    whiten: bool = False
    backend: str = "auto"
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("centres", "iterations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.fraction <= 1 or self.components < 0:
            raise ValueError(
                "fraction must be in (0, 1] and components at least 0, "
                f"got {self.fraction} and {self.components}"
            )


def make_bank(
    features: Features, settings: ClusterSettings, folder: Path, say: Callable[[str], None]
) -> Bank:
    """Cluster features and write the bank; a run that was stopped continues.

    Args:
        features: complete.
        settings: settings of the clustering.
        folder: output.
        say: is told of each iteration.

    Raises:
        ValueError: if the folder has a bank already, or there are too few rows.
    """
    if (folder / "bank.json").exists():
        raise ValueError(f"{folder} already holds a bank; write to another folder")
    projection = None
    if settings.components:
        sample = FeatureRows(features.parts)
        rows = sample.sample(_PROJECTION_ROWS, np.random.default_rng([settings.seed, 9]))
        projection = principal_directions(rows, settings.components, whiten=settings.whiten)
    rows = FeatureRows(features.parts, _prepare(projection))
    options: dict[str, Any] = {
        "backend": settings.backend,
        "device": settings.device,
        "seed": settings.seed,
    }
    saved = _SavedState(folder / _STATE_FILE, settings, features)
    state = saved.read()

    def save(state: KMeansState) -> None:
        saved.write(state)
        last = state.history[-1]
        say(
            f"iteration {state.iteration} of {settings.iterations}: mean cosine "
            f"{last['mean_cosine']:.4f}, {last['empty']:.0f} centres without rows"
        )

    options |= {"iterations": settings.iterations, "fraction": settings.fraction, "save": save}
    if settings.hierarchical:

        def keep(centres: dict[int, Floats]) -> None:
            saved.write_divided(centres)
            say(f"divided {len(centres)} coarse clusters, up to number {max(centres, default=0)}")

        divided = saved.read_divided() if state else {}
        state = hierarchical(
            rows, settings.centres, top=state, divided=divided, keep=keep, **options
        )
    else:
        state = state or KMeansState(drawn_centres(rows, settings.centres, settings.seed))
        state = lloyd(rows, state, **options)
    facts = {"clustering": asdict(settings), "history": state.history, "num_rows": rows.num_rows}
    bank = Bank(state.centres, features.settings, projection, facts)
    bank.save(folder)
    saved.remove()
    return bank


def _prepare(projection: Projection | None) -> Callable[[np.ndarray], np.ndarray] | None:
    """Return what is done to features: scaled to length one before a projection."""
    if projection is None:
        return None
    return lambda rows: projection(unit_rows(rows))


class _SavedState:
    """The state of a stopped clustering, used only by one of the same settings and features."""

    def __init__(self, path: Path, settings: ClusterSettings, features: Features) -> None:
        self._path = path
        text = json.dumps([asdict(settings), features.settings, [len(k) for k in features.keys]])
        self._identity = sha256(text.encode()).hexdigest()

    def read(self) -> KMeansState | None:
        described = self._path.with_suffix(".json")
        if not (self._path.is_file() and described.is_file()):
            return None
        facts = json.loads(described.read_text(encoding="utf-8"))
        arrays = load_file(self._path)
        if facts["identity"] != self._identity or facts["iteration"] != int(arrays["iteration"]):
            return None
        return KMeansState(arrays["centres"], facts["iteration"], facts["history"])

    def write(self, state: KMeansState) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        facts = {
            "identity": self._identity,
            "iteration": state.iteration,
            "history": state.history,
        }
        with replace_file(self._path.with_suffix(".json")) as temporary:
            temporary.write_text(json.dumps(facts), encoding="utf-8")
        with replace_file(self._path) as temporary:
            iteration = np.array(state.iteration)
            save_file({"centres": state.centres, "iteration": iteration}, temporary)

    def write_divided(self, centres: dict[int, Floats]) -> None:
        """Keep the centres inside of some coarse clusters, by the clusters' numbers."""
        if centres:
            path = self._path.with_name(f".divided-{min(centres):08d}.safetensors")
            arrays = {str(number): rows for number, rows in centres.items()}
            with replace_file(path) as temporary:
                save_file(arrays, temporary, metadata={"identity": self._identity})

    def read_divided(self) -> dict[int, Floats]:
        """Return the centres that ``write_divided`` kept with these settings."""
        found: dict[int, Floats] = {}
        for path in self._divided():
            with safe_open(path, framework="numpy") as arrays:
                if (arrays.metadata() or {}).get("identity") == self._identity:
                    found |= {int(name): arrays.get_tensor(name) for name in arrays.keys()}  # noqa: SIM118
        return found

    def remove(self) -> None:
        """Remove what a finished clustering no longer needs."""
        for path in (self._path, self._path.with_suffix(".json"), *self._divided()):
            path.unlink(missing_ok=True)

    def _divided(self) -> list[Path]:
        return sorted(self._path.parent.glob(".divided-*.safetensors"))


def label(
    features: Features,
    bank: Bank,
    folder: Path,
    *,
    count: int = 10,
    share: tuple[int, int] = (0, 1),
    backend: str = "auto",
    device: str = "cpu",
) -> LabelInfo:
    """Write the nearest centres of each row as labels; parts that exist are kept.

    The folder is complete once all parts are there, whichever process wrote them.

    Args:
        features: features of the bank's kind.
        bank: the centres.
        folder: output; refused where it has labels of another bank.
        count: R, labels of each sample.
        share: (i, n): write parts i, i + n, ... alone; another process writes the others.
        backend, device: see ``search_by``.

    Raises:
        ValueError: if bank and features do not belong together, or ``count`` exceeds the bank.
    """
    if features.settings != bank.features or features.width != bank.feature_size:
        raise ValueError(
            f"the bank was made from features {bank.features} of width {bank.feature_size}, got "
            f"{features.settings} of width {features.width}; extract the bank's features, or make "
            "a bank of these"
        )
    if not 1 <= count <= len(bank.centres):
        raise ValueError(f"count must be in [1, {len(bank.centres)}], got {count}")
    info = LabelInfo(
        bank_fingerprint=bank.fingerprint,
        num_centres=len(bank.centres),
        feature_size=bank.feature_size,
        labels_per_sample=count,
        num_parts=len(features.parts),
    )
    _claim(folder, info)
    search = search_by(backend, bank.centres, device)
    rows = FeatureRows(features.parts, _prepare(bank.projection))
    for number, part in enumerate(features.parts):
        path = part_path(folder, "labels", number)
        if path.exists() or number % share[1] != share[0]:
            continue
        labels = np.full((len(part), count), -1, np.int32)
        for start in range(0, len(part), BLOCK_ROWS):
            block = np.asarray(part[start : start + BLOCK_ROWS], np.float32)
            good = np.flatnonzero(np.isfinite(block).all(axis=1))
            if len(good):
                labels[start + good] = search(rows.prepared(block[good]), count).numbers
        keys = features.keys[number]
        bad = {key: features.bad[key] for key in keys if key in features.bad}
        write_keys(folder, number, keys, bad)
        save_array(path, labels)
    numbers = range(info.num_parts)
    if all(part_path(folder, "labels", number).exists() for number in numbers):
        write_label_info(folder, info)
    return info


def _claim(folder: Path, info: LabelInfo) -> None:
    """Refuse a folder that holds labels of another bank, finished or not."""
    path = folder / "started.json"
    text = json.dumps(asdict(info))
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{folder} holds labels {path.read_text(encoding='utf-8')}, got {text}; write to "
            "another folder"
        )
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
