"""Answers kept while a run goes on, so that one that broke off continues where it stopped.

Every rank writes the answers of a batch, as soon as it has them, to ``answers_rank<r>.jsonl``
beside the results. A later run in the same folder takes over those whose key is its own: the key
covers checkpoint, settings, fingerprint of the assets, versions of the libraries, document, prompt
and generation settings. A file that is older than results in its folder belongs to a run that
ended, and is not used. Sampled answers are never kept.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance

from llava.eval.generation import GenerationSettings
from llava.eval.manifest import library_versions
from llava.eval.settings import EvalSettings

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
            for path in _unfinished(folder):
                self._kept.update(_read(path))

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

    def keep(self, answers: Mapping[str, Any]) -> None:
        """Write answers, by key, before the next batch begins."""
        if self._path is None or not answers:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lines = [json.dumps({"key": key, "answer": answer}) for key, answer in answers.items()]
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write("\n".join(lines) + "\n")


def run_key(settings: EvalSettings, asset_fingerprint: str | None) -> str:
    """Identity of all that decides the answers of a run, beside its documents."""
    values = settings.to_dict()
    weights = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(Path(settings.pretrained).glob("*.safetensors"))
    ]
    config = (Path(settings.pretrained) / "config.json").read_text(encoding="utf-8")
    meaning = {name: value for name, value in values.items() if name not in _WITHOUT_MEANING}
    return _digest([meaning, weights, config, asset_fingerprint, library_versions()])


def _unfinished(folder: Path) -> Iterator[Path]:
    """Files of answers that no results came of."""
    ended = max((path.stat().st_mtime_ns for path in folder.glob("*_results.json")), default=0)
    for path in sorted(folder.glob("answers_rank*.jsonl")):
        if path.stat().st_mtime_ns > ended:
            yield path


def _read(path: Path) -> dict[str, Any]:
    """The answers of a file; a last line that was cut while being written is left out."""
    kept: dict[str, Any] = {}
    for line in path.read_text(encoding="utf-8").split("\n")[:-1]:
        row = json.loads(line)
        kept[row["key"]] = row["answer"]
    return kept


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
