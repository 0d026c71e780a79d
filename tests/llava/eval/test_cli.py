"""lmms-eval's real command line, offline: results and manifest where all assets are there, and an
exit code that says why where not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from lmms_eval.api.task import ConfigurableTask
from tenacity import wait_none

from support.eval_run import evaluate_apart, evaluate_here
from support.eval_toy import KILLS_RANK_1, Toy, write_toy_task
from support.media import moving_square, write_video


def _arguments(
    toy: Toy, documents: list[dict[str, Any]], folder: Path, **changes: object
) -> list[str]:
    """Evaluate the documents as users do; results go to ``folder / "out"``."""
    folder.mkdir(exist_ok=True)
    task = write_toy_task(folder / "task", documents)
    arguments = ",".join(f"{name}={value}" for name, value in toy.arguments(**changes).items())
    return [
        *("--model", "llava_ov_encoder", "--model_args", arguments),
        *("--include_path", str(task), "--tasks", "toy_video", "--batch_size", "2"),
        *("--log_samples", "--output_path", str(folder / "out")),
    ]


def _results(out: Path) -> dict[str, Any]:
    [path] = out.glob("**/*_results.json")
    return json.loads(path.read_text())


def _manifest(out: Path) -> dict[str, Any]:
    [path] = out.glob("**/manifest.json")
    assert list(path.parent.glob("*_results.json")), "the manifest is next to the results"
    return json.loads(path.read_text())


def _answers(out: Path) -> dict[int, str]:
    [path] = out.glob("**/*_samples_toy_video.jsonl")
    rows = map(json.loads, path.read_text().splitlines())
    return {row["doc_id"]: row["filtered_resps"] for row in rows}


def test_a_run_with_all_assets_succeeds(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert evaluate_here(tmp_path, monkeypatch, _arguments(toy, toy.documents, tmp_path)) == 0
    manifest = _manifest(out)
    assert (manifest["hits"], manifest["misses"]) == (3, 0)
    assert manifest["samples"] == {"toy_video": 5}
    answers = _answers(out)
    score = _results(out)["results"]["toy_video"]["length,none"]
    assert score == sum(map(len, answers.values())) / 5


def test_a_run_with_a_missing_asset_exits_with_2(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    video = write_video(tmp_path / "new.mp4", moving_square(9, 48, 64))
    documents = [*toy.documents, {"media": [str(video)], "question": "?"}]
    out = tmp_path / "out"
    assert evaluate_here(tmp_path, monkeypatch, _arguments(toy, documents, tmp_path)) == 2
    message = capfd.readouterr().err
    assert f"1 of 4 videos of this run have no codec asset ({toy.assets}):\n  " in message
    assert f"__new: {video}\n" in message
    [listing] = out.glob("**/missing_codec_assets.jsonl")
    row = json.loads(listing.read_text())
    assert row["video"] == str(video)
    assert row["key"].endswith("__new")
    assert not list(out.glob("**/*_results.json"))


def test_a_damaged_asset_exits_with_2(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assets = shutil.copytree(toy.assets, tmp_path / "assets")
    (assets / "b__clip" / "mosaic_001.jpg").unlink()
    arguments = _arguments(toy, toy.documents, tmp_path, codec_root=assets)
    assert evaluate_here(tmp_path, monkeypatch, arguments) == 2
    assert "b__clip/mosaic_001.jpg: cannot be read" in capfd.readouterr().err
    assert not list((tmp_path / "out").glob("**/answers_rank*.jsonl"))


@pytest.mark.parametrize(
    ("changes", "messages"),
    [
        ({"--tasks": "toy_vidoe"}, ["lmms-eval: Tasks not found: toy_vidoe"]),
        (
            {"--tasks": "ai2d"},
            ["ai2d: its data set lmms-lab-encoder/ai2d cannot be read", "HF_HOME={home} python -c"],
        ),
        (
            {"--tasks": "tomato"},
            ["no folder of its videos {home}/TOMATO", "HF_HOME={home} bash scripts/precompute_"],
        ),
        ({"--model_args": "pretrained=nowhere"}, ["nowhere"]),
    ],
)
def test_what_cannot_start_exits_with_2(
    toy: Toy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    changes: dict[str, str],
    messages: list[str],
) -> None:
    arguments = _arguments(toy, toy.documents, tmp_path)
    for flag, value in changes.items():
        arguments[arguments.index(flag) + 1] = value
    # lmms-eval waits two seconds before each of five attempts to download.
    monkeypatch.setattr(ConfigurableTask.download.retry, "wait", wait_none())
    assert evaluate_here(tmp_path, monkeypatch, arguments) == 2
    errors = capfd.readouterr().err
    assert "RetryError" not in errors
    for message in messages:
        assert message.format(home=tmp_path) in errors


def test_a_scorer_that_fails_exits_with_1(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = _arguments(toy, toy.documents[-1:], tmp_path)
    utils = tmp_path / "task" / "utils.py"
    utils.write_text(f"{utils.read_text()}\n\ndef broken(scores):\n    return 1 / 0\n")
    task = tmp_path / "task" / "toy_video.yaml"
    text = task.read_text()
    task.write_text(text.replace("aggregation: mean", "aggregation: !function utils.broken"))
    assert evaluate_here(tmp_path, monkeypatch, arguments) == 1
    assert "error: lmms-eval: division by zero" in capfd.readouterr().err


@pytest.mark.slow
def test_stale_settings_exit_with_2(toy: Toy, tmp_path: Path) -> None:
    arguments = _arguments(toy, toy.documents, tmp_path, codec_num_images=4)
    result = evaluate_apart(tmp_path, arguments)
    assert result.returncode == 2
    assert "made with num_images=2" in result.stderr
    assert "--overwrite" in result.stderr


@pytest.mark.slow
def test_frames_are_an_explicit_choice(toy: Toy, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = _arguments(toy, toy.documents, tmp_path, codec_root=None, video_input="frames")
    result = evaluate_apart(tmp_path, arguments)
    assert result.returncode == 0, result.stdout + result.stderr
    assert (_manifest(out)["hits"], _manifest(out)["frames"]) == (0, 3)


@pytest.mark.slow
def test_two_ranks_answer_as_one(toy: Toy, tmp_path: Path) -> None:
    for ranks in ("1", "2"):
        arguments = _arguments(toy, toy.documents, tmp_path / ranks)
        result = evaluate_apart(tmp_path / ranks, ["--processes", ranks, *arguments])
        assert result.returncode == 0, result.stdout + result.stderr
    one, two = tmp_path / "1", tmp_path / "2"
    assert _answers(one) == _answers(two)
    assert _results(one)["results"] == _results(two)["results"]
    manifest = _manifest(two)
    assert (manifest["world_size"], manifest["hits"]) == (2, 3)
    assert manifest["samples"] == {"toy_video": 5}


@pytest.mark.slow
def test_misses_of_all_ranks_are_named_before_any_begins(toy: Toy, tmp_path: Path) -> None:
    gone = [{"media": [f"/none/{name}.mp4"], "question": "?"} for name in ("x", "y", "z")]
    arguments = _arguments(toy, [*toy.documents, *gone], tmp_path)
    result = evaluate_apart(tmp_path, ["--processes", "2", *arguments])
    assert result.returncode == 2, result.stderr[-3000:]
    assert "3 of 6 videos of this run have no codec asset" in result.stderr
    [listing] = (tmp_path / "out").glob("**/missing_codec_assets.jsonl")
    named = {json.loads(line)["video"] for line in listing.read_text().splitlines()}
    assert named == {"/none/x.mp4", "/none/y.mp4", "/none/z.mp4"}
    assert not list((tmp_path / "out").glob("**/answers_rank*.jsonl"))


@pytest.mark.slow
def test_settings_that_one_rank_finds_wrong_exit_with_2(toy: Toy, tmp_path: Path) -> None:
    """Only the second document, which is rank 1's, has an asset of other settings."""
    assets = shutil.copytree(toy.assets, tmp_path / "assets")
    meta = assets / "b__clip" / "meta.json"
    meta.write_text(meta.read_text().replace('"num_images": 2', '"num_images": 4'))
    arguments = _arguments(toy, toy.documents[:2], tmp_path, codec_root=assets)
    result = evaluate_apart(tmp_path, ["--processes", "2", *arguments])
    assert result.returncode == 2, result.stderr[-3000:]
    assert "b__clip: made with num_images=4" in result.stderr
    assert not list((tmp_path / "out").glob("**/answers_rank*.jsonl"))


@pytest.mark.slow
def test_a_rank_that_dies_ends_all_ranks(toy: Toy, tmp_path: Path) -> None:
    """The launcher ends the other rank, which waits for the dead one; a hang fails by time-out."""
    documents = [*toy.documents, {"media": [], "question": KILLS_RANK_1}]
    arguments = _arguments(toy, documents, tmp_path, codec_miss="online")
    result = evaluate_apart(tmp_path, ["--processes", "2", *arguments])
    assert result.returncode == 1, result.stderr[-3000:]
    assert "SIGKILL" in result.stdout + result.stderr or "-9" in result.stdout + result.stderr
    assert not list((tmp_path / "out").glob("**/*_results.json"))


_ROUNDS = """
def doc_to_text(doc, lmms_eval_specific_kwargs=None, previous_output=None, round_idx=0, **told):
    if not round_idx:
        return doc["question"]
    return None, f"Why {previous_output[-1]}?", round_idx == 2, previous_output, None
"""


@pytest.mark.slow
def test_a_task_of_several_rounds_runs_in_the_harness(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = _arguments(toy, toy.documents, tmp_path)
    task = tmp_path / "task" / "toy_video.yaml"
    text = task.read_text().replace("generate_until\n", "generate_until_multi_round\n")
    task.write_text(text)
    with (tmp_path / "task" / "utils.py").open("a") as utils:
        utils.write(_ROUNDS)
    assert evaluate_here(tmp_path, monkeypatch, arguments) == 0
    rounds = _answers(tmp_path / "out").values()
    assert len(rounds) == 5
    assert all(len(answers[0] if len(answers) == 1 else answers) == 2 for answers in rounds)
    assert _results(tmp_path / "out")["results"]["toy_video"]["length,none"] == 2


_MESSAGES = """


def doc_to_messages(doc):
    parts = [
        {"type": "image", "url": Image.open(path)} if path.endswith(".png")
        else {"type": "video", "url": path}
        for path in doc["media"]
    ]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": doc["question"]}]}]
"""


@pytest.mark.slow
def test_a_chat_task_gets_the_answers_of_the_simple_one(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chat task has messages alone: no ``doc_to_visual``, and a text that says nothing."""
    both = {"media": [str(toy.videos[1]), str(toy.images[1])], "question": "Which is brighter?"}
    documents = [*toy.documents, both]
    for name in ("simple", "chat", "automatic"):
        arguments = _arguments(toy, documents, tmp_path / name)
        if name == "chat":
            task = tmp_path / "chat" / "task" / "toy_video.yaml"
            text = task.read_text().replace("doc_to_visual: ", "doc_to_messages: ")
            text = text.replace("utils.doc_to_visual", "utils.doc_to_messages")
            task.write_text(text.replace("!function utils.doc_to_text\n", "'unused'\n"))
            with (tmp_path / "chat" / "task" / "utils.py").open("a") as utils:
                utils.write(_MESSAGES)
        if name != "simple":
            arguments[1] = "llava_ov_encoder_chat"
        assert evaluate_here(tmp_path, monkeypatch, arguments) == 0
    simple = _answers(tmp_path / "simple" / "out")
    assert len(simple) == 6
    for name in ("chat", "automatic"):
        assert _answers(tmp_path / name / "out") == simple
        manifest = _manifest(tmp_path / name / "out")
        assert (manifest["hits"], manifest["misses"], manifest["images"]) == (4, 0, 3)
