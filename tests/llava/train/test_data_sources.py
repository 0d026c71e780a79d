"""The same samples as JSON lines, in tars and in tables train to the same losses, and resume."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from llava.train.run.config import read_run_config
from run_kit.log import read_log

pytestmark = pytest.mark.slow

OPTIONS = {"balance_lengths": True, "per_device_train_batch_size": 2, "max_steps": 4}


def _entries(data: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]


def _images(entry: dict[str, Any]) -> list[str]:
    return [entry["image"]] if isinstance(entry.get("image"), str) else entry.get("image", [])


def _write_tars(data: Path, folder: Path) -> Path:
    """Two tars; a picture is a member of its sample, and so are positions."""
    folder.mkdir()
    entries = _entries(data)
    for number, part in enumerate((entries[:5], entries[5:])):
        with webdataset.TarWriter(str(folder / f"{number:04d}.tar")) as writer:
            for entry in part:
                pictures = [(data / name).read_bytes() for name in _images(entry)]
                members: dict[str, Any] = {f"{i}.png": file for i, file in enumerate(pictures)}
                if "positions_thw" in entry:
                    members["positions_thw.npy"] = np.load(data / entry["positions_thw"])
                said = {key: entry[key] for key in ("id", "conversations")}
                writer.write({"__key__": entry["id"], "json": said, **members})
    return folder


def _write_table(data: Path, path: Path) -> Path:
    """Pictures inside the table, positions by path."""
    datasets = pytest.importorskip("datasets")
    entries = _entries(data)
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "images": [datasets.Image()],
            "positions_thw": datasets.Value("string"),
            "conversations": [
                {"from": datasets.Value("string"), "value": datasets.Value("string")}
            ],
        }
    )
    rows = {
        "id": [entry["id"] for entry in entries],
        "images": [
            [{"bytes": (data / name).read_bytes(), "path": name} for name in _images(entry)]
            for entry in entries
        ],
        "positions_thw": [entry.get("positions_thw") for entry in entries],
        "conversations": [entry["conversations"] for entry in entries],
    }
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def _losses(folder: Path) -> list[float]:
    return [row["loss"] for row in read_log(folder)]


def test_tars_and_tables_train_as_json_lines_do_and_resume_exactly(
    train: Callable[..., int],
    tiny_material: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = tiny_material / "data"
    assert train(tmp_path / "lines", **OPTIONS) == 0
    expected = _losses(tmp_path / "lines")
    assert len(expected) == 4
    sources = {
        "tars": _write_tars(data, tmp_path / "shards"),
        "table": _write_table(data, tmp_path / "train.parquet"),
    }
    for name, path in sources.items():
        flags = {**OPTIONS, "data_path": path, "image_folder": data}
        assert train(tmp_path / name, **flags) == 0
        assert _losses(tmp_path / name) == expected
        folder = tmp_path / f"{name}-resumed"
        saved = {**flags, "save_strategy": "steps", "save_steps": 2}
        assert train(folder, **saved) == 0
        shutil.rmtree(folder / "checkpoint-4")
        assert train(folder, **saved, resume_from_checkpoint="auto") == 0
        assert _losses(folder) == expected
        assert len(read_run_config(folder)["starts"]) == 2  # type: ignore[index]
