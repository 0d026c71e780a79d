"""Where samples come from: folders, lists and shards, with one key each."""

import json
from pathlib import Path

import numpy as np
import pytest

from cv_reader.assets import AssetConfig
from cv_reader.assets.make import write_evaluation_asset
from encoder_training.pretrain.data.made import TRUTH, jpeg, make_files, write_made_set
from encoder_training.pretrain.data.shard_set import open_set
from encoder_training.pretrain.data.sources import read_source
from encoder_training.pretrain.data.videos import VideoSplit, VideoView
from encoder_training.pretrain.data.write import main as write

PIXELS = jpeg(np.zeros((8, 8, 3), np.uint8))


def test_a_folder_is_read_in_order_at_any_depth(tmp_path: Path) -> None:
    for name in ("b.jpg", "a/v1.2.png", "a/clip.mp4", "notes.txt", ".hidden.jpg"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(PIXELS)
    items = read_source(tmp_path)
    found = [(item.key, item.kind) for item in items]
    assert found == [("a/clip", "video"), ("a/v1_2", "image"), ("b", "image")]
    assert [item.key for item in read_source(tmp_path, "video")] == ["a/clip"]
    (tmp_path / "b.png").write_bytes(PIXELS)
    with pytest.raises(ValueError, match="keys must differ, got 'b'"):
        read_source(tmp_path)


def test_shards_are_a_source_too(tmp_path: Path) -> None:
    write_made_set(tmp_path / "set", "image", num_samples=5, size_px=16, samples_per_shard=2)
    items = read_source(tmp_path / "set")
    assert [item.key for item in items] == [f"{number:06d}" for number in range(5)]
    assert items[3].read()[:2] == b"\xff\xd8" and items[3].place.endswith(".tar, key 000003")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nothing", "list.jsonl:2 must be JSON"),
        ('{"sound": "x.wav"}', 'list.jsonl:2 must name one "image" or one "video"'),
        ('{"image": "a.jpg", "video": "a.mp4"}', "list.jsonl:2 must name one"),
        ('["a.jpg"]', "list.jsonl:2 must name one"),
        ('{"image": "b.jpg", "key": "b.1"}', "list.jsonl:2: key must be a text without dots"),
        ('{"image": "b.jpg", "labels": [1, -2]}', "list.jsonl:2: labels must be whole numbers"),
        ('{"image": "b.jpg", "labels": "1"}', "list.jsonl:2: labels must be whole numbers"),
        ('{"image": "a.jpg"}', "keys must differ, got 'a'"),
    ],
)
def test_wrong_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "list.jsonl").write_text('{"image": "a.jpg"}\n' + line + "\n")
    with pytest.raises(ValueError, match=message):
        read_source(tmp_path / "list.jsonl")


def test_a_list_with_labels_becomes_a_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jpg").write_bytes(PIXELS)
    rows = [{"image": "a.jpg", "key": f"k{n}", "labels": [n, 9]} for n in range(3)]
    rows.append({"image": "a.jpg", "key": "short", "labels": [1]})
    source = tmp_path / "list.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    bank = ["--kind", "ocr", "--num_centres", "10", "--bank", "words-1"]
    with pytest.raises(SystemExit) as caught:
        write([str(source), str(tmp_path / "set"), *bank])
    assert caught.value.code == 1
    assert "must have 2 labels, got 1 (wrong number of labels)" in capsys.readouterr().err
    assert not (tmp_path / "set" / "set.json").exists()
    assert write([str(source), str(tmp_path / "set"), *bank, "--on_bad", "skip"]) == 1
    described = json.loads((tmp_path / "set" / "set.json").read_text())
    assert described["kind"] == "ocr" and described["bank_fingerprint"] == "words-1"
    assert described["shards"][0]["num_samples"] == 3


def test_made_files_are_reproducible_and_name_their_concepts(tmp_path: Path) -> None:
    for name in ("one", "two"):
        make_files(tmp_path / name, images=3, clips=2, size_px=16, clip_frames=4)
    one, two = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.*")}
        for name in ("one", "two")
    )
    assert one == two and len(one) == 6
    rows = [json.loads(line) for line in one[TRUTH].splitlines()]
    assert rows[1]["texture"] == "plain" and rows[1]["hue"] == "green"
    assert [row["motion"] for row in rows[3:]] == [0, 1]
    with pytest.raises(ValueError, match="new or an empty folder"):
        make_files(tmp_path / "one", images=1, clips=0)


def test_patches_come_from_an_asset_or_from_files_of_the_reference(tmp_path: Path) -> None:
    make_files(tmp_path / "made", images=0, clips=1, size_px=32, clip_frames=16)
    clips = tmp_path / "made" / "clips"
    config = AssetConfig(sequence_length=16, num_images=4, square_size=32, patch_size=8)
    asset = write_evaluation_asset(
        clips / "000000.mp4", key="000000", out_root=tmp_path / "made", config=config
    )
    rows = asset.positions.astype(np.int64) @ [16, 4, 1]
    np.save(clips / "000000.visidx.npy", np.sort(rows)[:40].astype(np.int16))
    line = {"video": "made/clips/000000.mp4", "key": "000000", "labels": [0]}
    (tmp_path / "list.jsonl").write_text(json.dumps(line))
    sizes = ["--patch_size", "8", "--size_px", "32", "--clip_frames", "16", "--num_frames", "4"]
    options = ["--kind", "video", "--num_centres", "1", "--bank", "none", *sizes]
    view = VideoView(patch_size=8, size_px=32, clip_frames=16, num_frames=4, split=VideoSplit(1, 0))
    places = {"--asset_folder": tmp_path / "made" / "assets", "--index_folder": clips}
    for (flag, place), count in zip(places.items(), (64, 40), strict=True):
        folder = tmp_path / flag.strip("-")
        assert write([str(tmp_path / "list.jsonl"), str(folder), *options, flag, str(place)]) == 0
        (batch,) = open_set(folder, view=view, batch_size=1, num_epochs=1).batches()
        assert (batch.positions.numpy() @ [16, 4, 1]).tolist() == np.sort(rows)[:count].tolist()
    with pytest.raises(SystemExit) as caught:
        other = [*options, "--clip_frames", "8", "--num_frames", "4"]
        place = str(places["--asset_folder"])
        write([str(tmp_path / "list.jsonl"), str(tmp_path / "c"), *other, "--asset_folder", place])
    assert caught.value.code == 1


def test_a_stopped_set_continues_after_its_last_shard(tmp_path: Path) -> None:
    names = "abcde"
    for place in ("source", "copy"):
        (tmp_path / place).mkdir()
        for number, name in enumerate(names):
            pixels = np.full((8, 8, 3), 40 * number, np.uint8)
            (tmp_path / place / f"{name}.jpg").write_bytes(jpeg(pixels))
        lines = [json.dumps({"image": f"{place}/{name}.jpg", "key": name, "labels": [0]})
                 for name in names]  # fmt: skip
        (tmp_path / f"{place}.jsonl").write_text("\n".join(lines))
    options = ["--num_centres", "1", "--bank", "none", "--samples_per_shard", "2"]
    whole, folder = tmp_path / "whole", tmp_path / "set"
    assert write([str(tmp_path / "copy.jsonl"), str(whole), *options]) == 0
    source = str(tmp_path / "source.jsonl")
    good = (tmp_path / "source" / "d.jpg").read_bytes()
    (tmp_path / "source" / "d.jpg").write_bytes(b"broken")
    for more, code in (([], 1), (["--on_bad", "skip"], 2)):
        with pytest.raises(SystemExit) as stopped:
            write([source, str(folder), *options, *more])
        assert stopped.value.code == code and not (folder / "set.json").exists()
    (tmp_path / "source" / "d.jpg").write_bytes(good)
    # What a finished shard holds is not read again.
    (tmp_path / "source" / "a.jpg").write_bytes(b"broken")
    assert write([source, str(folder), *options]) == 0
    for path in whole.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert {path.name for path in folder.iterdir()} == {path.name for path in whole.iterdir()}
