"""The lmms-eval model in process: answers, scores, misses, and what the manifest counts."""

import json
import resource
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, Features, Value
from datasets import Image as ImageFeature
from lmms_eval.api.instance import Instance, unwrap_generation_output
from lmms_eval.models.registry_v2 import ModelRegistryV2
from PIL import Image

from llava.eval.plugin.answering import Answerer
from llava.eval.plugin.journal import AnswerJournal
from llava.eval.plugin.model import LlavaOVEncoder
from llava.eval.result_files import read_answers
from llava.model.loading import load_pretrained
from support.eval_toy import Toy
from support.tolerances import SAME_LOSS

GREEDY = {"do_sample": False, "until": []}


def _visuals(document: dict[str, Any]) -> list[Any]:
    return [Image.open(path) if path.endswith(".png") else path for path in document["media"]]


def _requests(
    documents: Sequence[dict[str, Any]], second: Callable[[int], Any], kind: str = "generate_until"
) -> list[Instance]:
    return [
        Instance(
            request_type=kind,  # type: ignore[arg-type]
            arguments=(document["question"], second(index), _visuals, index, "toy", "test"),
            idx=0,
            metadata={"task": "toy", "doc_id": index, "repeats": 1},
        )
        for index, document in enumerate(documents)
    ]


def _model(toy: Toy, **changes: object) -> LlavaOVEncoder:
    model = LlavaOVEncoder(**toy.arguments(**changes))
    model.task_dict = {"toy": {"test": toy.documents}}
    return model


def _answers(toy: Toy, second: dict[str, Any] | None = None, **changes: object) -> list[str]:
    requests = _requests(toy.documents, lambda index: dict(GREEDY if second is None else second))
    return _model(toy, **changes).generate_until(requests)


def _scores(model: LlavaOVEncoder, requests: list[Instance]) -> list[Any]:
    """As lmms-eval hands them to its metrics."""
    return [unwrap_generation_output(output)[0] for output in model.loglikelihood(requests)]


def test_registry_finds_the_model_through_the_entry_point() -> None:
    registry = ModelRegistryV2()
    registry.load_entrypoint_manifests(overwrite=True)
    resolved = registry.resolve("llava_ov_encoder")
    assert resolved.model_type == "simple"
    assert registry.get_model_class("llava_ov_encoder").__name__ == "LlavaOVEncoder"


def test_answers_equal_generate_called_directly(toy: Toy) -> None:
    """Independent path: processor and model by hand, one sample at a time, no attention padding."""
    from llava.eval.plugin.visuals import VisualLoader
    from llava.eval.settings import read_settings

    model, processor = load_pretrained(toy.model)
    loader = VisualLoader(read_settings(toy.arguments(), {}), processor.visual)
    expected = []
    for document in toy.documents:
        segments = [visual.segment for visual in loader.load(_visuals(document))]
        lines = ["<image>"] * sum(len(segment.placeholder_tokens) for segment in segments)
        prompt = "\n".join([*lines, document["question"]])
        inputs = processor([[{"from": "human", "value": prompt}]], [segments])
        tokens = model.generate(**inputs, max_new_tokens=6, do_sample=False)  # type: ignore[attr-defined]
        expected += processor.decode(tokens[:, inputs["input_ids"].shape[1] :])
    assert _answers(toy) == expected
    assert len(set(expected)) > 1


def test_batches_do_not_change_answers(toy: Toy) -> None:
    one = _answers(toy)
    assert _answers(toy, batch_size=3) == one
    assert _answers(toy, batch_size=5) == one


@pytest.mark.parametrize("batch_size", [1, 4])
def test_any_number_of_images_is_answered(toy: Toy, batch_size: int) -> None:
    counts = [1, 2, 3, 7, 8, 9]
    documents = [
        {"media": [str(toy.images[n % 2]) for n in range(count)], "question": "What differs?"}
        for count in counts
    ]
    model = _model(toy, batch_size=batch_size)
    model.task_dict = {"toy": {"test": documents}}
    answers = model.generate_until(_requests(documents, lambda index: dict(GREEDY)))
    assert all(answers)
    assert model._record.visual_tokens == [64 * count for count in counts]


def test_tasks_with_different_settings_share_a_call(toy: Toy) -> None:
    limits = [6, 2, 6, 2, 6]
    requests = _requests(toy.documents, lambda index: {**GREEDY, "max_new_tokens": limits[index]})
    answers = _model(toy, batch_size=2).generate_until(requests)
    long = _answers(toy)
    short = _answers(toy, {**GREEDY, "max_new_tokens": 2})
    assert answers == [(long if limit == 6 else short)[index] for index, limit in enumerate(limits)]
    assert long != short


def test_until_ends_answers_and_is_left_out(toy: Toy) -> None:
    plain = _answers(toy)
    stop = plain[0][2]
    cut = _answers(toy, {"until": [stop]}, batch_size=3)
    assert cut == [answer.split(stop)[0].strip() for answer in plain]
    assert cut != plain


def test_scores_are_the_mean_loss_of_the_continuation(toy: Toy) -> None:
    continuations = [" yes", "no, never", " ", "B", "<image>"]
    requests = _requests(toy.documents, lambda index: continuations[index], "loglikelihood")
    scores = _scores(_model(toy, batch_size=1), requests)
    model, processor = load_pretrained(toy.model)
    # Oracle for the sample without visuals: one pass of the model over the whole text.
    inputs = processor([[{"from": "human", "value": toy.documents[4]["question"]}]], [[]])
    tokens = torch.tensor([processor.tokenizer.encode("<image>")])
    ids = torch.cat([inputs["input_ids"], tokens], 1)
    with torch.no_grad():
        logits = model(ids).logits[0, -tokens.shape[1] - 1 : -1].log_softmax(-1)  # type: ignore[operator]
    expected = -logits.gather(1, tokens.T).mean().item()
    assert scores[4] == (pytest.approx(expected, rel=SAME_LOSS), False)
    batched = _scores(_model(toy, batch_size=3), requests)
    assert [value for value, _ in batched] == pytest.approx(
        [value for value, _ in scores], rel=SAME_LOSS
    )


def test_a_greedy_answer_scores_as_greedy(toy: Toy) -> None:
    model = _model(toy, max_new_tokens=1, batch_size=5)
    answers = model.generate_until(_requests(toy.documents, lambda index: dict(GREEDY)))
    # A byte that is no whole character does not survive the way through text.
    greedy = [answer if answer.isascii() and answer else None for answer in answers]
    assert any(greedy)
    requests = _requests(toy.documents, lambda index: greedy[index] or "~", "loglikelihood")
    scores = _scores(model, requests)
    assert [is_greedy for _, is_greedy in scores] == [answer is not None for answer in greedy]


def test_every_option_of_a_question_records_what_was_shown(toy: Toy, tmp_path: Path) -> None:
    """The options of one document share its name, and here a batch."""
    document = toy.documents[0]
    requests = _requests([document, document], lambda index: f" {index}", "loglikelihood")
    for number, request in enumerate(requests):
        request.arguments = (*request.arguments[:3], 0, "toy", "test")
        request.idx = number
    model = _model(toy, batch_size=2)
    model._journal = AnswerJournal(tmp_path, 0, "")
    model._start = lambda _: None  # type: ignore[method-assign]
    model.loglikelihood(requests)
    rows = read_answers(tmp_path)
    assert [row["visual_tokens"] for row in rows] == [128, 128]
    assert [row["visuals"][0]["path"] for row in rows] == document["media"] * 2


def test_an_unconditional_continuation_is_scored(toy: Toy) -> None:
    request = Instance(
        request_type="loglikelihood",
        arguments=("", "A"),
        idx=0,
        metadata={"task": "toy", "doc_id": 0, "repeats": 1},
    )
    [(loss, _)] = _scores(_model(toy), [request])
    assert loss > 0


def test_padding_of_ranks_costs_nothing(toy: Toy) -> None:
    model = _model(toy)
    requests = _requests(toy.documents, lambda index: dict(GREEDY))
    requests[0].metadata["__padding_only__"] = True
    answers = model.generate_until(requests)
    assert answers[0] == ""
    assert all(answers[1:])
    assert sum(model._record.samples.values()) == 4


def test_a_miss_stops_before_the_first_sample(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    model = _model(toy)
    gone = [{"media": [f"/none/{name}.mp4"], "question": "?"} for name in ("y", "x")]
    documents = [*toy.documents, *gone]
    model.task_dict = {"toy": {"test": documents}}
    with pytest.raises(SystemExit) as stopped:
        model.generate_until(_requests(documents, lambda index: dict(GREEDY)))
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert "2 of 5 videos of this run have no codec asset" in message
    assert "  none__y: /none/y.mp4\n  none__x: /none/x.mp4\n" in message
    listing = tmp_path / "missing_codec_assets.jsonl"
    assert f"--jsonl {listing}" in message
    assert [json.loads(line)["video"] for line in listing.read_text().splitlines()] == [
        "/none/y.mp4",
        "/none/x.mp4",
    ]
    assert model._record.samples == {}


def test_stale_settings_stop_the_run(toy: Toy, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        _answers(toy, codec_square_size=128)
    assert stopped.value.code == 2
    assert "made with square_size=64, but this run asks for codec_square_size=128" in (
        capsys.readouterr().err
    )


def test_a_broken_file_ends_the_run_naming_the_document(
    toy: Toy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    model = _model(toy, video_input="frames")
    documents = [{"media": [str(tmp_path / "broken.mp4")], "question": "?"}]
    model.task_dict = {"toy": {"test": documents}}
    with pytest.raises(SystemExit) as stopped:
        model.generate_until(_requests(documents, lambda index: dict(GREEDY)))
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert "toy document 0" in message
    assert "broken.mp4" in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [("pretrained=nowhere", "nowhere"), ("conv_mode=x", "unknown model_args conv_mode")],
)
def test_wrong_arguments_exit_with_2(
    arguments: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        LlavaOVEncoder.create_from_arg_string(arguments, {"batch_size": 1})
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def _echo_rounds(document: dict[str, Any], previous_output: list[str], **told: Any) -> Any:
    """Ask about the answer before it: once about videos, twice about the rest."""
    last = 2 if document["media"][:1] and document["media"][0].endswith(".mp4") else 3
    count = told["previous_round_info"] or 0
    assert told["round_idx"] == len(previous_output) == count + 1
    question = f"You said {previous_output[-1]}. Are you sure?"
    return [], question, len(previous_output) == last, previous_output, count + 1


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_several_rounds_ask_about_the_answers_before(toy: Toy, batch_size: int) -> None:
    requests = [
        Instance(
            request_type="generate_until_multi_round",
            arguments=(doc["question"], dict(GREEDY), _visuals, _echo_rounds, n, "toy", "test"),
            idx=0,
            metadata={"task": "toy", "doc_id": n, "repeats": 1},
        )
        for n, doc in enumerate(toy.documents)
    ]
    rounds = _model(toy, batch_size=batch_size).generate_until_multi_round(requests)
    first = _answers(toy)
    assert [answers[0] for answers in rounds] == first
    assert [len(answers) for answers in rounds] == [2, 2, 3, 3, 3]  # the third clip is no .mp4
    # The second rounds are prompts of their own; asked alone, they get the same answers.
    asked = [{"media": [], "question": f"You said {text}. Are you sure?"} for text in first]
    model = _model(toy)
    model.task_dict = {"toy": {"test": asked}}
    alone = model.generate_until(_requests(asked, lambda index: dict(GREEDY)))
    assert [answers[1] for answers in rounds] == alone
    assert [unwrap_generation_output(answers)[0] for answers in rounds] == rounds


def test_the_manifest_counts_what_reached_the_model(toy: Toy, tmp_path: Path) -> None:
    path = tmp_path / "run" / "manifest.json"
    for _ in range(2):
        model = _model(toy, manifest=path, batch_size=2)
        model.generate_until(_requests(toy.documents, lambda index: {**GREEDY, "seed": 0}))
        model.clean()
    manifest = json.loads(path.read_text())
    assert manifest["samples"] == {"toy": 5}
    counts = [manifest[name] for name in ("hits", "misses", "online", "frames", "images")]
    assert counts == [3, 0, 0, 0, 2]
    meta = json.loads((toy.assets / "a__clip" / "meta.json").read_text())
    assert manifest["assets"]["fingerprints"] == {meta["fingerprint"]: 3}
    assert sum(manifest["assets"]["backends"].values()) == 3
    # 3 clips of 2 mosaics, 2 images, 64 tokens each.
    assert manifest["tokens_per_sample"]["visual"] == {"mean": (3 * 128 + 128) / 5, "max": 128}
    assert manifest["ignored_generation_settings"] == {"toy": {"seed": 0}}
    assert manifest["default_stop_strings"]["left_out"] == {}
    assert manifest["settings"]["batch_size"] == 2
    assert manifest["model"]["weight_files"] == 1
    assert set(manifest["seconds"]) == {"visuals", "model"}
    assert len(list(path.parent.glob("*_manifest.json"))) == 1, "the first run's manifest is kept"


def test_frames_and_misses_are_recorded(toy: Toy, tmp_path: Path) -> None:
    absent = {"codec_root": None}
    for name, changes, expected in (
        ("frames", {"video_input": "frames"}, (0, 0, 0, 3)),
        ("missed", {**absent, "codec_miss": "frames"}, (0, 3, 0, 3)),
        (
            "online",
            {"codec_root": None, "codec_miss": "online", "codec_cache": tmp_path},
            (0, 3, 3, 0),
        ),
    ):
        path = tmp_path / f"{name}.json"
        model = _model(toy, manifest=path, **changes)
        model.generate_until(_requests(toy.documents, lambda index: dict(GREEDY)))
        model.clean()
        manifest = json.loads(path.read_text())
        counts = tuple(manifest[key] for key in ("hits", "misses", "online", "frames"))
        assert counts == expected, name
        assert len(manifest["missing_keys"]) == expected[1], name
        assert manifest["tokens_per_sample"]["visual"]["max"] == 128, name


def test_online_answers_equal_offline_answers(toy: Toy, tmp_path: Path) -> None:
    online = _answers(toy, codec_root=None, codec_miss="online", codec_cache=tmp_path)
    assert online == _answers(toy)
    assert _answers(toy, video_input="frames") != online


def _gpu_is_full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")


@pytest.mark.parametrize(
    ("exhaust", "reason"),
    [
        (_gpu_is_full, "CUDA out of memory. Tried to allocate 2 GiB.; lower batch_size"),
        (lambda: torch.empty(10**15), "can't allocate memory"),
        (lambda: np.empty(10**17), "Unable to allocate"),
    ],
)
def test_exhausted_memory_names_the_samples(
    toy: Toy,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    exhaust: Callable[[], object],
    reason: str,
) -> None:
    model = _model(toy, batch_size=2)
    monkeypatch.setattr(model._answerer, "_generate", lambda *_: exhaust())
    with pytest.raises(SystemExit) as stopped:
        model.generate_until(_requests(toy.documents, lambda index: dict(GREEDY)))
    assert stopped.value.code == 1
    message = capsys.readouterr().err
    assert "out of memory in a batch of 2 (toy document 0, toy document 1): " in message
    assert reason in message


def test_another_error_of_the_library_is_not_called_memory(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = _model(toy)
    monkeypatch.setattr(model._answerer, "_generate", lambda *_: torch.ones(2) @ torch.ones(3))
    with pytest.raises(SystemExit):
        model.generate_until(_requests(toy.documents, lambda index: dict(GREEDY)))
    message = capsys.readouterr().err
    assert "out of memory" not in message
    assert "error: batch of toy document 0 to toy document 0: " in message


def _answer_with_a_journal(
    toy: Toy, folder: Path, monkeypatch: pytest.MonkeyPatch, **changes: object
) -> tuple[list[str], LlavaOVEncoder]:
    """As lmms-eval would with ``--output_path``, which only its command line can give."""
    monkeypatch.setattr("llava.eval.plugin.model.results_folder", lambda *_: folder)
    model = _model(toy, **changes)
    requests = _requests(toy.documents, lambda index: dict(GREEDY))
    return model.generate_until(requests), model


def test_a_run_that_broke_off_goes_on(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _answers(toy)
    real = Answerer.generate
    calls: list[int] = []

    def breaks_at_the_third_batch(self: Answerer, samples: Any, settings: Any) -> list[str]:
        calls.append(len(samples))
        if len(calls) == 3:
            raise ValueError("broken off")
        return real(self, samples, settings)

    monkeypatch.setattr(Answerer, "generate", breaks_at_the_third_batch)
    with pytest.raises(SystemExit):
        _answer_with_a_journal(toy, tmp_path, monkeypatch)
    answers, model = _answer_with_a_journal(toy, tmp_path, monkeypatch, batch_size=2)
    assert answers == expected
    assert calls == [1, 1, 1, 2, 1], "two of five answers were there"
    model.clean()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert (manifest["resumed"], manifest["samples"]) == ({"toy": 2}, {"toy": 3})
    rows = {row["doc_id"]: row for row in read_answers(tmp_path)}
    assert [rows[number]["answer"] for number in range(5)] == expected
    clip = {"source": "codec", "path": str(toy.videos[0]), "asset": str(toy.assets / "a__clip")}
    assert (rows[0]["visuals"], rows[0]["visual_tokens"]) == ([clip], 128)
    assert [visual["source"] for visual in rows[3]["visuals"]] == ["image", "image"]


def test_a_run_that_computes_assets_goes_on_too(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept does not depend on how many assets there were at the start."""
    online = {"codec_root": None, "codec_miss": "online", "codec_cache": tmp_path / "cache"}
    first, _ = _answer_with_a_journal(toy, tmp_path / "out", monkeypatch, **online)
    again, model = _answer_with_a_journal(toy, tmp_path / "out", monkeypatch, **online)
    assert again == first
    assert (model._record.resumed, model._record.samples) == ({"toy": 5}, {})


def test_other_assets_are_not_gone_on_with(
    toy: Toy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _answer_with_a_journal(toy, tmp_path, monkeypatch)
    frames, model = _answer_with_a_journal(toy, tmp_path, monkeypatch, video_input="frames")
    assert frames == _answers(toy, video_input="frames")
    assert model._record.samples == {"toy": 5}


def test_the_librarys_response_cache_is_refused(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = Namespace(use_cache="cache", output_path=None)
    monkeypatch.setattr("llava.eval.plugin.model.command_line", lambda _: flags)
    with pytest.raises(SystemExit) as stopped:
        _model(toy).generate_until(_requests(toy.documents, lambda index: dict(GREEDY)))
    assert stopped.value.code == 2
    assert "--use_cache is refused" in capsys.readouterr().err


def test_stored_images_are_not_decoded_to_look_for_videos(toy: Toy) -> None:
    images = Dataset.from_dict(
        {"image": [str(toy.images[0])], "question": ["?"]},
        features=Features({"image": ImageFeature(), "question": Value("string")}),
    )
    looks: list[int] = []

    def doc_to_visual(document: dict[str, Any]) -> list[Any]:
        looks.append(1)
        return [document["image"]]

    model = _model(toy)
    model.task_dict = {"toy": {"test": images}}
    [request] = _requests([{"question": "?"}], lambda index: dict(GREEDY))
    request.arguments = ("?", dict(GREEDY), doc_to_visual, 0, "toy", "test")
    assert len(model.generate_until([request])) == 1
    assert len(looks) == 1, "once, for its answer"


@pytest.mark.slow
def test_memory_stays_flat(toy: Toy) -> None:
    model = _model(toy, batch_size=2)
    requests = _requests(toy.documents * 4, lambda index: dict(GREEDY))
    model.task_dict = {"toy": {"test": toy.documents * 4}}

    def resident_mib() -> float:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize() / 2**20

    for _ in range(5):
        model.generate_until(requests)
    before = resident_mib()
    for _ in range(30):
        model.generate_until(requests)
    assert resident_mib() - before < 10, "600 more samples"
