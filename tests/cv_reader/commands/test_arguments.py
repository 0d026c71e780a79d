"""One name per meaning, with help, in all commands."""

import argparse
from pathlib import Path

import pytest

from cv_reader.commands import (
    both,
    compare,
    extract,
    precompute,
    stage1,
    stage2,
    stats,
    validate,
    visualize,
)

COMMANDS = {
    module.__name__.rpartition(".")[2]: module
    for module in (both, compare, extract, precompute, stage1, stage2, stats, validate, visualize)
}
ALIASES = {
    "--dataset_path": ("--input_dataset", "--jsonl"),
    "--sequence_length": ("--seq_len_frames", "--T"),
    "--num_images": ("--keep_frames_equiv",),
    "--patch_size": ("--patch",),
    "--write_positions": ("--include_positions",),
    "--skip_missing": ("--skip_missing_packs",),
}


def _actions(name):
    return [a for a in COMMANDS[name]._parser()._actions if a.option_strings or a.dest != "help"]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_has_help(name):
    silent = [a.option_strings or a.dest for a in _actions(name) if not a.help]
    assert not silent


def test_refused_flags_alone_are_hidden():
    hidden = {
        flag
        for name in COMMANDS
        for action in _actions(name)
        if action.help == argparse.SUPPRESS
        for flag in action.option_strings
    }
    assert hidden == {
        "--res_use_grad", "--unsupported_txt", "--export_patches", "--chunksize",
        "--opencv_threads",
    }  # fmt: skip


def test_one_meaning_has_one_name_in_all_commands():
    for name in COMMANDS:
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
def test_old_names_mean_the_same(name, required):
    parser = COMMANDS[name]._parser()
    new = ["--dataset_path", "d", "--sequence_length", "9", "--num_images", "3"]
    expected = parser.parse_args([*required, *new, "--patch_size", "8"])
    for data in ("--input_dataset", "--jsonl"):
        for length in ("--seq_len_frames", "--T"):
            old = [data, "d", length, "9", "--keep_frames_equiv", "3", "--patch", "8"]
            assert parser.parse_args([*required, *old]) == expected
    assert expected.dataset_path == Path("d")
