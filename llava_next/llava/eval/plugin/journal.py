"""Record the answers of a run while it runs, so that it can be resumed and reported.

Every rank appends the answers of a batch, as soon as it has them, to ``answers_rank<r>.jsonl``
next to the results. A later run in the same folder reuses the answers that have its own key: the
key covers checkpoint, settings, asset fingerprint, library versions, document, prompt and
generation settings. A file older than the results in its folder belongs to a run that ended, and
is removed. Sampled answers have no key and are never reused.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lmms_eval.api.instance import Instance

from llava.eval.plugin.manifest import library_versions
from llava.eval.result_files import ANSWER_FILES, answer_file, read_answers
from llava.eval.settings import EvalSettings
from llava.generation import GenerationSettings
from run_kit.files import append_json_lines

_WITHOUT_MEANING = ("manifest", "codec_debug", "codec_cache", "batch_size", "device", "codec_root")
"""Settings that do not change answers."""


class AnswerJournal:
    """The answers of this run, and those of an interrupted run before it."""

    def __init__(self, folder: Path | None, rank: int, run_key: str) -> None:
        """Read the answers of an interrupted run in the same folder.

        Args:
            folder: folder of the results; None records nothing.
            rank: number of this process.
            run_key: identity of the run, see ``run_key``.
        """
        self._run_key = run_key
        self._path = None if folder is None else answer_file(folder, rank)
        self._kept: dict[str, Any] = {}
        if folder is not None:
            _remove_finished(folder)
            for row in read_answers(folder):
                self._kept[row["key"]] = row["answer"]

    def __len__(self) -> int:
        return len(self._kept)

    def key(
        self, request: Instance, texts: Sequence[str], settings: GenerationSettings | None
    ) -> str:
        """Return the identity of a request in this run.

        Args:
            request: lmms-eval's request; of those for a score, the continuation's number counts.
            texts: what the request consists of, see ``prompt_texts``.
            settings: how the answer is generated; None for a score.
        """
        parts = [self._run_key, request.request_type, request.task_name, request.doc_id]
        return _digest([*parts, request.idx, list(texts), repr(settings)])

    def find(self, key: str) -> Any:
        """Return the recorded answer, or None."""
        return self._kept.get(key)

    def keep(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append the answers of a batch.

        Args:
            rows: one per sample, with ``key`` (None: never to be reused), ``answer``, and what
                else the report shows of the sample.
        """
        if self._path is None:
            return
        append_json_lines(self._path, rows)


def run_key(settings: EvalSettings, checkpoint: Path, asset_fingerprint: str | None) -> str:
    """Return the identity of all that decides the answers of a run, except its documents.

    Args:
        settings: settings of the run.
        checkpoint: folder of the weights.
        asset_fingerprint: fingerprint of the codec assets in use, None where there are none.
    """
    values = settings.to_dict()
    weights = [
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(checkpoint.glob("*.safetensors"))
    ]
    config = (checkpoint / "config.json").read_text(encoding="utf-8")
    meaning = {name: value for name, value in values.items() if name not in _WITHOUT_MEANING}
    return _digest([meaning, weights, config, asset_fingerprint, library_versions()])


def _remove_finished(folder: Path) -> None:
    """Remove the answers of a run that ended; any rank may be the first to do so."""
    ended = max((path.stat().st_mtime_ns for path in folder.glob("*_results.json")), default=0)
    for path in folder.glob(ANSWER_FILES):
        try:
            if path.stat().st_mtime_ns <= ended:
                path.unlink()
        except FileNotFoundError:
            continue


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
