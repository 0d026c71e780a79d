"""One name per meaning, with help, in all commands."""

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from cv_reader.commands import (
    compare,
    extract,
    index,
    precompute,
    score,
    stage1,
    stage2,
    stats,
    stream,
    validate,
    visualize,
)
from cv_reader.commands.arguments import config_from, read_options_from, with_threads
from cv_reader.errors import SettingsError
from cv_reader.select.config import AssetConfig

PARSERS = {
    module.__name__.rpartition(".")[2]: module._parser
    for module in (
        *(compare, extract, index, precompute, score, stage1, stage2, stats, stream, validate),
        visualize,
    )
} | {"both": stage2._parser_of_both}
ALIASES = {
    "--dataset_path": ("--input_dataset", "--jsonl"),
    "--sequence_length": ("--seq_len_frames", "--T"),
    "--num_images": ("--keep_frames_equiv",),
    "--patch_size": ("--patch",),
    "--write_positions": ("--include_positions",),
    "--skip_missing": ("--skip_missing_packs",),
}


def _actions(name: str) -> list[argparse.Action]:
    return [a for a in PARSERS[name]()._actions if a.option_strings or a.dest != "help"]


@pytest.mark.parametrize("name", PARSERS)
def test_every_flag_has_help(name: str) -> None:
    silent = [a.option_strings or a.dest for a in _actions(name) if not a.help]
    assert not silent


@pytest.mark.parametrize("typo", ["--patchsize", "--patch-size"])
def test_a_wrong_flag_ends_with_one_line_that_names_the_right_one(
    typo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        PARSERS["visualize"]().parse_args(["a.mp4", "-o", "a.png", typo, "14"])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert f"unrecognized arguments: {typo} 14; did you mean --patch_size?" in line
    assert "cv_reader visualize --help" in line


def test_refused_flags_alone_are_hidden() -> None:
    hidden = {
        flag
        for name in PARSERS
        for action in _actions(name)
        if action.help == argparse.SUPPRESS
        for flag in action.option_strings
    }
    assert hidden == {
        "--res_use_grad", "--unsupported_txt", "--export_patches", "--chunksize",
        "--opencv_threads", "--mean_num_images",
        *("--max_tries", "--trust_ledger", "--num_shards", "--shard_id", "--dry_run"),  # of index
    }  # fmt: skip


def test_one_meaning_has_one_name_in_all_commands() -> None:
    for name in PARSERS:
        for action in _actions(name):
            known = [flag for flag in action.option_strings if flag in ALIASES]
            old = [f for f in action.option_strings for a in ALIASES.values() if f in a]
            assert not old or known, f"{name}: {old}"
            for flag in known:
                assert set(ALIASES[flag]) <= set(action.option_strings)
                assert action.dest == flag.removeprefix("--")


@pytest.mark.parametrize(("name", "required"), [
    ("stage1", []),
    ("stage2", ["--out_jsonl", "t.jsonl", "--out_image_root", "i"]),
    ("precompute", ["--out_root", "o"]),
])  # fmt: skip
def test_old_names_mean_the_same(name: str, required: list[Any]) -> None:
    parser = PARSERS[name]()
    new = ["--dataset_path", "d", "--sequence_length", "9", "--num_images", "3"]
    expected = parser.parse_args([*required, *new, "--patch_size", "8"])
    for data in ("--input_dataset", "--jsonl"):
        for length in ("--seq_len_frames", "--T"):
            old = [data, "d", length, "9", "--keep_frames_equiv", "3", "--patch", "8"]
            assert parser.parse_args([*required, *old]) == expected
    assert expected.dataset_path == Path("d")


CHANGED = AssetConfig(
    sequence_length=32,
    num_images=4,
    square_size=288,
    patch_size=8,
    frames="bitcost",
    sample_start_offset=2,
    window_len=40,
    window_pick="mid",
    padding_policy="repeat",
    keep_first_full_frame=False,
    keep_uniform_first=True,
    keep_mid_full_frame=True,
    mid_full_frame_index=5,
    select="rate_distortion",
    block_cells=2,
    distortion="mean",
    direction="hold",
    predict="still",
    quality_db=31.5,
    topk_mode="time_bucket",
    time_bucket_count=3,
    signal="mv",
    mv_compensate="none",
    mv_pct=90,
    res_pct=91,
    w_mv=2,
    w_res=0.5,
    order="zigzag",
    jpg_quality=80,
    hdr="raw",
)


@pytest.mark.parametrize(
    "config", [AssetConfig(), CHANGED, AssetConfig(select="rate_distortion", token_price=0.25)]
)
def test_settings_come_back_from_their_flags_and_from_their_text(config: AssetConfig) -> None:
    parser = precompute._parser()
    required = ["--jsonl", "d", "--out_root", "o"]
    assert config_from(parser.parse_args([*required, *config.to_flags()])) == config
    texts = {name: str(value) for name, value in config.to_dict().items()}
    assert AssetConfig(**{n: AssetConfig.parse(n, text) for n, text in texts.items()}) == config


def test_every_setting_but_one_of_two_that_exclude_each_other_was_changed() -> None:
    same = {f.name for f in fields(AssetConfig) if getattr(CHANGED, f.name) == f.default}
    assert same == {"token_price"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("jpg_quality", "best", "jpg_quality must be a whole number, got 'best'"),
        ("quality_db", "x", "quality_db must be a number"),
        ("keep_uniform_first", "2", "must be 1 or 0"),
        ("qualty", "2", "qualty is no setting; accepted are sequence_length"),
    ],
)
def test_text_that_is_no_value_is_named(name: str, text: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        AssetConfig.parse(name, text)


@pytest.mark.parametrize(
    ("flags", "num_videos", "expected"),
    [
        ("--num_workers 8", 1, 4),
        ("--num_workers 8", 2, 2),
        ("--num_workers 8", 3, 1),
        ("--num_workers 8", 1000, 1),
        ("--num_workers 2", 1, 2),
        ("--num_workers 1", 1, 1),
        ("--num_workers 1 --num_threads 3", 1000, 3),
        ("--num_workers 8", 0, 4),
    ],
)
def test_few_videos_get_the_cores_that_workers_leave_free(
    flags: str, num_videos: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    required = ["--jsonl", "x", "--out_root", "x"]
    args = PARSERS["precompute"]().parse_args([*required, *flags.split()])
    assert with_threads(read_options_from(args), args, num_videos).num_threads == expected


def test_a_negative_number_of_threads_is_refused() -> None:
    required = ["--jsonl", "x", "--out_root", "x", "--num_threads", "-1"]
    with pytest.raises(SettingsError, match="--num_threads must be at least 0"):
        read_options_from(PARSERS["precompute"]().parse_args(required))


@pytest.mark.parametrize(
    "flag",
    ["--num_workers", "--timeout_seconds", "--memory_limit_mib", "--max_samples", "--max_tries"],
)
def test_numbers_below_0_are_refused_before_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    data = tmp_path / "v.jsonl"
    data.write_text('{"video": "clip.mp4"}\n')
    arguments = ["--jsonl", str(data), "--out_root", str(tmp_path / "out"), flag, "-1"]
    assert precompute.main(arguments) == 2
    assert f"{flag} must be at least 0, got -1" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
