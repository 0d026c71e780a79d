"""A copy of a data path in which what can be repaired is, and what cannot be used is left out.

What training reads as it is (see ``llava.data.turns``) is written in the plain form. Beyond that,
repairs change a sample, so they are made only on request, and each is listed.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from llava.constants import IMAGE_PLACEHOLDER
from llava.conversation import VIDEO_PLACEHOLDER
from llava.data.dataset import SupervisedDataset
from llava.data.encoding import Measured
from llava.data.lengths import Lengths
from llava.data.records import RecordError
from llava.data.turns import SPEAKERS, TurnError, read_conversation
from run_kit.files import append_json_lines, write_text

_BLOCK_SAMPLES = 256
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


def write_repaired(dataset: SupervisedDataset, lengths: Lengths, folder: Path) -> dict[str, Any]:
    """Write a data path again, one JSONL file per data set, with a mixture of them.

    Args:
        dataset: the data as it is.
        lengths: lengths of that data, just measured.
        folder: new or empty; receives the files, ``mixture.yaml``, ``fixes.jsonl`` (what was done
            to which sample) and ``left_out.jsonl`` (which cannot be used, and why).

    Returns:
        ``mixture``, ``image_folder``, ``video_folder``, and counts: ``repaired``, ``left_out``,
        ``changes`` (samples by change).

    Raises:
        ValueError: if the folder holds something, or the data is of tables.
        OSError: if it cannot be written.
    """
    if dataset.entries.tables:
        raise ValueError(
            "--fix writes JSON, which cannot hold the pictures of tables: "
            f"{', '.join(dataset.entries.tables)}; repair these with the library datasets"
        )
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"--fix {folder} must be a new or empty folder; nothing was written")
    folder.mkdir(parents=True, exist_ok=True)
    bad = {sample["index"]: sample["message"] for sample in lengths.bad_samples}
    changes: Counter[str] = Counter()
    counts = {"repaired": 0, "left_out": 0}
    entries, names = dataset.entries, _file_names(dataset.entries.names)
    for number, name in enumerate(names):
        indices = entries.set_range(number)
        for start in range(indices.start, indices.stop, _BLOCK_SAMPLES):
            block = range(start, min(start + _BLOCK_SAMPLES, indices.stop))
            rows: dict[str, list[Any]] = {name: [], "left_out.jsonl": [], "fixes.jsonl": []}
            for kind, row, what in _repaired_block(dataset, block, bad):
                rows["left_out.jsonl" if kind == "left_out" else name].append(row)
                changes.update(what)
                if kind == "changed":
                    sample = {"id": row.get("id"), "data_set": entries.names[number]}
                    rows["fixes.jsonl"].append({**sample, "changes": what})
            counts["repaired"] += len(rows["fixes.jsonl"])
            counts["left_out"] += len(rows["left_out.jsonl"])
            for file, lines in rows.items():
                if lines:
                    append_json_lines(folder / file, lines)
    kept = [name for name in names if (folder / name).is_file()]
    settings = {"datasets": [{"json_path": name} for name in kept]}
    write_text(folder / "mixture.yaml", yaml.safe_dump(settings))
    return {
        "mixture": str(folder / "mixture.yaml"),
        "image_folder": str(dataset.image_folder),
        "video_folder": str(dataset.video_folder),
        **counts,
        "changes": dict(changes.most_common()),
    }


def _file_names(names: tuple[str, ...]) -> list[str]:
    """Return a file name per data set; names come from the user, so they are made safe."""
    safe = ["".join(c if c.isalnum() or c in "-_." else "_" for c in name) for name in names]
    return [f"{number:03d}_{name[:100]}.jsonl" for number, name in enumerate(safe)]


def _repaired_block(
    dataset: SupervisedDataset, block: range, bad: Mapping[int, str]
) -> Iterator[tuple[str, Any, list[str]]]:
    """Give (``same``, ``changed`` or ``left_out``; what to write; changes) of each sample."""
    found = [dataset.entries.read_or_error(index) for index in block]
    repaired = [
        item if isinstance(item, RecordError) else _try_repair(item[0], broken=index in bad)
        for index, item in zip(block, found, strict=True)
    ]
    tried = [
        item if isinstance(item, RecordError) else (item[0], where[1])  # pyright: ignore[reportIndexIssue]
        for item, where in zip(repaired, found, strict=True)
    ]
    results = dataset.measure(tried)
    for index, item, result in zip(block, repaired, results, strict=True):
        entry, changes = (None, []) if isinstance(item, RecordError) else item
        if isinstance(result, Measured) and (changes or index not in bad):
            yield ("changed" if changes else "same"), entry, changes
        else:
            message = str(result) if isinstance(result, RecordError) else bad[index]
            yield "left_out", {"index": index, "message": message}, []


def _try_repair(entry: Any, *, broken: bool) -> tuple[Any, list[str]]:
    """Return an entry in the plain form, and what was changed; one that is sound is not touched."""
    if not isinstance(entry, Mapping):
        return entry, []
    if broken:
        return repair_entry(entry)
    try:
        said = read_conversation({key: value for key, value in entry.items() if value is not None})
    except TurnError:
        return entry, []
    if not said.notes:
        return entry, []
    rest = {key: value for key, value in entry.items() if key not in ("conversations", "messages")}
    turns = [dict(turn) for turn in said.turns]
    return _with_files({**rest, "conversations": turns}, said), list(said.notes)


def _with_files(entry: dict[str, Any], said: Any) -> dict[str, Any]:
    """Return an entry with the files that its messages named."""
    if said.images and not entry.get("image") and not entry.get("images"):
        entry["image"] = list(said.images)
    if len(said.videos) == 1 and not entry.get("video") and not entry.get("videos"):
        entry["video"] = said.videos[0]
    return entry


def repair_entry(entry: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Repair the conversation of an entry that cannot be used as it is.

    Half characters become U+FFFD; an answer before the first question is left out; turns of one
    speaker are joined; an empty answer is left out with its question, whose placeholders move on;
    surplus placeholders of images are left out.

    Returns:
        The entry, and the changes, none where nothing could be done.
    """
    text = json.dumps(entry)
    clean, changes = json.loads(text, object_hook=_without_half_characters), []
    if clean != json.loads(text):
        changes.append(f"half a character is replaced by {_REPLACEMENT}")
    try:
        said = read_conversation({key: value for key, value in clean.items() if value is not None})
    except TurnError:
        return clean, changes
    turns = [dict(turn) for turn in said.turns]
    turns = _answered(_joined(turns, changes), changes)
    rest = {key: value for key, value in clean.items() if key not in ("conversations", "messages")}
    fixed = _with_files({**rest, "conversations": turns}, said)
    _drop_surplus(fixed, changes)
    return fixed, [*said.notes, *changes]


def _without_half_characters(value: dict[str, Any]) -> dict[str, Any]:
    return {key: _clean(item) for key, item in value.items()}


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return [_clean(item) for item in value] if isinstance(value, list) else value


def _joined(turns: list[dict[str, str]], changes: list[str]) -> list[dict[str, str]]:
    """Return turns that begin with a question, those of one speaker joined by a line break."""
    system = [turn for turn in turns[:1] if turn["from"] == "system"]
    spoken = turns[len(system) :]
    first = next((n for n, turn in enumerate(spoken) if turn["from"] == "human"), len(spoken))
    if first:
        changes.append("an answer before the first question is left out")
    joined: list[dict[str, str]] = []
    for turn in spoken[first:]:
        if joined and joined[-1]["from"] == turn["from"]:
            joined[-1] = {**turn, "value": f"{joined[-1]['value']}\n{turn['value']}"}
            changes.append("turns of one speaker are joined")
        else:
            joined.append(turn)
    return system + joined


def _answered(turns: list[dict[str, str]], changes: list[str]) -> list[dict[str, str]]:
    """Return turns without empty answers and their questions; placeholders move to the next."""
    kept: list[dict[str, str]] = []
    moved = ""
    for turn in turns:
        if turn["from"] == "gpt" and not turn["value"].strip() and kept:
            question = kept.pop()["value"]
            for word in (IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER):
                moved += f"{word}\n" * question.count(word)
            changes.append("an empty answer is left out with its question")
        elif turn["from"] == "human" and moved:
            kept.append({**turn, "value": moved + turn["value"]})
            moved = ""
        else:
            kept.append(turn)
    return kept


def _drop_surplus(entry: dict[str, Any], changes: list[str]) -> None:
    """Leave out placeholders beyond the number of images, the last ones first."""
    image = entry.get("image", entry.get("images"))
    count = 1 if isinstance(image, str) else len(image) if isinstance(image, list) else 0
    seen = 0
    for turn in entry["conversations"]:
        if turn["from"] != SPEAKERS["user"] or not count:
            continue
        parts = turn["value"].split(IMAGE_PLACEHOLDER)
        keep = max(0, min(len(parts) - 1, count - seen))
        seen += keep
        if keep < len(parts) - 1:
            kept = IMAGE_PLACEHOLDER.join(parts[: keep + 1])
            turn["value"] = (kept + "".join(parts[keep + 1 :])).strip()
            changes.append("surplus <image> are left out")
