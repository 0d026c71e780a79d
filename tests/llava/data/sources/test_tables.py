"""Tables of the library ``datasets`` as data: Parquet, Arrow, folders, pictures inside."""

import io
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava.data.mixture import Mixture
from llava.data.records import ImageRecord, parse_record
from llava.data.sources.tables import TableRows
from llava.visual.pictures import PictureBytes, load_image, read_image_size

TURNS = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A"}]


def _png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


class _Arrow:
    """What ``datasets`` gives for a slice of rows, without importing it."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def __getitem__(self, rows: slice) -> "_Arrow":
        return _Arrow(self._rows[rows])

    schema: tuple[Any, ...] = ()

    def to_pylist(self) -> list[dict[str, Any]]:
        return self._rows


def test_structs_of_bytes_and_path_become_contents_or_paths() -> None:
    images = [{"bytes": _png(4), "path": "x.png"}, {"bytes": None, "path": "b.png"}]
    rows = [{"id": "s", "image": images, "conversations": TURNS, "video": None}]
    source: Any = TableRows(Path("d.parquet"), _Arrow(rows), None)  # type: ignore[arg-type]
    entry = source.read(0)
    first, second = entry["image"]
    assert isinstance(first, PictureBytes) and second == "b.png"
    assert load_image(first).getpixel((0, 0)) == (4, 0, 0) and read_image_size(first) == (6, 4)
    record = parse_record(
        entry, where=source.where(0), image_folder=Path("/i"), video_folder=Path("/v")
    )
    assert isinstance(record, ImageRecord) and record.images == (first, Path("/i/b.png"))


def test_a_broken_picture_inside_is_named_and_never_printed() -> None:
    picture = PictureBytes(b"\x89PNG" + b"x" * 1_000_000, "d.parquet:7, image")
    with pytest.raises(ValueError, match=r"image the picture in d.parquet:7, image cannot be read"):
        load_image(picture)
    assert len(repr(picture)) < 100


@pytest.mark.slow
def test_tables_of_the_library_are_read_as_published(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written by ``datasets`` itself, with its feature for pictures: by every road, alike."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pictures = [_png(shade) for shade in range(6)]
    features = datasets.Features(
        {
            "id": datasets.Value("string"),
            "image": datasets.Image(),
            "conversations": [
                {"from": datasets.Value("string"), "value": datasets.Value("string")}
            ],
            "data_source": datasets.Value("string"),
        }
    )
    rows = {
        "id": [f"s{number}" for number in range(6)],
        "image": [{"bytes": content, "path": None} for content in pictures[:5]] + [None],
        "conversations": [TURNS] * 5 + [[{"from": "human", "value": "Q"}, TURNS[1]]],
        "data_source": ["made"] * 6,
    }
    table = datasets.Dataset.from_dict(rows, features=features)
    (tmp_path / "parts").mkdir()
    table.select(range(3)).to_parquet(tmp_path / "parts" / "0.parquet")
    table.select(range(3, 6)).to_parquet(tmp_path / "parts" / "1.parquet")
    table.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "splits")
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    (tmp_path / "m.yaml").write_text(
        "datasets:\n  - {hf_path: parts, sampling_strategy: 'end:50%'}\n"
        "  - {hf_path: splits, split: train, name: whole}\n"
    )
    for path in ("parts", "saved", "splits", str(arrow)):
        mixture = Mixture(tmp_path / path)
        assert [mixture.read(row)[0]["id"] for row in (5, 0, 3)] == ["s5", "s0", "s3"]
        entry, where = mixture.read(4)
        assert entry["image"].content == pictures[4] and where.endswith(":5")
        assert "image" not in {key for key, value in mixture.read(5)[0].items() if value}
    mixed = Mixture(tmp_path / "m.yaml")
    assert (mixed.sizes, mixed.names) == ((3, 6), ("parts", "whole"))
    assert mixed.fingerprint() == Mixture(tmp_path / "m.yaml").fingerprint()
    with pytest.raises(ValueError, match="splits train, not 'test'"):
        (tmp_path / "m.yaml").write_text("datasets:\n  - {hf_path: splits, split: test}")
        Mixture(tmp_path / "m.yaml")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"table lab/no-such-set cannot be read"):
        (tmp_path / "m.yaml").write_text("datasets:\n  - {hf_path: lab/no-such-set}")
        Mixture(tmp_path / "m.yaml")
