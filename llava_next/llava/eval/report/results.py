"""Read what evaluations wrote: scores of tasks, scores of samples, and the manifest."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

from llava.eval.benchmarks.table import find_benchmark
from llava.eval.environment import settle_hf_home
from llava.eval.result_files import MANIFEST_FILE, read_answers

_PAIRS = (("pred_answer", "answer"), ("parsed_pred", "answer"), ("pred_id", "answer_id"))
"""Fields in which lmms-eval's tasks record the parsed answer and the right one."""

_INPUTS = ("codec", "frames", "images", "text")
_INPUT_OF_SOURCE = {
    "codec": "codec",
    "online": "codec",
    "frames": "frames",
    "frame_folder": "frames",
    "image": "images",
}
"""Source of a visual, as the answers record it, to how a report names the input."""


class ResultsError(ValueError):
    """A folder does not hold results that can be reported."""


@dataclass(frozen=True)
class SampleResult:
    """One document of a task.

    Attributes:
        doc_id: number of the document in the task.
        score: 0 to 1 in most tasks; None where the task does not score single samples.
        answer: answer of the model.
        target: right answer.
        prompt: text of the question.
        visuals: where its visuals came from.
        visual_tokens: number of its visual tokens; None where not recorded.
    """

    doc_id: int
    score: float | None
    answer: str
    target: str
    prompt: str
    visuals: list[dict[str, Any]]
    visual_tokens: int | None

    @property
    def video(self) -> str | None:
        """Return the path of the video that the question is about, if any."""
        return self.visuals[0]["path"] if self.visuals else None


@dataclass(frozen=True)
class TaskResult:
    """One task of a run.

    Attributes:
        task: name of the task.
        metric: name of the first of its scores.
        value: the score as lmms-eval computed it; a list where the task returns several.
        samples: documents by number; in a group the name of their task comes before it.
        parts: names of a group's tasks; of a single task its own name.
        is_share: whether the scores of samples are shares of 1, which are shown in percent.
    """

    task: str
    metric: str
    value: float | list[float]
    samples: dict[int | str, SampleResult]
    parts: tuple[str, ...]
    is_share: bool

    @property
    def inputs(self) -> set[str]:
        """Return how its samples were shown: ``codec``, ``frames``, ``images``, ``text``."""
        return {
            _INPUT_OF_SOURCE[visual["source"]]
            for sample in self.samples.values()
            for visual in sample.visuals
        } or {"text"}

    @property
    def input(self) -> str:
        """Return the same as one text, the most telling first."""
        return " + ".join(name for name in _INPUTS if name in self.inputs)

    @property
    def scores(self) -> list[float]:
        """Return the scores of the samples that have one."""
        return [item.score for item in self.samples.values() if item.score is not None]

    @property
    def groups(self) -> list[str]:
        """Return, for the same samples, the video of each, or a name of its own."""
        return [
            item.video or f"document {number}"
            for number, item in self.samples.items()
            if item.score is not None
        ]

    @property
    def visual_tokens(self) -> float | None:
        """Return the mean per sample, or None where not recorded."""
        counts = [item.visual_tokens for item in self.samples.values()]
        known = [count for count in counts if count is not None]
        return mean(known) if known else None


@dataclass(frozen=True)
class RunResult:
    """One run: a folder with results and their manifest; groups are the means of their tasks."""

    name: str
    folder: Path
    manifest: dict[str, Any]
    tasks: dict[str, TaskResult]
    groups: dict[str, TaskResult]

    @property
    def results(self) -> dict[str, TaskResult]:
        """Return tasks and groups by name."""
        return {**self.tasks, **self.groups}

    @property
    def video_input(self) -> str:
        """Return ``codec`` or ``frames``."""
        return str(self.manifest["settings"]["video_input"])

    @property
    def model(self) -> str:
        """Return the hash of the weights."""
        return str(self.manifest["model"]["weights_sha256"])


def read_evaluations(paths: Sequence[Path]) -> list[RunResult]:
    """Read every run below the given folders; of several in one folder the newest.

    Raises:
        ResultsError: if a folder holds no run, or a run has no manifest or no samples.
    """
    runs: list[RunResult] = []
    for path in paths:
        folders = sorted({found.parent for found in path.rglob("*_results.json")})
        if not folders:
            raise ResultsError(f"{path}: no *_results.json in it; give the --output_path of a run")
        runs += [_read_run(folder, path) for folder in folders]
    return _with_own_names(runs)


def sample_score(value: Any) -> float | None:
    """Return the score of one sample from what its task records, or None."""
    if isinstance(value, bool | int | float):
        return float(value)
    if not isinstance(value, Mapping):
        return None
    for name in ("score", "correct"):
        if isinstance(value.get(name), bool | int | float):
            return float(value[name])
    if isinstance(value.get("item"), Mapping) and "GT" in value["item"]:
        # TemporalBench reads the first letter of an answer.
        return float(str(value["pred"])[:1].lower() == str(value["item"]["GT"]).lower())
    for given, right in _PAIRS:
        if given in value and right in value and not isinstance(value[given], list):
            return float(str(value[given]) == str(value[right]))
    return None


def video_mmmu_score(value: Any) -> float | None:
    """Return the score of a VideoMMMU sample by the task's own code.

    None for an empty answer to an open question, which the task leaves out of its score.
    """
    if not isinstance(value, Mapping) or value["parsed_pred"] == "API Error":
        return None
    settle_hf_home()
    from lmms_eval.tasks.videommmu.utils import evaluate_videommmu

    result: Any = evaluate_videommmu([value])
    return float(result[1]["acc"])


def group_result(group: str, tasks: Sequence[TaskResult]) -> TaskResult | None:
    """Return a group as the mean of its tasks, or None where their metrics differ.

    The scores of its samples are weighted so that their mean is the mean of the tasks' means.
    Intervals and tests can so account for videos that several tasks share.
    """
    values = [task.value for task in tasks if not isinstance(task.value, list)]
    if len({task.metric for task in tasks}) != 1 or len(values) < len(tasks):
        return None
    weights = equal_weights([len(task.scores) for task in tasks])
    samples: dict[int | str, SampleResult] = {}
    for task, weight in zip(tasks, weights, strict=True):
        for number, sample in task.samples.items():
            score = None if sample.score is None else weight * sample.score
            samples[f"{task.task} {number}"] = replace(sample, score=score)
    parts = tuple(task.task for task in tasks)
    is_share = all(task.is_share for task in tasks)
    return TaskResult(group, tasks[0].metric, mean(values), samples, parts, is_share)


def equal_weights(counts: Sequence[int]) -> list[float]:
    """Return factors of the scores of tasks that make their mean the mean of the tasks' means."""
    return [sum(counts) / (len(counts) * max(1, count)) for count in counts]


def _read_run(folder: Path, path: Path) -> RunResult:
    newest = max(folder.glob("*_results.json"))
    if not (folder / MANIFEST_FILE).is_file():
        raise ResultsError(
            f"{folder}: no {MANIFEST_FILE}, so what was evaluated there is not known"
        )
    manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    results = json.loads(newest.read_text(encoding="utf-8"))
    stem = newest.name.removesuffix("results.json")
    details: defaultdict[str, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in read_answers(folder):
        # Several requests of one document (the options of a question) share what it shows.
        details[row["task"]].setdefault(int(row["doc_id"]), {}).update(row)
    tasks: dict[str, TaskResult] = {}
    for task in results["configs"]:
        samples = folder / f"{stem}samples_{task}.jsonl"
        if not samples.is_file():
            raise ResultsError(f"{samples} is missing; evaluate with --log_samples")
        metric, value = _first_metric(task, results)
        rows = map(json.loads, samples.read_text(encoding="utf-8").splitlines())
        read = [_read_sample(row, task, metric, details[task]) for row in rows]
        by_number: dict[int | str, SampleResult] = {item.doc_id: item for item in read}
        scores = [item.score for item in read if item.score is not None]
        is_share = all(0 <= score <= 1 for score in scores)
        tasks[task] = TaskResult(task, metric, value, by_number, (task,), is_share)
    groups = {
        name: group
        for name, parts in results.get("group_subtasks", {}).items()
        if parts and (group := group_result(name, [tasks[part] for part in parts]))
    }
    return RunResult(path.name, folder, manifest, tasks, groups)


def _first_metric(task: str, results: dict[str, Any]) -> tuple[str, float | list[float]]:
    for entry in results["configs"][task]["metric_list"]:
        for name, value in results["results"][task].items():
            metric, _, _ = name.partition(",")
            if metric == entry["metric"]:
                return metric, value
    raise ResultsError(f"{task}: its results hold none of its metrics")


def _read_sample(
    row: dict[str, Any], task: str, metric: str, details: Mapping[int, dict[str, Any]]
) -> SampleResult:
    benchmark = find_benchmark(task)
    is_video_mmmu = benchmark is not None and benchmark.name == "video_mmmu"
    score = video_mmmu_score if is_video_mmmu else sample_score
    noted = details.get(int(row["doc_id"]), {})
    return SampleResult(
        doc_id=int(row["doc_id"]),
        score=score(row.get(metric)),
        answer=_answer(row["filtered_resps"]),
        target=str(row["target"]),
        prompt=str(row.get("input", "")),
        visuals=noted.get("visuals", []),
        visual_tokens=noted.get("visual_tokens"),
    )


def _answer(response: Any) -> str:
    """Return the answer; for a question scored by likelihoods the mean loss of each option."""
    if not isinstance(response, list) or not response:
        return str(response)
    if isinstance(response[0], list):
        return "losses of the options: " + ", ".join(f"{float(loss):.4g}" for loss, _ in response)
    return str(response[0])


def _with_own_names(runs: Sequence[RunResult]) -> list[RunResult]:
    """Give runs distinct names: the folder's, with a number where several share one."""
    seen: dict[str, int] = defaultdict(int)
    named: list[RunResult] = []
    for run in runs:
        seen[run.name] += 1
        name = run.name if seen[run.name] == 1 else f"{run.name} ({seen[run.name]})"
        named.append(replace(run, name=name))
    return named
