from pathlib import Path
from typing import Any

import pytest

from run_kit import checkpoints as checkpoint_module
from run_kit.checkpoints import (
    checkpoints,
    discard_unfinished,
    find_checkpoint,
    mark_complete,
    publish_checkpoint,
)


def _tiny_run(folder: Path, *, complete: tuple[int, ...], incomplete: tuple[int, ...] = ()) -> Path:
    for step in complete + incomplete:
        (folder / f"checkpoint-{step}").mkdir(parents=True)
    for step in complete:
        mark_complete(folder / f"checkpoint-{step}", step)
    return folder


def test_checkpoints_are_ordered_by_step_not_by_name(tmp_path: Path) -> None:
    run = _tiny_run(tmp_path, complete=(9, 10, 100))
    (run / "checkpoint-best").mkdir()
    (run / "checkpoint-7").write_text("a file")
    assert [folder.name for folder in checkpoints(run)] == [
        "checkpoint-9",
        "checkpoint-10",
        "checkpoint-100",
    ]


def test_auto_finds_the_newest_complete_one(tmp_path: Path) -> None:
    run = _tiny_run(tmp_path, complete=(2, 10), incomplete=(11, 12))
    assert find_checkpoint(run, "auto") == run / "checkpoint-10"


def test_auto_starts_anew_where_none_is_complete(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "absent", "auto") is None
    assert find_checkpoint(_tiny_run(tmp_path, complete=(), incomplete=(3,)), "auto") is None


def test_a_new_run_does_not_mix_with_an_old_one(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path, None) is None
    run = _tiny_run(tmp_path, complete=(5,))
    with pytest.raises(ValueError, match="already holds checkpoint-5.*--resume_from_checkpoint"):
        find_checkpoint(run, None)


def test_a_named_checkpoint_must_be_complete(tmp_path: Path) -> None:
    run = _tiny_run(tmp_path, complete=(5,), incomplete=(6,))
    assert find_checkpoint(run, str(run / "checkpoint-5")) == run / "checkpoint-5"
    with pytest.raises(ValueError, match="checkpoint-6 is no complete checkpoint"):
        find_checkpoint(run, str(run / "checkpoint-6"))


def test_a_checkpoint_gets_its_place_whole_and_the_oldest_complete_ones_go(tmp_path: Path) -> None:
    run = _tiny_run(tmp_path, complete=(2, 4), incomplete=(3,))
    (run / "unfinished" / "checkpoint-6").mkdir(parents=True)
    assert find_checkpoint(run, "auto") == run / "checkpoint-4"
    publish_checkpoint(run, 6, keep=2)
    names = [folder.name for folder in checkpoints(run)]
    assert names == ["checkpoint-3", "checkpoint-4", "checkpoint-6"]
    assert find_checkpoint(run, "auto") == run / "checkpoint-6"
    assert not list((run / "unfinished").iterdir())


@pytest.mark.parametrize(("keep", "left"), [(None, 3), (0, 1), (1, 1), (2, 2)])
def test_at_least_one_checkpoint_is_kept(tmp_path: Path, keep: int | None, left: int) -> None:
    run = _tiny_run(tmp_path, complete=(2, 4))
    (run / "unfinished" / "checkpoint-6").mkdir(parents=True)
    publish_checkpoint(run, 6, keep=keep)
    assert len(checkpoints(run)) == left


def test_a_step_written_again_replaces_what_is_there(tmp_path: Path) -> None:
    run = _tiny_run(tmp_path, complete=(), incomplete=(6,))
    (run / "checkpoint-6" / "old").touch()
    (run / "unfinished" / "checkpoint-6").mkdir(parents=True)
    publish_checkpoint(run, 6, keep=None)
    assert not (run / "checkpoint-6" / "old").exists()


def test_what_a_killed_run_left_is_discarded(tmp_path: Path) -> None:
    (tmp_path / "unfinished" / "checkpoint-6").mkdir(parents=True)
    discard_unfinished(tmp_path)
    discard_unfinished(tmp_path)
    assert not any(tmp_path.iterdir())


def _seen_by(monkeypatch: pytest.MonkeyPatch, *states: Any) -> None:
    """Let other ranks see other folders."""
    monkeypatch.setattr(checkpoint_module, "gather", lambda own: [own, *states])


def _other(*complete: Any) -> Any:
    return checkpoint_module.RankState(
        "other", "/their/run", complete, complete, has_requested=False
    )


def test_all_ranks_continue_from_the_newest_checkpoint_that_each_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        mark_complete(tmp_path / f"checkpoint-{step}", step)
    _seen_by(monkeypatch, _other("checkpoint-2"))
    assert find_checkpoint(tmp_path, "auto") == tmp_path / "checkpoint-2"
    _seen_by(monkeypatch, _other())
    with pytest.raises(ValueError, match="no complete checkpoint is there for every"):
        find_checkpoint(tmp_path, "auto")
    with pytest.raises(ValueError, match="complete.json is absent on other"):
        find_checkpoint(tmp_path, str(tmp_path / "checkpoint-2"))
    _seen_by(monkeypatch, _other("checkpoint-2"))
    with pytest.raises(ValueError, match="/their/run already holds checkpoint-2 on other"):
        find_checkpoint(tmp_path / "empty", None)
