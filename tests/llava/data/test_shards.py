"""The validator on assets in shards: the same figures as for folders, and damage by name."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cv_reader.commands.convert.shards import ShardWriter
from cv_reader.shards import index_path, read_shard_index
from llava.data.validate import main
from llava.model.tiny import write_tiny_checkpoint

GRID, CELL_PX = 8, 16
TAR = "shard_000001.tar"


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``model``; clips as ``folders`` and as ``tars`` of two, and lines that name each."""
    root = tmp_path_factory.mktemp("shards")
    write_tiny_checkpoint(root / "model")
    random = np.random.default_rng(0)
    writer = ShardWriter(root / "tars", "shard_", most_samples=2, most_bytes=1 << 30)
    lines: dict[str, list[str]] = {"folders": [], "tars": []}
    for number in range(3):
        key = f"clip.{number}"
        folder = root / "folders" / key
        folder.mkdir(parents=True)
        cells = random.integers(0, 256, (GRID, GRID, 3), np.uint8)
        side = GRID * CELL_PX
        Image.fromarray(cells).resize((side, side)).save(folder / "mosaic_000.jpg")
        positions = np.stack(np.unravel_index(np.arange(GRID**2), (1, GRID, GRID)), axis=1)
        np.save(folder / "positions_thw.npy", positions.astype(np.int32))
        (folder / "meta.json").write_text("{}")
        tar = writer.tar.name
        writer.add(key, folder)
        for kind, place in (("folders", key), ("tars", f"{tar}#{key}")):
            lines[kind].append(_line(f"{kind}/{place}"))
    writer.close()
    for kind, texts in lines.items():
        (root / f"{kind}.jsonl").write_text("\n".join(texts))
    return root


def _line(place: str) -> str:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A"}]
    fields = {"image": [f"{place}/mosaic_000.jpg"], "positions_thw": f"{place}/positions_thw.npy"}
    return json.dumps({**fields, "conversations": turns})


def _validate(root: Path, name: str, out: Path, *flags: str) -> int:
    model = ["--model_name_or_path", str(root / "model"), "--out", str(out)]
    return main([str(root / f"{name}.jsonl"), *model, *flags])


def test_figures_are_those_of_folders(material: Path, tmp_path: Path) -> None:
    reports: list[dict[str, object]] = []
    for kind in ("folders", "tars"):
        assert _validate(material, kind, tmp_path, "--deep") == 0
        reports.append(json.loads((tmp_path / "report.json").read_text()))
        del reports[-1]["datasets"]
    assert reports[0] == reports[1]


def _cut(tar: Path) -> None:
    with tar.open("r+b") as stream:
        stream.truncate(tar.stat().st_size // 2)


def _lose_key(tar: Path) -> None:
    """Write the shard again with another sample in it."""
    other = ShardWriter(tar.parent, "shard_", most_samples=1, most_bytes=1 << 30, number=1)
    other.add("clip.0", tar.parent.parent / "folders" / "clip.0")


def _flip(tar: Path) -> None:
    """Damage the scan of a mosaic: its header still reads well."""
    place = read_shard_index(tar).samples["clip.2"]["mosaic_000.jpg"]
    content = bytearray(tar.read_bytes())
    half = place.size // 2
    content[place.offset + half : place.offset + 2 * half] = bytes(half)
    tar.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason", "is_deep"),
    [
        (Path.unlink, "No such file or directory", False),
        (lambda tar: index_path(tar).unlink(), "the shard has no index shard_000001.index", False),
        (_lose_key, "shard_000001.tar holds no mosaic_000.jpg of 'clip.2'", False),
        (_cut, "it is cut or another one, make the shard again", False),
        (_flip, "image", True),
    ],
)
def test_damage_is_named(
    material: Path, tmp_path: Path, damage: Callable[[Path], None], reason: str, is_deep: bool
) -> None:
    for name in ("model", "tars", "tars.jsonl"):
        (tmp_path / name).symlink_to(material / name)
    (tmp_path / "tars").unlink()
    shutil.copytree(material / "tars", tmp_path / "tars")
    (tmp_path / "folders").symlink_to(material / "folders")
    damage(tmp_path / "tars" / TAR)
    for flags in ([], ["--deep"]):
        is_found = is_deep <= bool(flags)
        assert _validate(tmp_path, "tars", tmp_path / "out", *flags) == int(is_found)
        failures = (tmp_path / "out" / "failures.jsonl").read_text().splitlines()
        assert [json.loads(line)["index"] for line in failures] == [2] * is_found
        if is_found:
            message = json.loads(failures[0])["message"]
            assert f"{TAR}#clip.2/" in message and reason in message
