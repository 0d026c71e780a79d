"""The answers of a run, written while it goes on: for resuming one that broke off, and the report.

Every rank writes the answers of a batch, as soon as it has them, to ``answers_rank<r>.jsonl``
beside the results. A later run in the same folder takes over those whose key is its own: the key
covers checkpoint, settings, fingerprint of the assets, versions of the libraries, document, prompt
and generation settings. A file that is older than results in its folder belongs to a run that
ended, and is removed. Sampled answers have no key and are never taken over.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance

from llava.eval.plugin.generation import GenerationSettings
from llava.eval.plugin.manifest import library_versions
from llava.eval.settings import EvalSettings

_FILES = "answers_rank*.jsonl"
_WITHOUT_MEANING = ("manifest", "codec_debug", "codec_cache", "batch_size", "device", "codec_root")
"""Settings that change no answer."""


class AnswerJournal:
    """The answers of this run and of the one before it that broke off."""

    def __init__(self, folder: Path | None, rank: int, run_key: str) -> None:
        """Read what earlier ranks left.

        Args:
            folder: of the results; None keeps nothing.
            rank: of this process.
            run_key: see ``run_key``.
        """
        self._run_key = run_key
        self._path = None if folder is None else folder / f"answers_rank{rank}.jsonl"
        self._kept: dict[str, Any] = {}
        if folder is not None:
            _remove_finished(folder)
            for row in read_answers(folder):
                self._kept[row["key"]] = row["answer"]

    def __len__(self) -> int:
        return len(self._kept)

    def key(self, request: Instance, settings: GenerationSettings | None) -> str:
        """Identity of a request in this run.

        Args:
            request: of lmms-eval; where it asks for a score, the continuation's number counts.
            settings: how an answer is generated.
        """
        texts = [text for text in request.args[:2] if isinstance(text, str)]
        parts = [self._run_key, request.request_type, request.task_name, request.doc_id]
        return _digest([*parts, request.idx, texts, repr(settings)])

    def find(self, key: str) -> Any:
        """The kept answer, or None."""
        return self._kept.get(key)

    def keep(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the answers of a batch before the next begins.

        Args:
            rows: each with ``key`` (None: never to be taken over) and ``answer``, and whatever
                else is to be known of the sample.
        """
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write("".join(json.dumps(row) + "\n" for row in rows))


def run_key(settings: EvalSettings, checkpoint: Path, asset_fingerprint: str | None) -> str:
    """Return the identity of all that decides the answers of a run, except its documents.

    Args:
        settings: of the run.
        checkpoint: folder of the weights.
        asset_fingerprint: of the codec assets in use, None where there are none.
    """
    values = settings.to_dict()
    weights = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(checkpoint.glob("*.safetensors"))
    ]
    config = (checkpoint / "config.json").read_text(encoding="utf-8")
    meaning = {name: value for name, value in values.items() if name not in _WITHOUT_MEANING}
    return _digest([meaning, weights, config, asset_fingerprint, library_versions()])


def read_answers(folder: Path) -> list[dict[str, Any]]:
    """The rows of all ranks; a last line that was cut while being written is left out."""
    return [
        json.loads(line)
        for path in sorted(folder.glob(_FILES))
        for line in path.read_text(encoding="utf-8").split("\n")[:-1]
    ]


def _remove_finished(folder: Path) -> None:
    """Remove the answers that results came of; every rank does, whoever is first."""
    ended = max((path.stat().st_mtime_ns for path in folder.glob("*_results.json")), default=0)
    for path in folder.glob(_FILES):
        try:
            if path.stat().st_mtime_ns <= ended:
                path.unlink()
        except FileNotFoundError:
            continue


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
