"""Lines to items and batches, on a mixture made on the spot and on published training data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from llava.constants import IGNORE_INDEX
from llava.data.collator import Collator
from llava.data.dataset import SupervisedDataset
from llava.data.records import RecordError
from llava.visual.config import VisualConfig
from support.paths import require_shared_data
from support.tokenizer import byte_tokenizer

TOKENIZER = byte_tokenizer()
CONFIG = VisualConfig(patch_size_px=4, patches_per_side=3)


def _entry(name: str, question: str, **fields: Any) -> dict[str, Any]:
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": f"I am {name}."}]
    return {"id": name, "conversations": turns, **fields}


def _write_mixed(folder: Path) -> Path:
    """Codec (2 mosaics of 2 x 2), one image, two images, frames and text."""
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (12, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    positions = [[t, h, w] for t in range(2) for h in range(2) for w in range(2)]
    np.save(folder / "positions_thw.npy", np.array(positions, np.int32))
    both = ["0.png", "1.png"]
    entries = [
        _entry("codec", "<image>\n<image>\nQ", image=both, positions_thw="positions_thw.npy"),
        _entry("image", "<image>\nQ", image="1.png"),
        _entry("text", "Q"),
        _entry("images", "<image> or <image>?", image=both),
        _entry("frames", "<video>\nQ", image=both, type="frames"),
    ]
    path = folder / "train.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def _dataset(path: Path, **settings: Any) -> SupervisedDataset:
    return SupervisedDataset(path, TOKENIZER, CONFIG, **{"max_length": 4096, **settings})


def _supervised(labels: torch.Tensor) -> str:
    return TOKENIZER.decode(labels[labels != IGNORE_INDEX])


def test_each_kind_becomes_an_item(tmp_path: Path) -> None:
    dataset = _dataset(_write_mixed(tmp_path))
    items = {item["sample_id"]: item for item in map(dataset.__getitem__, range(len(dataset)))}
    tokens = {
        name: [segment.placeholder_tokens for segment in item["segments"]]
        for name, item in items.items()
    }
    assert tokens == {
        "codec": [(4, 4)],
        "image": [(9,)],
        "text": [],
        "images": [(9,), (9,)],
        "frames": [(9, 9)],
    }
    image_id = TOKENIZER.convert_tokens_to_ids("<|image_pad|>")
    for name, item in items.items():
        assert _supervised(item["labels"]) == f"I am {name}.<|im_end|>\n"
        assert (item["input_ids"] == image_id).sum() == sum(map(sum, tokens[name]))


def test_a_mixed_batch_from_a_worker(tmp_path: Path) -> None:
    dataset = _dataset(_write_mixed(tmp_path))
    collate = Collator(0, TOKENIZER.convert_tokens_to_ids("<|image_pad|>"))
    loader = DataLoader(dataset, batch_size=5, num_workers=1, collate_fn=collate)
    (batch,) = loader
    assert batch["visual"].tokens_per_sample(5).tolist() == [8, 9, 0, 18, 18]
    assert batch["visual"].sample_index.tolist() == [0, 1, 3, 3, 4]
    lengths = batch["attention_mask"].sum(1).tolist()
    assert lengths == [len(dataset[index]["input_ids"]) for index in range(5)]


def test_folders_default_to_the_data_file_and_can_be_given(tmp_path: Path) -> None:
    path = _write_mixed(tmp_path)
    elsewhere = tmp_path / "lists" / "train.jsonl"
    elsewhere.parent.mkdir()
    path.rename(elsewhere)
    assert len(_dataset(elsewhere, image_folder=tmp_path)[0]["segments"]) == 1
    with pytest.raises(RecordError, match="lists/positions_thw.npy"):
        _dataset(elsewhere)[0]


def test_the_plain_template_learns_the_caption(tmp_path: Path) -> None:
    item = _dataset(_write_mixed(tmp_path), template="plain")[1]
    assert _supervised(item["labels"]) == "I am image.\n"
    assert TOKENIZER.decode(item["input_ids"]) == "<|image_pad|>" * 9 + "I am image.\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "s1", ', r"train.jsonl:2: not valid JSON"),
        ("[]", r"train.jsonl:2: an entry must be a JSON object"),
        (_entry("s1", "<image>\nQ"), "1 <image> placeholders for 0 images"),
        (_entry("s1", "<image><image>Q", image="0.png"), "2 <image> placeholders for 1 images"),
        (
            _entry("s1", "<image>Q", image=["0.png", "1.png"], positions_thw="positions_thw.npy"),
            "1 <image> placeholders for 2 images",
        ),
        (_entry("s1", "<image>Q", image="lost.png"), "lost.png cannot be read"),
        ({"id": "s1", "conversations": [{"from": "gpt", "value": "A"}]}, "roles must alternate"),
        (_entry("s1", "Q" * 5000), "0 visual, .* exceed the limit of 4096"),
    ],
)
def test_a_broken_sample_is_named_and_the_others_go_on(
    tmp_path: Path, line: str | dict[str, Any], message: str
) -> None:
    path = _write_mixed(tmp_path)
    lines = path.read_text().splitlines()
    lines[1] = line if isinstance(line, str) else json.dumps(line)
    path.write_text("\n".join(lines))
    dataset = _dataset(path)
    where = "" if isinstance(line, str) else r"sample 's1' \(.*train.jsonl:2\): "
    with pytest.raises(ValueError, match=where + f".*{message}"):
        dataset[1]
    assert [dataset[index]["sample_id"] for index in (0, 2)] == ["codec", "text"]


def test_published_training_data_becomes_aligned_tokens(tmp_path: Path) -> None:
    reference = require_shared_data("reference_outputs")
    lines = (reference / "training_codec.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    for entry in entries:
        entry["image"] = ["/".join(Path(path).parts[-2:]) for path in entry["image"]]
        entry["positions_thw"] = "/".join(Path(entry["positions_thw"]).parts[-2:])
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    dataset = SupervisedDataset(
        path, TOKENIZER, VisualConfig(), image_folder=reference / "stage2", max_length=20000
    )
    item = dataset[0]
    (segment,) = item["segments"]
    assert segment.patches.shape == (10368, 588)
    assert segment.placeholder_tokens == (1296,) * 8
    assert segment.positions[:1296, 0].eq(0).all()
    assert segment.positions.max(0).values.tolist() == [63, 35, 35]
    answers = [turn["value"] for turn in entries[0]["conversations"] if turn["from"] == "gpt"]
    assert len(answers) > 1
    assert _supervised(item["labels"]) == "".join(f"{text}<|im_end|>\n" for text in answers)

    # A mosaic cell of 16 px becomes one patch: patch means follow cell means.
    with Image.open(reference / "stage2" / entries[0]["image"][3]) as mosaic:
        cells = np.asarray(mosaic, np.float64).reshape(36, 16, 36, 16, 3).mean((1, 3))
    scaled = (cells / 255 - VisualConfig().image_mean) / VisualConfig().image_std
    means = segment.normalised().patches[3 * 1296 : 4 * 1296].reshape(1296, 3, 196).mean(2).double()
    error = (means - torch.from_numpy(scaled.reshape(1296, 3))).abs()
    assert error.mean() < 0.02
