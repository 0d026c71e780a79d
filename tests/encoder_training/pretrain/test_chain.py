"""The whole way from files to a labelled shard set, through the commands."""

import json
from pathlib import Path

import numpy as np
import pytest

from encoder_training.pretrain.concepts.__main__ import main as concepts
from encoder_training.pretrain.concepts.bank import read_bank
from encoder_training.pretrain.concepts.features import open_features
from encoder_training.pretrain.data.images import ImageView
from encoder_training.pretrain.data.labels import read_labels
from encoder_training.pretrain.data.made import make_files
from encoder_training.pretrain.data.shard_set import open_set
from encoder_training.pretrain.data.videos import VideoSplit, VideoView
from encoder_training.pretrain.data.write import main as write


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_files(folder / "made", images=40, clips=5, size_px=32, clip_frames=16)
    return folder / "made"


def test_images_become_a_labelled_set(made: Path, tmp_path: Path) -> None:
    source, out = str(made / "images"), tmp_path
    features, bank, labels = str(out / "f"), str(out / "bank"), str(out / "labels")
    assert concepts(["features", source, features, "--rows_per_part", "16"]) == 0
    cluster = ["cluster", features, bank, "--centres", "12", "--iterations", "3"]
    assert concepts([*cluster, "--components", "20", "--whiten"]) == 0
    for share in ("1/2", "0/2"):
        assert not (out / "labels" / "labels.json").exists()
        command = ["label", features, bank, labels, "--count", "4", "--share", share]
        assert concepts(command) == 0
    page = out / "page.html"
    assert concepts(["report", features, bank, labels, str(page), "--source", source]) == 0
    shown = page.read_text()
    assert shown.count("data:image/jpeg") >= 6
    assert ">cluster<" in shown and ">iteration of k-means<" in shown and ">step<" not in shown
    assert write([source, str(out / "set"), "--labels", labels]) == 0

    images = open_set(out / "set", view=ImageView(size_px=28), batch_size=7, num_epochs=1)
    assert images.info.bank_fingerprint == read_bank(out / "bank").fingerprint
    assert (images.info.num_centres, images.info.labels_per_sample) == (12, 4)
    expected = dict(read_labels(out / "labels"))
    for batch in images.batches():
        for key, found in zip(batch.keys, batch.labels.tolist(), strict=True):
            assert found == expected[key].tolist()
    _check_labels(out, expected)


def _check_labels(out: Path, expected: dict[str, np.ndarray]) -> None:
    """Labels are the nearest centres, by a plain computation in float64."""
    bank, features = read_bank(out / "bank"), open_features(out / "f")
    assert bank.projection is not None
    rows = np.concatenate(features.parts).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows = (rows - bank.projection.mean) @ bank.projection.matrix
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    order = np.argsort(-(rows @ bank.centres.T.astype(np.float64)), axis=1)[:, :4]
    keys = [key for part in features.keys for key in part]
    same = [expected[key].tolist() == row.tolist() for key, row in zip(keys, order, strict=True)]
    assert np.mean(same) >= 0.95


def test_videos_become_a_set_with_codec_patches(made: Path, tmp_path: Path) -> None:
    features, bank, labels = str(tmp_path / "f"), str(tmp_path / "b"), str(tmp_path / "l")
    source = str(made / "clips")
    assert concepts(["features", source, features]) == 0
    assert concepts(["cluster", features, bank, "--centres", "3", "--iterations", "2"]) == 0
    assert concepts(["label", features, bank, labels, "--count", "2"]) == 0
    sizes = ["--patch_size", "8", "--size_px", "32", "--clip_frames", "16", "--num_frames", "4"]
    options = ["--kind", "video", "--labels", labels, *sizes, "--codec"]
    assert write([source, str(tmp_path / "set"), *options]) == 0
    assert write([source, str(tmp_path / "paths"), *options, "--video_paths"]) == 0
    view = VideoView(
        patch_size=8, size_px=32, clip_frames=16, num_frames=4, split=VideoSplit(0.4, 0.4)
    )
    for name in ("set", "paths"):
        videos = open_set(tmp_path / name, view=view, batch_size=5, num_epochs=1)
        (batch,) = videos.batches()
        assert batch.modes == ["codec", "codec", "chunk", "chunk", "collage"]
        assert batch.patches.shape == (5 * 64, 192)
        assert batch.cu_seqlens.tolist() == [0, 64, 128, 192, 256, 320]


def test_other_features_are_refused(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, features = str(made / "images"), str(tmp_path / "f")
    assert concepts(["features", source, features, "--rows_per_part", "16"]) == 0
    with pytest.raises(SystemExit) as caught:
        concepts(["features", source, features, "--rows_per_part", "20"])
    assert caught.value.code == 2
    assert "holds features with rows_per_part 16, got 20" in capsys.readouterr().err
    np.save(tmp_path / "other.npy", np.random.default_rng(0).normal(size=(30, 8)))
    array, bank = str(tmp_path / "other.npy"), str(tmp_path / "b")
    assert concepts(["cluster", array, bank, "--centres", "4"]) == 0
    with pytest.raises(SystemExit) as caught:
        concepts(["label", features, bank, str(tmp_path / "l"), "--count", "2"])
    assert caught.value.code == 2
    assert "of width 8, got" in capsys.readouterr().err


def test_a_stopped_extraction_continues(made: Path, tmp_path: Path) -> None:
    source, whole, parts = str(made / "images"), tmp_path / "whole", tmp_path / "parts"
    assert concepts(["features", source, str(whole), "--rows_per_part", "16"]) == 0
    for share in ("1/2", "0/2"):
        with pytest.raises(ValueError, match="lacks|must hold"):
            open_features(parts)
        arguments = ["features", source, str(parts), "--rows_per_part", "16", "--share", share]
        assert concepts(arguments) == 0
    stamp = (parts / "features-000001.npy").stat().st_mtime_ns
    (parts / "features-000002.npy").unlink()
    assert concepts(["features", source, str(parts), "--rows_per_part", "16"]) == 0
    assert (parts / "features-000001.npy").stat().st_mtime_ns == stamp
    for ours, theirs in zip(open_features(parts).parts, open_features(whole).parts, strict=True):
        assert np.array_equal(ours, theirs)


def test_bad_files_are_named_or_left_out(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [{"image": str(path)} for path in sorted((made / "images").glob("*.jpg"))[:9]]
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8 nothing")
    lines.insert(4, {"image": "bad.jpg"})
    source = tmp_path / "list.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    features, bank, labels = (str(tmp_path / name) for name in "fbl")
    with pytest.raises(SystemExit) as caught:
        concepts(["features", str(source), features])
    assert caught.value.code == 1 and "bad.jpg: cannot be decoded" in capsys.readouterr().err
    assert concepts(["features", str(source), features, "--on_bad", "skip"]) == 1
    assert concepts(["cluster", features, bank, "--centres", "3", "--iterations", "2"]) == 0
    assert concepts(["label", features, bank, labels, "--count", "2"]) == 0
    assert write([str(source), str(tmp_path / "set"), "--labels", labels]) == 0
    described = json.loads((tmp_path / "set" / "set.json").read_text())
    assert [shard["num_samples"] for shard in described["shards"]] == [9]
