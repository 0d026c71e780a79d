"""Time in the prompt: the same marks in training, chat and the processor, checked by hand."""

import json
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cv_reader.assets import Asset, AssetConfig
from cv_reader.assets.make import write_evaluation_asset
from llava.data.dataset import SupervisedDataset
from llava.data.records import RecordError
from llava.model.processing import LlavaProcessor
from llava.model.tiny import tiny_tokenizer
from llava.serve.engine import Engine
from llava.visual.config import VisualConfig, read_processor_settings
from llava.visual.loading import load_asset, load_frame_folder, load_video
from llava.visual.time_marks import expansions, time_marks
from support.media import moving_square, write_video

GRID, FRAME_RATE, FRAMES = 8, 4, 12


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "a.mp4"
    return write_video(path, moving_square(FRAMES, 48, 64, (2, 1)), frame_rate=FRAME_RATE)


def _asset(clip: Path, folder: Path, merge: int = 1) -> Asset:
    config = AssetConfig(square_size=16 * GRID, num_images=2, sequence_length=8, block_cells=merge)
    return write_evaluation_asset(clip, key="k", out_root=folder, config=config)


def _processor(merge: int = 1) -> LlavaProcessor:
    visual = VisualConfig(patches_per_side=GRID, merge_side_patches=merge, time_marks=True)
    return LlavaProcessor(tiny_tokenizer(), visual)


def _prompt(asset: Asset, merge: int) -> str:
    """The clip as a reader of the rule would write it: a mark where t changes, mosaics by lines."""
    mosaics = asset.positions[:, 0].reshape(2, GRID // merge, merge, GRID // merge, merge)
    tokens = [(int(t), n) for n, mosaic in enumerate(mosaics[:, :, 0, :, 0]) for t in mosaic.flat]
    written, last = "", None
    for (slot, mosaic), run in groupby(tokens):
        if last is not None and last[1] != mosaic:
            written += "\n"
        if last is None or last[0] != slot:
            written += f"<{asset.frame_ids[slot] / FRAME_RATE:.1f} seconds>"
        written += "<|image_pad|>" * len(list(run))
        last = slot, mosaic
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n{written}\nWhen?<|im_end|>\n<|im_start|>assistant\n"
    )


def _data(folder: Path, entry: dict[str, Any], processor: LlavaProcessor) -> SupervisedDataset:
    turns = [{"from": "human", "value": "When?"}, {"from": "gpt", "value": "At the end."}]
    line = json.dumps({"id": "s", "conversations": turns, **entry})
    (folder / "data.jsonl").write_text(line + "\n")
    return SupervisedDataset(
        folder / "data.jsonl",
        processor.tokenizer,
        processor.visual,
        max_length=4096,
        video_time_limit_seconds=None,
    )


@pytest.mark.parametrize("merge", [1, 2])
def test_training_messages_prompts_and_chat_write_the_same_ids(
    clip: Path, tmp_path: Path, merge: int
) -> None:
    asset, processor = _asset(clip, tmp_path, merge), _processor(merge)
    expected = processor.tokenizer.encode(_prompt(asset, merge), add_special_tokens=False)
    marks = processor.tokenizer.decode(expected).count(" seconds>")
    assert marks == len(set(asset.positions[:, 0].tolist())) > 1

    data = _data(
        tmp_path,
        {
            "image": [str(path) for path in asset.images],
            "positions_thw": str(asset.folder / "positions_thw.npy"),
        },
        processor,
    )
    item = data[0]
    assert item["input_ids"][: len(expected)].tolist() == expected
    visual = sum(item["segments"][0].placeholder_tokens)
    assert data.length(0) == (len(item["input_ids"]) - visual, visual)

    shown = {"type": "video", "video": str(asset.folder)}
    messages = [{"role": "user", "content": [shown, {"type": "text", "text": "When?"}]}]
    inputs = processor.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)
    assert inputs[0].tolist() == expected
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert processor(text=text, videos=[str(asset.folder)])["input_ids"][0].tolist() == expected
    engine = Engine(SimpleNamespace(), processor)
    assert engine._ids(messages, engine.show(messages)) == expected


def test_a_raw_video_has_a_mark_per_frame(clip: Path, tmp_path: Path) -> None:
    processor = _processor()
    frames = load_video(clip, 4, processor.visual)
    assert frames.expansions == [
        (f"<{seconds} seconds>", 64) for seconds in ("0.0", "0.8", "1.8", "2.8")
    ]  # frames 0, 3, 7 and 11 of 4 a second; 0.75 and 1.75 rounded to even, 2.75 likewise
    data = _data(tmp_path, {"video": str(clip), "num_frames": 4}, processor)
    item = data[0]
    assert data.length(0) == (len(item["input_ids"]) - 256, 256)
    said = processor.tokenizer.decode(item["input_ids"].tolist())
    assert said.count(" seconds>") == 4 and "<1.8 seconds><|image_pad|>" in said


def test_images_have_no_marks(tmp_path: Path) -> None:
    processor = _processor()
    picture = Image.new("RGB", (40, 40))
    [segment] = processor.image_processor.segments([picture])
    assert segment.expansions == [64]


def test_what_carries_no_time_is_refused(clip: Path, tmp_path: Path) -> None:
    processor, asset = _processor(), _asset(clip, tmp_path)
    picture = tmp_path / "frames" / "0.png"
    picture.parent.mkdir()
    Image.new("RGB", (40, 40)).save(picture)
    with pytest.raises(ValueError, match="images that are given as frames have none"):
        load_frame_folder(picture.parent, 2, processor.visual)
    data = _data(tmp_path, {"image": [str(picture)] * 2, "type": "frames"}, processor)
    with pytest.raises(RecordError, match=r"sample 's' .* have none"):
        data.length(0)
    with pytest.raises(RecordError, match=r"sample 's' .* have none"):
        data[0]
    meta = json.loads((asset.folder / "meta.json").read_text())
    (asset.folder / "meta.json").write_text(json.dumps(meta | {"frame_rate": None}))
    with pytest.raises(ValueError, match="carries no time stamps.*frame_rate must be a number"):
        load_asset(asset.folder, processor.visual)
    (asset.folder / "meta.json").unlink()
    codec = {
        "image": [str(path) for path in asset.images],
        "positions_thw": str(asset.folder / "positions_thw.npy"),
    }
    with pytest.raises(RecordError, match="carries no time stamps.*without time marks"):
        _data(tmp_path, codec, processor).length(0)


def test_tokens_that_are_not_sorted_by_t_are_refused() -> None:
    seconds = {0: 0.0, 3: 12.34}
    assert time_marks([0, 0, 3, 3], seconds) == ((0, "<0.0 seconds>"), (2, "<12.3 seconds>"))
    with pytest.raises(ValueError, match="sorted by t, but t 0 follows 3 at visual token 1"):
        time_marks([3, 0], seconds)
    with pytest.raises(ValueError, match="time of slot 2"):
        time_marks([2], seconds)


def test_a_run_over_two_mosaics_has_one_mark() -> None:
    marks = ((0, "a"), (3, "b"), (6, "c"))
    assert expansions([4, 4], marks) == [("a", 3, "b", 1), (2, "c", 2)]
    assert expansions([3, 3], marks[:2]) == [("a", 3), ("b", 3)]
    assert expansions([4, 4]) == [4, 4]


def test_the_setting_is_kept_with_the_processor(tmp_path: Path) -> None:
    processor = _processor()
    processor.save_pretrained(tmp_path)
    assert read_processor_settings(tmp_path).visual.time_marks
    assert LlavaProcessor.from_pretrained(tmp_path).visual == processor.visual
    path = tmp_path / "llava_processor.json"
    values = json.loads(path.read_text())
    del values["visual"]["time_marks"]  # a checkpoint of before
    path.write_text(json.dumps(values))
    assert not read_processor_settings(tmp_path).visual.time_marks
    with pytest.raises(ValueError, match="time_marks must be true or false"):
        VisualConfig.from_dict(values["visual"] | {"time_marks": 1})


@pytest.mark.slow
def test_a_run_with_marks_and_what_follows_it(clip: Path, tmp_path: Path) -> None:
    """Training says it once; evaluation, chat and ``generate`` then show the model the same ids."""
    import torch
    from lmms_eval.api.instance import Instance

    from llava.ask import Assistant
    from llava.eval.plugin.model import LlavaOVEncoder
    from llava.generation import GenerationSettings
    from llava.model.tiny import write_tiny_checkpoint
    from llava.train.train import main

    write_tiny_checkpoint(tmp_path / "model")
    asset = _asset(clip, tmp_path)
    turns = [{"from": "human", "value": "When?"}, {"from": "gpt", "value": "At 2.8 seconds."}]
    codec = {
        "image": [str(path) for path in asset.images],
        "positions_thw": str(asset.folder / "positions_thw.npy"),
    }
    entries = [codec, {"video": str(clip), "num_frames": 2}, {}]
    lines = [json.dumps({"conversations": turns, **entry}) for entry in entries]
    (tmp_path / "data.jsonl").write_text("\n".join(lines) + "\n")
    out = tmp_path / "trained"
    flags = f"--model_name_or_path {tmp_path}/model --data_path {tmp_path}/data.jsonl"
    flags += f" --output_dir {out} --use_cpu True --max_steps 2 --time_marks True"
    flags += " --disable_tqdm True --save_strategy no --report_to none"
    assert main(flags.split()) == 0
    assert json.loads((out / "config.json").read_text())["mm_time_marks"] is True
    losses = [json.loads(line) for line in (out / "train_log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(line["loss"]) for line in losses if "loss" in line)

    assistant = Assistant.load(out, "cpu")
    model, processor = assistant.model, assistant.processor
    expected = processor.tokenizer.encode(_prompt(asset, 1), add_special_tokens=False)
    seen: list[list[int]] = []
    original = type(model).generate

    def generate(self: Any, **inputs: Any) -> Any:
        seen.append(inputs["input_ids"][0].tolist())
        return original(self, **inputs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(model), "generate", generate)
        shown = {"type": "video", "video": str(asset.folder)}
        messages = [{"role": "user", "content": [shown, {"type": "text", "text": "When?"}]}]
        engine = Engine(model, processor)
        answers = [engine.stream(messages, GenerationSettings(max_new_tokens=6)).read()]
        engine.close()
        settings = {"num_images": 2, "sequence_length": 8, "max_new_tokens": 6}
        answers.append(assistant.ask(clip, "When?", **settings))
        evaluated = LlavaOVEncoder(
            pretrained=str(out),
            codec_root=str(asset.folder.parent),
            device="cpu",
            codec_seq_len_frames=8,
            codec_num_images=2,
            codec_square_size=16 * GRID,
        )
        evaluated.task_dict = {"toy": {"test": [{}]}}
        visuals = lambda document: [str(clip)]  # noqa: E731
        greedy = {"do_sample": False, "until": [], "max_new_tokens": 6}
        request = Instance(
            request_type="generate_until",
            arguments=("When?", greedy, visuals, 0, "toy", "test"),
            idx=0,
            metadata={"task": "toy", "doc_id": 0, "repeats": 1},
        )
        answers += evaluated.generate_until([request])
    assert seen == [expected] * 3
    assert len(set(answers)) == 1
    assert torch.is_tensor(processor.apply_chat_template(messages, tokenize=True))


@pytest.mark.slow
def test_a_second_question_continues_behind_the_marks(clip: Path, tmp_path: Path) -> None:
    from llava.generation import GenerationSettings
    from llava.model.loading import load_pretrained
    from llava.model.tiny import write_tiny_checkpoint
    from llava.serve.session import ChatSession

    write_tiny_checkpoint(tmp_path / "model")
    asset, processor = _asset(clip, tmp_path), _processor()
    engine = Engine(load_pretrained(tmp_path / "model")[0], processor)
    session, short = ChatSession(engine), GenerationSettings(max_new_tokens=4)
    session.show(asset.folder)
    session.ask("When?", short).read()
    second = session.ask("And then?", short)
    text = second.read()
    prompt = processor.tokenizer.encode(_prompt(asset, 1), add_special_tokens=False)
    assert second.usage.reused_tokens >= len(prompt)
    assert engine.totals["encoded_visuals"] == 1
    assert engine.stream(session.messages[:-1], short).read() == text
    engine.close()
