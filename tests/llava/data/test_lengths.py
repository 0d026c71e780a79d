"""Lengths counted in blocks against the samples themselves, and the file that keeps them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llava.conversation import TokenCounter, encode, expand_placeholders, render
from llava.data.dataset import SupervisedDataset
from llava.data.lengths import measure_lengths, read_lengths, shared_lengths
from llava.model.tiny import tiny_tokenizer
from llava.train.smoke import write_mixture
from llava.visual.config import VisualConfig
from support.tokenizer import byte_tokenizer

CONFIG = VisualConfig(patches_per_side=8)


def _open(path: Path, **options: object) -> SupervisedDataset:
    return SupervisedDataset(path, tiny_tokenizer(), CONFIG, max_length=4096, **options)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Samples of all kinds; the third line is no JSON, the fourth names a picture that is lost."""
    path = write_mixture(tmp_path, kinds=("codec", "image", "images", "text"))
    lines = path.read_text().splitlines()
    lines[2] = "{"
    lines[5] = lines[5].replace("image_1.png", "lost.png")
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("workers", [0, 2])
def test_counted_lengths_are_those_of_the_built_samples(data: Path, workers: int) -> None:
    dataset = _open(data)
    lengths = measure_lengths(dataset, workers=workers)
    assert [bad["index"] for bad in lengths.bad_samples] == [2, 5]
    for index in set(range(len(dataset))) - {2, 5}:
        item = dataset[index]
        visual = sum(sum(segment.placeholder_tokens) for segment in item["segments"])
        assert lengths.visual[index] == visual
        assert lengths.total[index] == len(item["input_ids"])


def test_the_counter_agrees_with_encode_on_text_that_spells_tokens_and_line_breaks() -> None:
    tokenizer = byte_tokenizer()
    texts = ["", "\n\n", "a\n\nb <image>\n\n", "<|im_start|>x<|image_pad|>", "é" * 100, "\n" * 5]
    prompts = [
        expand_placeholders(
            render(
                [{"from": "human", "value": text}, {"from": "gpt", "value": f"{text}."}], sample="s"
            ),
            [7] * text.count("<image>"),
            sample="s",
        )
        for text in texts
    ]
    expected = [len(encode(pieces, tokenizer)[0]) for pieces in prompts]
    counter = TokenCounter(tokenizer)
    assert counter.count(prompts) == expected
    assert counter.count(prompts[::-1]) == expected[::-1]  # also from what it has kept


def test_a_tokenizer_that_would_inject_is_refused_when_counting() -> None:
    counter = TokenCounter(byte_tokenizer(marked_special=False))
    turns = [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]
    with pytest.raises(ValueError, match="must be marked special"):
        counter.count([render(turns, sample="s")])


def test_lengths_are_kept_beside_the_data_and_read_the_next_time(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = shared_lengths(_open(data), tmp_path / "run")
    [kept] = tmp_path.glob("train.jsonl.lengths-*.npz")
    monkeypatch.setattr("llava.data.lengths.measure_lengths", None)
    again = shared_lengths(_open(data), tmp_path / "run")
    assert np.array_equal(again.total, first.total)
    assert again.bad_samples == first.bad_samples
    assert not (tmp_path / "run").exists()
    kept.write_bytes(b"damaged")
    monkeypatch.undo()
    assert np.array_equal(shared_lengths(_open(data), tmp_path / "run").total, first.total)


def test_a_repaired_picture_counts_without_measuring_all_again(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_lengths(_open(data), tmp_path)
    (tmp_path / "lost.png").write_bytes((tmp_path / "image_1.png").read_bytes())
    monkeypatch.setattr("llava.data.lengths.measure_lengths", None)
    lengths = shared_lengths(_open(data), tmp_path)
    assert [bad["index"] for bad in lengths.bad_samples] == [2]
    assert lengths.visual[5] == 64


def test_another_setting_or_another_file_gets_another_measurement(data: Path) -> None:
    folder = data.parent
    shared_lengths(_open(data), folder)
    shared_lengths(SupervisedDataset(data, tiny_tokenizer(), CONFIG, max_length=50), folder)
    data.write_text(data.read_text() + "\n" + json.dumps({"conversations": []}))
    assert len(shared_lengths(_open(data), folder).text) == 17
    assert len(list(folder.glob("train.jsonl.lengths-*.npz"))) == 3


def test_a_folder_that_cannot_be_written_to_leaves_the_file_in_the_run(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, run = _open(data), tmp_path / "run"
    blocked = tmp_path / f"train.jsonl.lengths-{dataset.fingerprint()}.npz"
    blocked.mkdir()  # a folder of that name cannot be replaced by a file
    lengths = shared_lengths(dataset, run)
    [kept] = run.glob("*.npz")
    found = read_lengths(kept, dataset.fingerprint())
    assert found is not None and np.array_equal(found.total, lengths.total)


_RANK = """
import sys
from datetime import timedelta
import torch.distributed as dist
from run_kit.ranks import from_first_rank

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2,
                        timeout=timedelta(seconds=60))

def make():
    assert rank == 0
    return 7

def fail():
    raise ValueError("no data")

print(from_first_rank(make, 60))
try:
    from_first_rank(fail, 60)
except ValueError as error:
    print(error)
dist.destroy_process_group()
"""


@pytest.mark.slow
def test_other_ranks_get_what_the_first_makes_or_its_error(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", _RANK, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    assert [rank.communicate(timeout=120)[0].split("\n") for rank in ranks] == [
        ["7", "no data", ""]
    ] * 2
