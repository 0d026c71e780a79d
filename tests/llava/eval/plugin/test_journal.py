"""Interrupted runs that are continued, and when kept answers may not be used."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lmms_eval.api.instance import Instance

from llava.eval.plugin.journal import AnswerJournal, run_key
from llava.eval.plugin.requests import prompt_texts
from llava.eval.settings import EvalSettings
from llava.generation import GenerationSettings

GREEDY = GenerationSettings(max_new_tokens=6)


def _request(number: int = 0, prompt: str = "Why?") -> Instance:
    return Instance(
        request_type="generate_until",
        arguments=(prompt, {}, None, number, "toy", "test"),
        idx=0,
        metadata={"task": "toy", "doc_id": number, "repeats": 1},
    )


def _key(journal: AnswerJournal, request: Instance, settings: GenerationSettings = GREEDY) -> str:
    return journal.key(request, prompt_texts(request, {}), settings)


def test_answers_of_all_ranks_are_found_again(tmp_path: Path) -> None:
    for rank in range(2):
        journal = AnswerJournal(tmp_path / "out", rank, "run")
        assert len(journal) == rank, "the second rank of a later run sees what the first left"
        journal.keep([{"key": _key(journal, _request(rank)), "answer": f"answer {rank}"}])
    journal = AnswerJournal(tmp_path / "out", 0, "run")
    assert [journal.find(_key(journal, _request(number))) for number in range(3)] == [
        "answer 0",
        "answer 1",
        None,
    ]


@pytest.mark.parametrize(
    ("run", "prompt", "settings"),
    [
        ("other", "Why?", GREEDY),
        ("run", "How?", GREEDY),
        ("run", "Why?", replace(GREEDY, max_new_tokens=7)),
    ],
)
def test_anything_else_has_another_key(
    tmp_path: Path, run: str, prompt: str, settings: GenerationSettings
) -> None:
    key = _key(AnswerJournal(tmp_path, 0, "run"), _request())
    assert _key(AnswerJournal(tmp_path, 0, run), _request(prompt=prompt), settings) != key


def test_a_run_that_ended_leaves_nothing_to_go_on_with(tmp_path: Path) -> None:
    journal = AnswerJournal(tmp_path, 0, "run")
    journal.keep([{"key": "key", "answer": "answer"}])
    results = tmp_path / "20260101_results.json"
    results.touch()
    later = (tmp_path / "answers_rank0.jsonl").stat().st_mtime_ns + 1_000_000_000
    os.utime(results, ns=(later, later))
    assert AnswerJournal(tmp_path, 0, "run").find("key") is None
    assert [path.name for path in tmp_path.iterdir()] == [results.name]


def test_a_line_that_was_cut_is_left_out(tmp_path: Path) -> None:
    AnswerJournal(tmp_path, 0, "run").keep([{"key": "one", "answer": [0.5, True]}])
    with (tmp_path / "answers_rank0.jsonl").open("a") as stream:
        stream.write('{"key": "two", "ans')
    journal = AnswerJournal(tmp_path, 0, "run")
    assert (journal.find("one"), len(journal)) == ([0.5, True], 1)


def test_without_a_folder_nothing_is_kept(tmp_path: Path) -> None:
    journal = AnswerJournal(None, 0, "run")
    journal.keep([{"key": "key", "answer": "answer"}])
    assert journal.find("key") is None


def test_the_run_key_follows_what_changes_answers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1")
    settings = EvalSettings(pretrained=str(tmp_path))
    key = run_key(settings, tmp_path, "f")
    assert run_key(replace(settings, batch_size=4, device="cuda"), tmp_path, "f") == key
    changed: list[Any] = [
        run_key(replace(settings, num_frames=4), tmp_path, "f"),
        run_key(settings, tmp_path, "g"),
        run_key(settings, tmp_path, None),
    ]
    (tmp_path / "model.safetensors").write_bytes(b"2")
    os.utime(tmp_path / "model.safetensors", ns=(1, 1))
    changed.append(run_key(settings, tmp_path, "f"))
    assert len({key, *changed}) == 5
