"""Requests of lmms-eval as samples, and prompts with placeholders."""

from pathlib import Path

import lmms_eval.tasks
import pytest
import torch
from lmms_eval.api.instance import Instance
from lmms_eval.api.task import ConfigurableTask
from lmms_eval.utils import load_yaml_config

from llava.eval.plugin.model import LlavaOVEncoder
from llava.eval.plugin.requests import (
    default_stop,
    is_padding,
    judged_tasks,
    read_request,
    write_prompt,
)
from llava.visual.batch import VisualSegment
from support.eval_benchmarks import write_copy
from support.eval_run import keep_data_in
from support.eval_toy import Toy


def _segment(*counts: int) -> VisualSegment:
    total = sum(counts)
    return VisualSegment(torch.zeros(total, 12), torch.zeros(total, 3, dtype=torch.int64), counts)


def test_visuals_come_first_one_line_per_placeholder() -> None:
    assert write_prompt("Why?", []) == "Why?"
    assert write_prompt("Why?", [_segment(4)]) == "<image>\nWhy?"
    assert write_prompt("Why?", [_segment(4, 4), _segment(9)]) == "<image>\n<image>\n<image>\nWhy?"


def test_placeholders_of_the_task_are_kept_in_place() -> None:
    text = write_prompt("A <image> or B <image>?", [_segment(4), _segment(2, 2)])
    assert text == "A <image> or B <image>\n<image>?"


def test_placeholders_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match="has 1 <image> for 2 visuals"):
        write_prompt("A <image>?", [_segment(4), _segment(4)])


def _request(*arguments: object, **metadata: object) -> Instance:
    return Instance(
        request_type="generate_until",
        arguments=arguments,
        idx=0,
        metadata={"task": "toy", "doc_id": 0, "repeats": 1, **metadata},
    )


@pytest.mark.parametrize(
    ("returned", "visuals"), [(None, []), ("a.mp4", ["a.mp4"]), (("a.png", "b.mkv"), 2)]
)
def test_a_task_may_return_one_visual_or_none(returned: object, visuals: object) -> None:
    request = _request("Q", {}, lambda document: returned, 0, "toy", "test")
    sample = read_request(request, {"toy": {"test": [{"x": 1}]}})
    assert sample.visuals == visuals or len(sample.visuals) == visuals
    assert sample.videos == [path for path in sample.visuals if not path.endswith(".png")]
    assert sample.name == "toy document 0"


def test_a_target_may_be_a_function_of_the_document() -> None:
    request = _request("Q", lambda document: document["x"], lambda document: [], 1, "toy", "test")
    assert read_request(request, {"toy": {"test": [{}, {"x": "Yes"}]}}).second == "Yes"
    assert read_request(_request("", " Yes"), {}).second == " Yes"


def test_padding_requests_are_known() -> None:
    assert not is_padding(_request("Q", {}))
    assert is_padding(_request("Q", {}, __padding_only__=True))


_TASK = """
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {listing}
test_split: test
output_type: generate_until
doc_to_text: question
doc_to_target: question
process_results: !function {name}.score
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""

_IMPORTS = {
    "mine": "import json",
    "library": "from lmms_eval.llm_judge import Request",
    "client": "import requests",
}


def test_tasks_with_a_judge_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks as lmms-eval builds them from files."""
    keep_data_in(tmp_path, monkeypatch)
    listing = tmp_path / "documents.jsonl"
    listing.write_text('{"question": "?"}\n')
    requests = []
    for name, line in _IMPORTS.items():
        scorer = f"{line}\n\n\ndef score(doc, results):\n    return {{}}\n"
        (tmp_path / f"{name}.py").write_text(scorer)
        path = tmp_path / f"{name}.yaml"
        path.write_text(_TASK.format(name=name, listing=listing))
        task = ConfigurableTask(config=load_yaml_config(str(path)))
        task.build_all_requests(rank=0, world_size=1)
        requests += task.instances
    assert judged_tasks(requests) == ["client", "library"]


_TASKS = Path(lmms_eval.tasks.__file__).parent
_REAL_TASKS = {
    "video_mmmu": ("videommmu/perception.yaml", "\n\n"),
    "tomato": ("tomato/tomato.yaml", "\n\n"),
    "videomme": ("videomme/videomme.yaml", "\n\n"),
}


def _built(path: Path) -> list[Instance]:
    task = ConfigurableTask(config=load_yaml_config(str(path)))
    task.build_all_requests(rank=0, world_size=1)
    return task.instances


@pytest.mark.parametrize("name", _REAL_TASKS)
def test_the_stop_string_that_lmms_eval_adds_is_left_out(
    name: str, toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With lmms-eval's own task files, as it resolves them."""
    write_copy(name, tmp_path)
    keep_data_in(tmp_path, monkeypatch)
    file, added = _REAL_TASKS[name]
    request = _built(_TASKS / file)[0]
    assert request.args[1]["until"] == [added]
    model = LlavaOVEncoder(**toy.arguments())
    assert model._generation_settings(request).until == ()
    assert model._record.default_stops == {request.task_name: added}


@pytest.mark.parametrize(
    ("lines", "kept"),
    [
        ("", ()),
        ("fewshot_delimiter: ' | '", ()),
        ("generation_kwargs:\n  max_new_tokens: 8", ()),
        ('generation_kwargs:\n  until: ["\\n\\n"]', ("\n\n",)),
        ('generation_kwargs:\n  until: "\\n\\n"', ("\n\n",)),
        ('generation_kwargs:\n  until: ["\\n\\n", "END"]', ("\n\n", "END")),
    ],
)
def test_a_stop_string_that_the_task_states_is_obeyed(
    lines: str, kept: tuple[str, ...], toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_data_in(tmp_path, monkeypatch)
    (tmp_path / "documents.jsonl").write_text('{"question": "?"}\n')
    (tmp_path / "own.py").write_text("def score(doc, results):\n    return {}\n")
    text = _TASK.format(name="own", listing=tmp_path / "documents.jsonl") + lines
    (tmp_path / "own.yaml").write_text(text)
    request = _built(tmp_path / "own.yaml")[0]
    model = LlavaOVEncoder(**toy.arguments())
    assert model._generation_settings(request).until == kept
    assert bool(model._record.default_stops) == (kept == ())


def test_a_request_without_a_task_has_no_default_stop() -> None:
    assert default_stop(_request("Q", {"until": ["\n\n"]})) is None
