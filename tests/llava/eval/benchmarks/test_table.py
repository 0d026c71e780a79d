"""The table of benchmarks against the task files of the installed lmms-eval."""

from pathlib import Path
from typing import Any

import lmms_eval
import pytest
import yaml

from llava.eval.benchmarks.table import (
    BENCHMARKS,
    VIDEO_BENCHMARKS,
    Benchmark,
    find_benchmark,
    task_of,
)

TASKS = Path(lmms_eval.__file__).parent / "tasks"
FOLDERS = {
    "perceptiontest": "perceptiontest/val",
    "video_mmmu": "videommmu",
    "mlvu_dev": "mlvu",
    "docvqa_val": "docvqa",
}


class _Loader(yaml.SafeLoader):
    """Task files name functions by a tag of their own."""


_Loader.add_constructor("!function", lambda loader, node: node.value)


def _configs(benchmark: Benchmark) -> dict[str, dict[str, Any]]:
    """Every task and group that the folder of a benchmark defines, includes resolved."""
    folder = TASKS / FOLDERS.get(benchmark.name, benchmark.name)
    found: dict[str, dict[str, Any]] = {}
    for path in folder.glob("*.yaml"):
        config = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        if "include" in config:
            base = (folder / config["include"]).read_text(encoding="utf-8")
            config = {**yaml.load(base, _Loader), **config}
        found[config.get("group", config["task"]) if "group" in config else config["task"]] = config
    return found


@pytest.mark.parametrize("benchmark", BENCHMARKS, ids=lambda item: item.name)
def test_the_table_says_what_the_task_files_say(benchmark: Benchmark) -> None:
    configs = _configs(benchmark)
    if benchmark.sub_tasks:
        assert set(configs[benchmark.task]["task"]) == set(benchmark.sub_tasks)
    for task in benchmark.tasks:
        options = configs[task]["dataset_kwargs"]
        assert configs[task]["dataset_path"] == benchmark.dataset
        assert options.get("cache_dir", "") == benchmark.cache_folder
        assert options.get("revision", "main") == benchmark.revision
        assert options.get("video", False) == benchmark.is_video
    assert set(benchmark.frame_folder_tasks) <= set(benchmark.tasks)
    for task in benchmark.variants:
        assert configs[task]["dataset_kwargs"]["cache_dir"] == benchmark.cache_folder


def test_the_promised_names_are_known() -> None:
    """The user documentation's table, with the image tasks of its commands."""
    promised = {
        "videomme": "videomme",
        "mvbench": "mvbench",
        "perceptiontest": "perceptiontest_val_mc",
        "nextqa": "nextqa_mc_test",
        "temporalbench": "temporalbench_long_qa",
        "video_mmmu": "video_mmmu",
        "tomato": "tomato",
        "longvideobench": "longvideobench_val_v",
        "mlvu_dev": "mlvu_dev",
        "ai2d": "ai2d",
        "chartqa": "chartqa",
        "docvqa_val": "docvqa_val",
        "ocrbench": "ocrbench",
    }
    assert {item.name: item.task for item in BENCHMARKS} == promised
    for name, task in promised.items():
        assert task_of(name) == task_of(task) == task
        assert find_benchmark(name) is find_benchmark(task)
    assert len({item.cache_folder for item in VIDEO_BENCHMARKS}) == len(VIDEO_BENCHMARKS)


@pytest.mark.parametrize(
    ("task", "name"),
    [
        ("mvbench_episodic_reasoning", "mvbench"),
        ("videomme_w_subtitle", "videomme"),
        ("video_mmmu_perception", "video_mmmu"),
        ("videomme_v2", None),
        ("mmbench_en_dev", None),
        ("perceptiontest_test_mc", None),
    ],
)
def test_tasks_of_a_group_and_variants_share_its_videos(task: str, name: str | None) -> None:
    found = find_benchmark(task)
    assert (found.name if found else None) == name
    assert task_of(task) == task
