"""``cv_reader validate`` on what the other commands made, whole and damaged."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cv_reader.assets.contract import file_facts
from cv_reader.assets.files import temporary_path, write_json
from cv_reader.commands import precompute, stage2, validate
from support.corpus import Corpus


@pytest.fixture(scope="module")
def made(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Evaluation assets, stage 1's files, training assets and their JSONL, of two videos."""
    root = tmp_path_factory.mktemp("made")
    shape = ["--square_size", "64", "--num_workers", "1"]
    names = ("short", "good")
    rows = [corpus.row(str(corpus.root / f"{name}.mp4")) for name in names]
    data = corpus.write(root / "data.json", *rows)
    assert stage2.main_of_both([
        "--dataset_path", str(data), "--visidx_root", str(root / "first"), *shape,
        "--out_image_root", str(root / "images"), "--out_jsonl", str(root / "train.jsonl"),
        "--keep_frames_equiv", "2", "--sequence_length", "8", "--write_positions",
        "--keep_first_full_frame",
    ]) == 0  # fmt: skip
    lines = corpus.write(root / "v.jsonl", *({"video": row["video"]} for row in rows))
    assert precompute.main([
        "--jsonl", str(lines), "--out_root", str(root / "eval"), *shape,
        "--num_images", "2", "--seq_len_frames", "8", "--order", "zigzag",
    ]) == 0  # fmt: skip
    return root


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    """A copy of the evaluation assets that a test may damage."""
    shutil.copytree(made / "eval", tmp_path / "eval")
    return tmp_path / "eval"


def _run(*args: Any) -> int:
    return validate.main([*map(str, args)])


@pytest.mark.parametrize("deep", [(), ("--deep",)])
def test_what_is_sound_passes(
    made: Path, deep: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert _run(made, *deep) == 0
    table = capsys.readouterr().out.splitlines()
    assert ["asset", "4", "0", "0"] in [line.split() for line in table]
    assert ["selection", "2", "0", "0"] in [line.split() for line in table]
    assert _run(made / "train.jsonl", *deep) == 0
    assert ["record", "2", "0", "0"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]


def _edit_array(name: str, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        array = np.load(folder / name)
        np.save(folder / name, change(array))

    return damage


def _edit_meta(**changes: Any) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        meta = json.loads((folder / "meta.json").read_text())
        write_json(folder / "meta.json", meta | changes)

    return damage


def _swap(rows: np.ndarray) -> np.ndarray:
    rows = rows.copy()
    rows[[20, 21]] = rows[[21, 20]]
    return rows


def _repeat(rows: np.ndarray) -> np.ndarray:
    rows = rows.copy()
    rows[-1] = rows[-2]
    return rows


def _cut_picture(folder: Path) -> None:
    path = folder / "mosaic_001.jpg"
    path.write_bytes(path.read_bytes()[:400])


@pytest.mark.parametrize(
    ("damage", "state", "reason"),
    [
        (_edit_array("positions_thw.npy", _swap), "broken", "recorded order"),
        (_edit_array("positions_thw.npy", _repeat), "broken", "appear twice"),
        (_edit_array("frame_ids.npy", lambda ids: ids[::-1].copy()), "broken", "never decrease"),
        (_edit_array("visible_indices.npy", lambda v: v + 1), "broken", "visible_indices.npy"),
        (_edit_meta(fingerprint="0" * 16), "stale", "fingerprint 0000"),
        (_edit_meta(padding_patch_filtered=99), "broken", "padding cells"),
        (_edit_meta(key="another"), "broken", "must be the name of the folder"),
        (_edit_meta(num_frames=3), "broken", r"be in [0, 2]"),
        (lambda folder: (folder / "meta.json").write_text("{}"), "broken", "schema_version"),
    ],
)
def test_what_breaks_the_contract_is_told(
    copy: Path,
    damage: Callable[..., object],
    state: str,
    reason: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    folder = copy / "assets" / "good"
    damage(folder)
    if (meta := json.loads((folder / "meta.json").read_text())).get("files"):
        write_json(folder / "meta.json", meta | {"files": file_facts(folder)})
    assert _run(copy, "--report", tmp_path / "report.jsonl") == 1
    shown = capsys.readouterr()
    assert reason in shown.err
    counts = {"stale": ["1", "1", "0"], "broken": ["1", "0", "1"]}[state]
    assert ["asset", *counts] in [line.split() for line in shown.out.splitlines()]
    (problem,) = map(json.loads, (tmp_path / "report.jsonl").read_text().splitlines())
    assert (problem["state"], problem["where"]) == (state, str(folder))


def test_only_a_deep_look_finds_what_keeps_its_size(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / "assets" / "good" / "mosaic_000.jpg"
    content = bytearray(path.read_bytes())
    content[-20] ^= 0xFF
    path.write_bytes(content)
    assert _run(copy) == 0
    assert _run(copy, "--deep") == 1
    assert "SHA-256" in capsys.readouterr().err


def test_a_deep_look_finds_a_changed_or_missing_source(
    corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(corpus.root, videos)
    line = corpus.write(tmp_path / "v.jsonl", {"video": "good.mp4"})
    args = ["--jsonl", line, "--out_root", tmp_path / "out", "--video_root", videos]
    shape = ["--square_size", "64", "--num_images", "2", "--seq_len_frames", "8"]
    assert precompute.main([*map(str, args), *shape]) == 0
    deep = [tmp_path / "out", "--deep", "--video_root", videos]
    assert _run(*deep) == 0
    shutil.copy(videos / "short.mp4", videos / "good.mp4")
    assert _run(*deep) == 1
    assert "is another file now" in capsys.readouterr().err
    (videos / "good.mp4").unlink()
    assert _run(*deep) == 1
    assert "is missing" in capsys.readouterr().err


def test_lines_are_held_against_their_files(
    made: Path, corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound, other = map(json.loads, (made / "train.jsonl").read_text().splitlines())
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A."}]
    picture = {"id": "p", "image": str(tmp_path / "a.png"), "conversations": turns}
    rows = [
        sound,
        picture,
        {"id": "text", "conversations": [{"from": "human", "value": "Hi"}]},
        {**sound, "image": sound["image"][::-1]},
        {**sound, "image": sound["image"][:1]},
        {**sound, "positions_thw": other["positions_thw"]},
        {**picture, "image": "missing.png"},
        "{broken",
    ]
    assert _run(corpus.write(tmp_path / "d.jsonl", *rows)) == 1
    shown = capsys.readouterr()
    assert ["record", "3", "0", "5"] in [line.split() for line in shown.out.splitlines()]
    for reason in ("not those of", "2 <image> and 0 <video> in its human turns", "no such file"):
        assert reason in shown.err


def test_leftovers_are_told(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copy / "assets" / f".tmp-{'0' * 32}").mkdir()
    assert _run(copy) == 1
    assert "a killed run left it" in capsys.readouterr().err


def test_nothing_to_check_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(tmp_path) == 2
    assert _run(tmp_path / "missing") == 2
    assert "no asset" in capsys.readouterr().err


def test_folders_that_lack_their_metadata_are_told(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copy / "assets" / "good" / "meta.json").unlink()
    (copy / "assets" / "empty").mkdir()
    assert _run(copy) == 1
    shown = capsys.readouterr()
    assert ["asset", "1", "0", "2"] in [line.split() for line in shown.out.splitlines()]
    assert f"{copy / 'assets' / 'good' / 'meta.json'}: cannot be read" in shown.err
    for folder in (copy / "assets").iterdir():
        (folder / "meta.json").unlink(missing_ok=True)
    assert _run(copy) == 1


def test_selections_that_lack_their_metadata_are_told(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(made / "first", tmp_path / "first")
    next((tmp_path / "first").glob("*good*.meta.json")).unlink()
    assert _run(tmp_path / "first") == 1
    assert ["selection", "1", "0", "1"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]


def test_links_are_followed_once(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "linked"
    root.mkdir()
    for name in ("good", "short"):
        (root / name).symlink_to(copy / "assets" / name)
    (root / "loop").symlink_to(root)
    (copy / "assets" / "good" / "mosaic_000.jpg").write_bytes(b"damaged")
    assert _run(root) == 1
    assert ["asset", "1", "0", "1"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]


def test_leftovers_of_other_machines_have_another_remedy(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    temporary_path(copy / "assets").mkdir()
    (copy / "assets" / f".tmp-{'0' * 8}-{'0' * 8}-{'0' * 32}").mkdir()
    assert _run(copy) == 1
    shown = capsys.readouterr().err
    assert "run the same command again" in shown
    assert "remove it once no run is at work" in shown
