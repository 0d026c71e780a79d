"""Streams of the library ``datasets``: every builder gives the rows that reading by number does."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llava.data.mixture import Mixture
from llava.data.records import RecordError, parse_record
from llava.data.sources.entry_index import FileKey
from llava.data.sources.streams import RowStream, StreamError, _check_ends, open_row_stream
from llava.data.sources.tables import TableName, open_table
from llava.visual.pictures import PictureBytes, load_image

TURNS = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A"}]


def _png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (shade, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _member_row(**members: Any) -> dict[str, Any]:
    return {"__key__": "k1", "__url__": "x.tar", **members}


def test_samples_of_webdataset_become_entries() -> None:
    """As the library gives them, without importing it."""
    stream = RowStream(Path("x.tar"), None, 1, FileKey(0, 0, 0))
    picture = {"bytes": _png(3), "path": "k1.jpg"}
    caption = stream.entry(_member_row(jpg=picture, txt=" A dog. \n"), "x:1")
    assert caption["id"] == "k1" and caption["conversations"][1]["value"] == "A dog."
    assert load_image(caption["image"][0]).tobytes()[:3] == b"\3\0\0"
    two = {"1.png": picture, "0.png": {"bytes": _png(9), "path": ""}, "2.png": None}
    said = {"id": None, "conversations": TURNS, "image": None}
    named = {**said, "image": ["1.png", "k1.0.png", "elsewhere.png"]}
    entry = stream.entry(_member_row(json=said, **two), "x:1")
    assert [load_image(image).tobytes()[0] for image in entry["image"]] == [9, 3]
    first, second, third = stream.entry(_member_row(json=named, **two), "x:1")["image"]
    assert (first.content, second.content, third) == (_png(3), _png(9), "elsewhere.png")
    with pytest.raises(RecordError, match="positions of codec clips are read from tars by number"):
        stream.entry(_member_row(json=said, **{"positions_thw.npy": [1]}), "x:1")
    with pytest.raises(RecordError, match="x:1: a sample needs a .json with conversations or mess"):
        stream.entry(_member_row(jpg=picture), "x:1")


def test_a_picture_inside_may_not_be_huge(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = RowStream(Path("x.parquet"), None, 1, FileKey(0, 0, 0))
    monkeypatch.setattr("llava.data.sources.tables._MAX_PICTURE_BYTES", 100)
    row = {"image": {"bytes": b"x" * 101, "path": None}, "conversations": TURNS}
    with pytest.raises(
        RecordError, match="x:1, image: a picture may have up to 100 bytes, got 101"
    ):
        stream.entry(row, "x:1")


def _rows(count: int) -> list[dict[str, Any]]:
    return [
        {
            "id": f"s{number}",
            "image": {"bytes": _png(number), "path": None} if number % 3 else None,
            "conversations": TURNS if number % 3 else [{"from": "human", "value": "Q"}, TURNS[1]],
        }
        for number in range(count)
    ]


def _all(stream: RowStream) -> list[dict[str, Any]]:
    return [
        stream.entry(row, stream.where(shard, number))
        for shard in range(stream.shards)
        for number, row in enumerate(stream.rows(shard))
    ]


def _plain(entry: dict[str, Any]) -> dict[str, Any]:
    record = parse_record(entry, where="x", image_folder=Path("/i"), video_folder=Path("/v"))
    images = getattr(record, "images", ())
    contents = [image.content if isinstance(image, PictureBytes) else image for image in images]
    return {"id": record.sample_id, "turns": record.turns, "images": contents}


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Ten rows, four of them in ``parts/0.parquet`` in two row groups, the rest in another file."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    turn = {"from": datasets.Value("string"), "value": datasets.Value("string")}
    features = datasets.Features(
        {"id": datasets.Value("string"), "image": datasets.Image(), "conversations": [turn]}
    )
    rows = _rows(10)
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    whole = datasets.Dataset.from_dict(columns, features=features)
    (tmp_path / "parts").mkdir()
    whole.select(range(4)).to_parquet(tmp_path / "parts" / "0.parquet", batch_size=2)
    whole.select(range(4, 10)).to_parquet(tmp_path / "parts" / "1.parquet")
    whole.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict({"train": whole}).save_to_disk(tmp_path / "splits")
    return whole


@pytest.mark.slow
def test_tables_streamed_are_tables_read_by_number(table: Any, tmp_path: Path) -> None:
    numbered = Mixture(tmp_path / "saved")
    expected = [_plain(numbered.read(number)[0]) for number in range(10)]
    arrow = next((tmp_path / "saved").glob("*.arrow"))
    for path in ("parts", "saved", "splits", str(arrow)):
        stream = open_row_stream(tmp_path / path, TableName(), readers=1)
        assert [_plain(entry) for entry in _all(stream)] == expected
        assert stream.key() == open_row_stream(tmp_path / path, TableName(), readers=1).key()
        for shard in range(stream.shards):
            rows = [row["id"] for row in stream.rows(shard)]
            for start in range(len(rows) + 1):
                assert [row["id"] for row in stream.rows(shard, start)] == rows[start:]
    assert open_row_stream(tmp_path / "parts", TableName(), readers=2).shards == 2
    assert open_row_stream(tmp_path / "parts", TableName(), readers=3).shards == 3  # row groups
    assert [
        _plain(e) for e in _all(open_row_stream(tmp_path / "parts", TableName(), readers=3))
    ] == (expected)


@pytest.mark.slow
def test_json_and_tars_streamed_are_those_read_by_number(table: Any, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    parts = [{"type": "image", "image": "a.png"}, {"type": "text", "text": "Q"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "A"}]
    rows: list[dict[str, Any]] = [
        {"id": "m0", "messages": messages},
        {"id": "m1", "messages": [{"role": "user", "content": "Q"}, messages[1]]},
    ]
    published = [{"id": "c0", "image": "a.jpg", "conversations": TURNS}]
    (tmp_path / "json").mkdir()
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "json" / "c.json").write_text(json.dumps(published * 2))
    (tmp_path / "tars").mkdir()
    for number in range(2):
        with webdataset.TarWriter(str(tmp_path / "tars" / f"{number}.tar")) as writer:
            said = {"id": f"t{number}", "conversations": TURNS}
            writer.write({"__key__": f"a{number}", "json": said, "png": _png(number)})
            writer.write({"__key__": f"b{number}", "json": said, "png": _png(7)})
    for path in ("m.jsonl", "json", "tars"):
        stream = open_row_stream(tmp_path / path, TableName(), readers=1)
        named = tmp_path / path if path != "json" else tmp_path / "json" / "c.json"
        numbered = Mixture(named)
        contents = [numbered.read(number)[0] for number in range(len(numbered))]
        for one, other in zip(_all(stream), contents, strict=True):
            left, right = _plain(one), _plain(other)
            if path == "tars":
                right["images"] = [_bytes_of(image) for image in right["images"]]
            assert left == right
    assert stream.shards == 2


def _bytes_of(member: Path) -> bytes:
    from cv_reader.shards import open_file

    with open_file(member) as file:
        return file.read()


@pytest.mark.slow
def test_streams_that_cannot_be_read_are_refused_by_name(table: Any, tmp_path: Path) -> None:
    def refused(path: str, message: str, name: TableName | None = None) -> None:
        with pytest.raises(ValueError, match=f"stream .*{path}.*cannot be read: .*{message}"):
            open_row_stream(tmp_path / path, name or TableName(), readers=1)

    refused("nothing.parquet", "it does not exist")
    refused("splits", "splits train, not 'test'", TableName(None, "test"))
    (tmp_path / "torn.parquet").write_bytes((tmp_path / "parts" / "1.parquet").read_bytes()[:300])
    refused("torn.parquet", "")
    for name, message in (("e.jsonl", "it holds no rows"), ("e.tar", "no end of a tar")):
        (tmp_path / name).write_bytes(b"")
        refused(name, message)
    with pytest.raises(ValueError, match="it holds 10 rows for 11 readers; use fewer ranks, or"):
        open_row_stream(tmp_path / "parts", TableName(), readers=11)
    assert open_row_stream(tmp_path / "parts", TableName(), readers=10).shards < 10
    parquet = pytest.importorskip("pyarrow.parquet")
    none = parquet.read_table(tmp_path / "parts" / "0.parquet").slice(0, 0)
    parquet.write_table(none, tmp_path / "none.parquet")
    refused("none.parquet", "a Parquet file holds no rows")
    refused("parts", "split 'test' is of names on the Hub", TableName(None, "test"))
    refused("parts", "subset 'charts' is of names on the Hub", TableName("charts"))
    with pytest.raises(ValueError, match="split 'test' is of names on the Hub"):
        open_table(tmp_path / "parts", TableName(None, "test"))
    with pytest.raises(ValueError, match="stream lab/no-such-set cannot be read"):
        open_row_stream(Path("lab/no-such-set"), TableName(), readers=1)
    (tmp_path / "late").mkdir()
    for number in (0, 1):
        content = (tmp_path / "parts" / f"{number}.parquet").read_bytes()
        (tmp_path / "late" / f"{number}.parquet").write_bytes(content)
    stream = open_row_stream(tmp_path / "late", TableName(), readers=1)
    (tmp_path / "late" / "1.parquet").write_bytes(content[:500])
    assert len(list(stream.rows(0))) == 4
    with pytest.raises(
        StreamError, match=r"late, shard 2 \(1.parquet\):1: the stream cannot be read"
    ):
        list(stream.rows(1))


def test_a_tar_that_was_cut_is_refused_where_the_library_reads_it_as_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a.txt", "b.txt"):
            member = tarfile.TarInfo(name)
            member.size = 700
            tar.addfile(member, io.BytesIO(b"x" * 700))
    content = path.read_bytes()
    _check_ends([path])
    for size in (0, 100, 512, 1300, 3000, 3072):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=f"a.tar has {size} bytes and no end of a tar"):
            _check_ends([path])
