from pathlib import Path

from run_kit.log import LOG_FILE, TrainLog, read_log


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    log = TrainLog(tmp_path / "run", first_step=1)
    log.append({"step": 1, "loss": 2.5})
    log.append({"step": 2, "loss": 2.0})
    assert read_log(tmp_path / "run") == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}]


def test_a_resumed_run_drops_the_steps_it_does_again(tmp_path: Path) -> None:
    log = TrainLog(tmp_path, first_step=1)
    for step in (1, 2, 3):
        log.append({"step": step})
    TrainLog(tmp_path, first_step=2).append({"step": 2, "again": True})
    assert read_log(tmp_path) == [{"step": 1}, {"step": 2, "again": True}]


def test_a_line_cut_off_by_a_kill_is_dropped(tmp_path: Path) -> None:
    (tmp_path / LOG_FILE).write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_log(tmp_path) == [{"step": 1}]


def test_no_log_has_no_rows(tmp_path: Path) -> None:
    assert read_log(tmp_path) == []
