"""Probes from clips to the result, on made clips and a tiny encoder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from encoder_training.probe import __main__ as command
from encoder_training.probe import clips, features
from encoder_training.probe.__main__ import main
from encoder_training.probe.clips import ClipInput, ClipPixels, ClipView, read_view
from encoder_training.probe.state import load_head
from support.pretrain_runs import flags
from support.probe_runs import make_clips, make_encoder, probe_settings, score_on_rank
from support.process_group import on_ranks


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    make_clips(folder)
    make_encoder(folder / "encoder")
    return folder


def _run(settings: dict[str, Any], code: int = 0) -> dict[str, Any]:
    assert main(flags(settings)) == code
    path = Path(settings["output_dir"]) / "probe.json"
    return json.loads(path.read_text(encoding="utf-8"))


def _rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def finished(material: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return _run(probe_settings(material, tmp_path_factory.mktemp("run") / "cached"))


def test_a_probe_learns_what_clips_look_like(finished: dict[str, Any]) -> None:
    assert finished["score"]["num_clips"] == 7
    assert finished["score"]["top1"] > 80
    assert finished["cost"]["tokens_per_clip"] == 16
    folder = Path(finished["settings"]["output_dir"])
    rows = _rows(folder)
    assert [row["video"] for row in rows] == [f"class{n % 3}/val{n:03d}.mp4" for n in range(7)]
    hits = sum(row["classes"][0] in row["labels"] for row in rows)
    assert finished["score"]["top1"] == 100 * hits / 7
    assert "Hardest classes" in (folder / "report.html").read_text(encoding="utf-8")
    assert load_head(folder / "head.safetensors").shape.num_classes == 3


@pytest.mark.slow
def test_streamed_features_equal_cached_ones(
    material: Path, tmp_path: Path, finished: dict[str, Any]
) -> None:
    streamed = _run(probe_settings(material, tmp_path / "run", features="streamed"))
    for name in ("score", "history", "chosen", "per_class"):
        assert streamed[name] == finished[name]


@pytest.mark.slow
def test_permuted_labels_fall_to_chance(material: Path, tmp_path: Path) -> None:
    found = []
    for seed in range(4):
        settings = probe_settings(
            material,
            tmp_path / str(seed),
            shuffle_labels=True,
            seed=seed,
            feature_dir=str(tmp_path / "features"),
        )
        found.append(_run(settings)["score"]["top1"])
    assert sum(found) / 4 < 60


@pytest.mark.slow
def test_a_stopped_probe_continues_to_the_same_result(
    material: Path, tmp_path: Path, finished: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = probe_settings(material, tmp_path / "run", save_steps=2)
    save, saved = command.save_checkpoint, []

    def stop_in_epoch_three(*arguments: Any) -> None:
        save(*arguments)
        saved.append(arguments)
        if len(saved) == 8:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "save_checkpoint", stop_in_epoch_three)
        assert main(flags(settings)) == 130
    assert not (tmp_path / "run" / "probe.json").exists()
    continued = _run(settings)
    assert continued["cost"]["encoded_clips"] == 0
    for name in ("score", "history", "chosen"):
        assert continued[name] == finished[name]
    with pytest.raises(SystemExit) as failure:
        main(flags(settings | {"label_smoothing": 0.2}))
    assert failure.value.code == 2


@pytest.mark.slow
def test_a_broken_clip_is_named_and_counted(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "clips"
    shutil.copytree(material, folder)
    whole = (folder / "class1" / "val001.mp4").read_bytes()
    (folder / "class1" / "val001.mp4").write_bytes(whole[:300])
    (folder / "class0" / "train000.mp4").unlink()
    settings = probe_settings(
        folder, tmp_path / "run", save_report=str(tmp_path / "reports"), default_epoch=1
    )
    with pytest.raises(SystemExit) as failure:
        main(flags(settings))
    assert failure.value.code == 1
    message = capsys.readouterr().err
    assert "2 clips cannot be read" in message and "class0/train000.mp4: " in message
    skipped = _run(settings | {"on_broken": "skip"}, code=1)
    assert skipped["score"]["num_clips"] == 6
    assert sorted(skipped["broken"]) == ["class0/train000.mp4", "class1/val001.mp4"]
    line = (tmp_path / "reports" / "report_attentive_probe_encoder.txt").read_text()
    assert line == f"custom {skipped['score']['top1']}\n"
    # A repaired clip is encoded again, with its shard alone.
    (folder / "class1" / "val001.mp4").write_bytes(whole)
    shutil.copy(material / "class0" / "train000.mp4", folder / "class0")
    repaired = _run(
        settings
        | {"output_dir": str(tmp_path / "again"), "feature_dir": str(tmp_path / "run" / "features")}
    )
    assert repaired["score"]["num_clips"] == 7 and repaired["cost"]["encoded_clips"] == 8


@pytest.mark.slow
def test_any_number_of_ranks_gives_the_same_score(material: Path, tmp_path: Path) -> None:
    found = []
    for size in (1, 2, 3):
        settings = probe_settings(
            material, tmp_path / str(size), batch_size=6 // size, default_epoch=4,
            features="streamed" if size == 2 else "cached",
        )  # fmt: skip
        answers = on_ranks(score_on_rank, size, settings)
        for answer in answers[1:]:
            assert torch.equal(answer["predictions"], answers[0]["predictions"])
        found.append(answers[0])
    # Of the same head, every bit of every prediction; training adds gradients in another order.
    assert found[0]["indices"] == list(range(7))
    for other in found[1:]:
        assert other["indices"] == found[0]["indices"]
        assert torch.equal(other["predictions"], found[0]["predictions"])
        assert other["score"] == found[0]["score"]
        torch.testing.assert_close(torch.tensor(other["losses"]), torch.tensor(found[0]["losses"]))


@pytest.mark.slow
def test_the_repair_command_makes_the_index_that_the_run_asks_for(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = {"input": "codec:12", "num_frames": 16, "save_report": str(tmp_path)}
    codec["selection"] = ["signal=framediff"]
    with_index = codec | {"cache_dir": str(tmp_path)}
    settings = probe_settings(material, tmp_path / "indexed", **with_index)
    with pytest.raises(SystemExit) as failure:
        main(flags(settings))
    assert failure.value.code == 2
    message = capsys.readouterr().err
    assert f"{tmp_path / 'custom.jsonl'} does not exist; make it with" in message
    command_line = message.rpartition("make it with\n")[2].strip()
    command_line = command_line.replace(
        "cv_reader index", f"{sys.executable} -m cv_reader.commands.main index"
    )
    subprocess.run(f"{command_line} --num_workers 1", shell=True, check=True, cwd=tmp_path)
    indexed = _run(settings)
    computed = _run(probe_settings(material, tmp_path / "computed", **codec))
    assert indexed["history"] == computed["history"]
    assert indexed["cost"]["tokens_per_clip"] == 12
    again = _run(settings | {"output_dir": str(tmp_path / "again"),
                             "feature_dir": str(tmp_path / "indexed" / "features")})  # fmt: skip
    assert again["cost"]["encoded_clips"] == 0
    # Another choice for one clip: its shard of four clips is encoded again.
    path = tmp_path / "custom.jsonl"
    text = path.read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if "class0/train000.mp4" in line)
    content = json.loads(line)
    content["rows"] = [0] + [1] * 11
    path.write_text(text.replace(line, json.dumps(content)), encoding="utf-8")
    clips._open_index.cache_clear()
    changed = _run(settings | {"output_dir": str(tmp_path / "changed"),
                               "feature_dir": str(tmp_path / "indexed" / "features")})  # fmt: skip
    assert changed["cost"]["encoded_clips"] == 4
    lines = (tmp_path / "report_attentive_probe_encoder_12.txt").read_text().splitlines()
    assert lines[:2] == [f"custom {indexed['score']['top1']}"] * 2


@pytest.mark.slow
def test_several_labels_views_blocks_and_stored_views(material: Path, tmp_path: Path) -> None:
    folder = tmp_path / "charadesego"
    shutil.copytree(material, folder)
    for role in ("train", "val"):
        path = folder / f"{role}_new.csv"
        path.write_text(path.read_text().replace(",2", ",2;1"))
    settings = probe_settings(
        material, tmp_path / "run", dataset="charadesego", data_root=str(tmp_path), num_classes=3,
        train_list="", val_list="", video_root="", val_segments=2, val_crops=3, head_blocks=2,
        augmentation="reference", train_views=2, default_epoch=4,
    )  # fmt: skip
    result = _run({name: value for name, value in settings.items() if value != ""})
    assert result["score"]["mean_average_precision"] > 60
    assert result["cost"]["encoded_clips"] == 24 * 2 + 7 * 2 * 3
    assert [row["labels"] for row in _rows(tmp_path / "run")][2] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("num_blocks", [1, 4])
def test_segments_are_joined_for_heads_of_one_and_four_blocks(
    material: Path, tmp_path: Path, num_blocks: int
) -> None:
    found = []
    for kind in ("cached", "streamed"):
        settings = probe_settings(
            material, tmp_path / kind, input="frames:2", num_segments=3, val_crops=3,
            head_blocks=num_blocks, features=kind, default_epoch=2 if num_blocks > 1 else 6,
        )  # fmt: skip
        found.append(_run(settings))
    cached, streamed = found
    assert cached["cost"]["tokens_per_clip"] == streamed["cost"]["tokens_per_clip"] == 3 * 2 * 4
    assert cached["cost"]["encoded_clips"] == 3 * (24 + 7 * 3)
    for name in ("score", "history", "chosen"):
        assert cached[name] == streamed[name]
    assert num_blocks > 1 or cached["score"]["top1"] > 80


def _crash_at(path: Path, video: str, how: ClipInput, view: ClipView) -> ClipPixels:
    if video == "class1/val004.mp4":
        os._exit(3)
    return read_view(path, video, how, view)


@pytest.mark.slow
def test_a_clip_that_ends_its_process_is_named(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "read_view", _crash_at)  # reaches the forked readers
    settings = probe_settings(material, tmp_path / "run", num_workers=1, on_broken="skip")
    result = _run(settings, code=1)
    assert list(result["broken"]) == ["class1/val004.mp4"]
    assert "the decoder crashed" in result["broken"]["class1/val004.mp4"]
    assert result["score"]["num_clips"] == 6
