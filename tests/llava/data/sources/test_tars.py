"""Samples of WebDataset tars, as its own writer makes them, by row."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from PIL import Image

from llava.data.mixture import Mixture
from llava.data.records import AnyRecord, CodecRecord, ImageRecord, RecordError, parse_record
from llava.data.sources.tars import find_tars
from llava.visual.pictures import load_image

TURNS = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A"}]


def _png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _write(path: Path, samples: list[dict[str, Any]]) -> Path:
    with webdataset.TarWriter(str(path)) as writer:
        for sample in samples:
            writer.write(sample)
    return path


def _records(mixture: Mixture) -> list[AnyRecord]:
    return [
        parse_record(entry, where=where, image_folder=Path("/i"), video_folder=Path("/v"))
        for entry, where in map(mixture.read, range(len(mixture)))
    ]


def _shades(record: AnyRecord) -> list[int]:
    assert isinstance(record, ImageRecord | CodecRecord)
    return [load_image(path).getpixel((0, 0))[0] for path in record.images]  # type: ignore[index]


def test_a_sample_s_json_and_pictures_are_an_entry(tmp_path: Path) -> None:
    numbered = {f"{number}.png": _png(number) for number in (10, 9, 2)}
    two = {"conversations": [{**TURNS[0], "value": "<image><image>"}, TURNS[1]], "id": "x"}
    path = _write(
        tmp_path / "a.tar",
        [
            {"__key__": "one", "json": {"conversations": TURNS}, "png": _png(7)},
            {"__key__": "two", "json": {**two, "image": ["9.png", "two.2.png"]}, **numbered},
            {"__key__": "out", "json": {"conversations": TURNS, "image": "far.png"}},
            {"__key__": "say", "txt": " A red square. ", "json": {"width": 6}, "png": _png(3)},
        ],
    )
    mixture = Mixture(path)
    one, two_record, out, say = _records(mixture)
    assert [_shades(one), _shades(two_record), _shades(say)] == [[7], [9, 2], [3]]
    assert (one.sample_id, one.where, two_record.sample_id) == ("one", f"{path}#one", "x")
    assert isinstance(out, ImageRecord) and out.images == (Path("/i/far.png"),)
    assert say.turns == (
        {"from": "human", "value": "<image>"},
        {"from": "gpt", "value": "A red square."},
    )
    assert (tmp_path / "a.index.json").is_file()


def test_mosaics_and_positions_are_a_codec_sample_in_the_order_of_their_numbers(
    tmp_path: Path,
) -> None:
    mosaics = {f"m_{number}.png": _png(number) for number in (10, 2)}
    turns = [{"from": "human", "value": "<video>"}, TURNS[1]]
    sample = {"json": {"conversations": turns}, "positions_thw.npy": np.zeros((8, 3), np.int32)}
    [record] = _records(
        Mixture(_write(tmp_path / "a.tar", [{"__key__": "k", **sample, **mosaics}]))
    )
    assert isinstance(record, CodecRecord) and _shades(record) == [2, 10]
    assert str(record.positions).endswith("a.tar#k/positions_thw.npy")


def test_several_tars_are_one_data_set_read_by_row(tmp_path: Path) -> None:
    for number, keys in enumerate(["ab", "c", "de"]):
        rows = [{"__key__": key, "json": {"conversations": TURNS}} for key in keys]
        _write(tmp_path / f"s-{number:03d}.tar", rows)
    whole, part = Mixture(tmp_path), Mixture(tmp_path / "s-{001..002}.tar")
    assert [whole.read(row)[0]["id"] for row in (4, 2, 0, 3)] == ["e", "c", "a", "d"]
    assert [part.read(row)[0]["id"] for row in range(len(part))] == ["c", "d", "e"]
    assert (whole.sizes, whole.names) == ((5,), (tmp_path.name,))
    before = whole.fingerprint()
    _write(tmp_path / "s-001.tar", [{"__key__": "z", "json": {"conversations": TURNS}}])
    (tmp_path / "s-001.index.json").unlink()
    assert Mixture(tmp_path).fingerprint() != before


def test_folders_in_a_tar_are_part_of_the_key(tmp_path: Path) -> None:
    (tmp_path / "raw" / "v1.2").mkdir(parents=True)
    entry = json.dumps({"conversations": TURNS})
    (tmp_path / "raw" / "v1.2" / "a.json").write_text(entry)
    (tmp_path / "raw" / "v1.2" / "a.png").write_bytes(_png(5))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(tmp_path / "raw", arcname="./raw")
    [record] = _records(Mixture(tmp_path / "a.tar"))
    assert _shades(record) == [5] and record.sample_id == "raw%2Fv1.2%2Fa"


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ({"png": _png(1)}, "needs a .json with conversations or messages, or a .txt, got png"),
        ({"json": b"[1]"}, "its .json must be an object, got list"),
        ({"json": b"{"}, "its .json is no valid JSON"),
        ({"txt": "T", "mp4": b"0"}, "videos inside tars are not read, got mp4; make codec assets"),
    ],
)
def test_what_cannot_be_read_names_the_sample(
    tmp_path: Path, sample: dict[str, Any], message: str
) -> None:
    mixture = Mixture(_write(tmp_path / "a.tar", [{"__key__": "k", **sample}]))
    with pytest.raises(RecordError, match=rf"a.tar#k: .*{message}"):
        mixture.read(0)


def test_what_is_no_list_of_samples_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "a.tar", [{"__key__": "k", "json": {"conversations": TURNS}}])
    whole = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[:700])
    with pytest.raises(ValueError, match=r"cut.tar.*cannot be read"):
        Mixture(tmp_path / "cut.tar")
    with pytest.raises(ValueError, match=r"x.tar.gz is compressed.*decompress it"):
        Mixture(tmp_path / "x.tar.gz")
    with pytest.raises(ValueError, match="does not exist"):
        Mixture(tmp_path / "lost.tar")
    with pytest.raises(ValueError, match="ascending"):
        find_tars(tmp_path / "{9..1}.tar")


def test_an_index_older_than_its_tar_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    _write(path, [{"__key__": "a", "json": {"conversations": TURNS}}])
    Mixture(path)
    _write(path, [{"__key__": key, "json": {"conversations": TURNS}} for key in "bc"])
    assert [Mixture(path).read(row)[0]["id"] for row in (0, 1)] == ["b", "c"]
