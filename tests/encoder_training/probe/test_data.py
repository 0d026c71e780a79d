"""Lists, labels, scores, settings and the codec index of a probe."""

import itertools
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cv_reader.codec_index import CodecIndex, IndexEntry, IndexHeader, index_line, write_index
from encoder_training.probe.clips import ClipView, check_index, read_view
from encoder_training.probe.datasets import (
    BENCHMARKS,
    ClipList,
    check_label_order,
    data_folder,
    find_data_set,
    number_of_classes,
    read_clips,
)
from encoder_training.probe.encoders import load_encoder
from encoder_training.probe.report import ProbeRun, paired_change, probe_page, wilson
from encoder_training.probe.scores import (
    confusion,
    mean_average_precision,
    per_class,
    score_clips,
)
from encoder_training.probe.settings import ProbeSettings
from encoder_training.probe.state import append_report
from encoder_training.probe.training import split_for_choice
from support.probe_runs import make_clips, make_encoder


def _list(folder: Path, name: str, lines: list[str]) -> ClipList:
    (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return read_clips(folder / name, folder)


def _settings(**changes: Any) -> ProbeSettings:
    values: dict[str, Any] = {"dataset": "ssv2", "output_dir": "-", "model_weight": "-", **changes}
    return ProbeSettings(**values)


def test_the_table_holds_the_published_recipes(tmp_path: Path) -> None:
    assert [find_data_set(name).num_classes for name in BENCHMARKS] == [
        174, 48, 63, 157, 97, 300, 400, 51,
    ]  # fmt: skip
    thirty = [name for name in BENCHMARKS if find_data_set(name).epochs == 30]
    assert thirty == ["diving48", "perception_test", "hmdb51"]
    assert find_data_set("kinetics400").name == "k400"
    assert find_data_set("charadesego").has_several_labels
    with pytest.raises(ValueError, match="--dataset must be one of ssv2, .*got 'kinetics'"):
        find_data_set("kinetics")
    (tmp_path / "ssv2_hevc").mkdir()
    ssv2 = find_data_set("ssv2")
    assert data_folder(ssv2, tmp_path, is_codec=True).name == "ssv2_hevc"
    assert data_folder(ssv2, tmp_path, is_codec=False).name == "ssv2"


def test_the_dialects_of_lists_are_told_apart(tmp_path: Path) -> None:
    for name, line in (("comma", "a b.mp4,3"), ("space", "a.mp4 3"), ("colons", "a b.mp4::3")):
        part = _list(tmp_path, name, [line, line.replace("a", "c", 1)])
        assert (part.dialect, part.clips[1].labels) == (name, (3,))
    with pytest.raises(ValueError, match=r"bad:1: '\.\./a\.mp4' must be relative"):
        _list(tmp_path, "bad", ["../a.mp4,1"])
    part = _list(tmp_path, "labels", ["a.mp4,0", "b.mp4,51"])
    with pytest.raises(ValueError, match="labels:2: label 51 must be below the 51 classes"):
        number_of_classes(find_data_set("hmdb51"), [part], 0)


def test_lists_of_another_class_order_are_noticed(tmp_path: Path) -> None:
    train = _list(tmp_path, "train", ["run/1.mp4,0", "jump/1.mp4,1", "run/2.mp4,0"])
    same = _list(tmp_path, "same", ["run/8.mp4,0", "jump/9.mp4,1"])
    other = _list(tmp_path, "other", ["run/8.mp4,1", "jump/9.mp4,0"])
    flat = _list(tmp_path, "flat", ["8.mp4,1", "9.mp4,0"])
    good = check_label_order(train, same, ["running", "jumping"])
    assert not good.is_contrary
    assert "     0 running: run/1.mp4 | run/8.mp4" in good.lines
    bad = check_label_order(train, other, [])
    assert bad.is_contrary and "jump is 1 and 0" in bad.lines[-1]
    assert not check_label_order(train, flat, []).is_contrary


def test_scores_against_counting_by_hand() -> None:
    random = np.random.default_rng(0)
    predictions = torch.from_numpy(random.random((40, 7)).round(1).astype(np.float32))
    labels = torch.from_numpy(random.random((40, 7)) < 0.3)
    labels[torch.arange(40), torch.arange(40) % 7] = True
    found = score_clips(predictions, labels, has_several_labels=True)
    top1 = top5 = 0
    for row in range(40):
        order = np.argsort(-predictions[row].numpy(), kind="stable").tolist()
        top1 += bool(labels[row, order[0]])
        top5 += any(bool(labels[row, label]) for label in order[:5])
    assert (found.top1, found.top5, found.num_clips) == (100 * top1 / 40, 100 * top5 / 40, 40)
    precisions = []
    for label in range(7):
        own = [row for row in range(40) if labels[row, label]]
        shares = []
        for row in own:
            at_least = [r for r in range(40) if predictions[r, label] >= predictions[row, label]]
            shares.append(sum(bool(labels[r, label]) for r in at_least) / len(at_least))
        precisions.append(sum(shares) / len(own))
    assert found.mean_average_precision == pytest.approx(100 * sum(precisions) / 7)
    perfect = mean_average_precision(labels.numpy().astype(float), labels.numpy())
    assert perfect == 1


def test_confusion_and_classes_count_each_clip_once() -> None:
    predictions = torch.eye(3)[[0, 1, 2, 2, 0]]
    labels = torch.eye(3, dtype=torch.bool)[[0, 1, 1, 2, 2]]
    assert confusion(predictions, labels).tolist() == [[1, 0, 0], [0, 1, 1], [1, 0, 1]]
    assert per_class(predictions, labels) == [(1, 1), (1, 2), (1, 2)]


def test_clips_to_choose_by_come_from_every_class() -> None:
    labels = torch.eye(4, dtype=torch.bool)[[0] * 20 + [1] * 10 + [2] * 3 + [3]]
    train, choice = split_for_choice(labels, 0.2, seed=1)
    assert sorted(train + choice) == list(range(34))
    counts = labels[choice].sum(0).tolist()
    assert counts == [4, 2, 1, 0]
    assert split_for_choice(labels, 0.2, seed=1)[1] == choice
    assert split_for_choice(labels, 0.2, seed=2)[1] != choice
    assert split_for_choice(labels, 0.0, seed=1)[1] == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"K_keep": 2048, "input": "frames:8"}, "must be codec:K"),
        ({"K_keep": 2048, "input": "codec:4096"}, "must fit --K_keep"),
        ({"input": "codec"}, "--input must be frames:F"),
        ({"frames_token_num": 200}, "--frames_token_num must be a square number"),
        ({"default_lr_list": [1e-3, 1e-4], "choice_share": 0.0}, "above 0 with several probes"),
        ({"augmentation": "reference"}, "none with one cached view"),
        ({"input": "codec:2048", "val_crops": 3}, "--val_crops must be 1"),
        ({"val_segments": 2, "num_segments": 2}, "--val_segments must be 1 with --num_segments"),
        ({"num_segments": 0}, "--num_segments must be at least 1"),
        ({"K_keep": 8, "cache_dir": "x", "num_segments": 2}, "and 2 segments"),
        ({"val_crops": 2}, "--val_crops must be 1 or 3"),
        ({"cache_dir": "x"}, "--cache_dir must be left out"),
        ({"selection": ["signal=bits"]}, "--selection is of codec input"),
        ({"dataset": "custom"}, "--train_list must be given"),
        ({"schedule": "step"}, "--schedule must be one of linear"),
        ({"default_lr_list": [0.0]}, "--default_lr_list must be at least one rate above 0"),
    ],
)  # fmt: skip
def test_values_that_cannot_work_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _settings(**changes)


def test_published_flags_mean_what_they_say() -> None:
    frames = _settings(num_frames=8, model_family="chunk_wise_sampling")
    assert (frames.input, frames.default_epoch, frames.batch_size) == ("frames:8", 10, 4)
    codec = _settings(model_family="ov_encoder_codec", num_frames=64, K_keep=4096)
    assert codec.input == "codec:4096"
    assert _settings(default_lr_list=[1.0, 2.0], default_weight_decay=[0.0, 0.1]).probes() == [
        (1.0, 0.0), (1.0, 0.1), (2.0, 0.0), (2.0, 0.1),
    ]  # fmt: skip


def test_the_index_decides_and_stops_the_run_where_it_is_stale(tmp_path: Path) -> None:
    make_clips(tmp_path, train=2, val=1)
    make_encoder(tmp_path / "encoder")
    device = torch.device("cpu")
    encoder = load_encoder(str(tmp_path / "encoder"), dtype=torch.float32, device=device)
    settings = _settings(K_keep=8, num_frames=16, frames_token_num=4)
    videos = ["class0/train000.mp4", "class1/train001.mp4"]
    path = tmp_path / "index.jsonl"
    how = settings.clip_input(encoder, str(path))
    assert how.config is not None
    header = IndexHeader(how.config, 8)
    rows = np.array(list(itertools.product(range(3, 11), [1], [0])), np.int32)

    def line(video: str) -> bytes:
        status = (tmp_path / video).stat()
        source = {"size_bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
        frame_ids = np.arange(16, dtype=np.int32)
        return index_line(IndexEntry(video, source, "native", 16, frame_ids, rows), 2)

    write_index(path, header, [line(videos[0])])
    clip = read_view(tmp_path / videos[0], videos[0], how, ClipView())
    assert clip.positions.tolist() == rows.tolist()
    with pytest.raises(ValueError, match="lacks 1 of 2 videos(.|\n)*cv_reader index again"):
        check_index(str(path), videos, tmp_path, how, "cv_reader index again")
    write_index(path, header, map(line, videos))
    index = CodecIndex(path)
    assert len(index) == 2
    index.close()
    os.utime(tmp_path / videos[1], ns=(1, 1))
    (tmp_path / videos[1]).write_bytes(b"another")
    with pytest.raises(ValueError, match="and 1 have changed"):
        check_index(str(path), videos, tmp_path, how, "-")
    bits = replace(how, config=replace(how.config, signal="bits"))
    with pytest.raises(ValueError, match="another selection than --selection"):
        check_index(str(path), [], tmp_path, bits, "-", is_selection_given=True)
    assert check_index(str(path), [], tmp_path, bits, "-") == how.config
    wider = _settings(K_keep=12, num_frames=16, frames_token_num=4).clip_input(encoder, str(path))
    with pytest.raises(ValueError, match="has 8 cells kept, this run needs 12"):
        check_index(str(path), videos, tmp_path, wider, "-")


def test_the_report_line_is_the_published_one(tmp_path: Path) -> None:
    for top1 in (58.4, 58.5):
        path = append_report(tmp_path, "models/large/", "ssv2", top1, 2048)
    assert path.name == "report_attentive_probe_large_2048.txt"
    assert path.read_text() == "ssv2 58.4\nssv2 58.5\n"


def _result(name: str, kind: str, hits: list[bool]) -> ProbeRun:
    count = sum(hits)
    return ProbeRun(
        name,
        {
            "score": {"top1": 100 * count / 4, "top5": 100.0, "mean_average_precision": None,
                      "num_clips": 4},
            "settings": {"dataset": "custom", "input": kind, "selection": []},
            "encoder": {"name": "<tiny>"},
            "cost": {"tokens_per_clip": 8.0, "encoded_tokens": 32, "device_hours": 0.1,
                     "seconds": {"encoding": 1.0, "training": 2.0}},
            "history": [{"step": 1, "loss": [1.5], "choice": [50.0], "diverged": [False]}],
            "probes": [{"rate": 1e-4, "decay": 0.0}],
            "chosen": {"rate": 1e-4, "decay": 0.0, "probe": 0, "epoch": 1, "score": 50.0},
            "classes": ["<one>", "two"], "per_class": [[count, 2], [0, 2]],
            "confusion": [[1, 1], [2, 0]], "broken": {"lost.mp4": "no <video>"},
        },
        {str(number): hit for number, hit in enumerate(hits)},
    )  # fmt: skip


def test_the_page_compares_clip_by_clip() -> None:
    frames = _result("frames", "frames:8", [True, False, False, False])
    codec = _result("codec", "codec:8", [True, True, False, False])
    assert paired_change(frames, codec) == pytest.approx((25.0, -24.0, 74.0), abs=0.05)
    low, high = wilson(5, 10)
    assert (low, high) == pytest.approx((23.66, 76.34), abs=0.01)
    text = probe_page([frames, codec])
    for part in (
        "codec against frames",
        "+50.0",
        "&lt;one&gt;",
        "no &lt;video&gt;",
        "&lt;tiny&gt;",
    ):
        assert part in text
    assert "<video>" not in text and "<one>" not in text
