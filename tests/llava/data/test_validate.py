"""The validator's figures against the samples themselves, and its exit codes."""

import json
from pathlib import Path

import numpy as np
import pytest

from llava.data.dataset import SupervisedDataset
from llava.data.lengths import measure_lengths, read_lengths, save_lengths
from llava.data.training_memory import count_parameters, read_model_size, training_gigabytes
from llava.data.validate import histogram, main
from llava.model.tiny import tiny_tokenizer, write_tiny_checkpoint
from llava.train.smoke import write_mixture
from llava.visual.config import VisualConfig

CONFIG = VisualConfig(patches_per_side=8)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("validate")
    write_tiny_checkpoint(folder / "model")
    write_mixture(folder / "data")
    return folder


def _dataset(path: Path, **options: object) -> SupervisedDataset:
    return SupervisedDataset(path, tiny_tokenizer(), CONFIG, max_length=4096, **options)


def test_lengths_are_those_of_the_samples(material: Path) -> None:
    dataset = _dataset(material / "data" / "train.jsonl")
    lengths = measure_lengths(dataset)
    for index in range(len(dataset)):
        item = dataset[index]
        assert lengths.visual[index] == sum(len(s.patches) for s in item["segments"])
        assert lengths.total[index] == len(item["input_ids"])


def test_lengths_are_kept_for_the_same_data_and_settings(material: Path, tmp_path: Path) -> None:
    dataset = _dataset(material / "data" / "train.jsonl")
    lengths, path = measure_lengths(dataset), tmp_path / "deep" / "lengths.npz"
    save_lengths(lengths, path, dataset.fingerprint())
    again = read_lengths(path, dataset.fingerprint())
    assert again is not None and np.array_equal(again.total, lengths.total)
    assert read_lengths(path, "another") is None
    path.write_bytes(b"no file of lengths")
    with pytest.raises(ValueError, match="lengths.npz is no file of lengths"):
        read_lengths(path, dataset.fingerprint())


def test_the_fingerprint_follows_the_settings(material: Path) -> None:
    path = material / "data" / "train.jsonl"
    assert _dataset(path).fingerprint() == _dataset(path).fingerprint()
    assert _dataset(path, template="plain").fingerprint() != _dataset(path).fingerprint()


def _validate(material: Path, data: Path, *flags: str) -> int:
    return main([str(data), "--model_name_or_path", str(material / "model"), *flags])


def test_a_sound_mixture_is_code_0_with_its_figures(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mix = material / "data" / "mix.yaml"
    mix.write_text("datasets:\n  - {json_path: train.jsonl}\n  - {json_path: captions.jsonl}\n")
    flags = ("--num_gpus", "2", "--gradient_accumulation_steps", "2", "--memory", "--pixels")
    assert _validate(material, mix, "--out", str(tmp_path), *flags) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert [row["name"] for row in report["datasets"]] == ["train", "captions"]
    # 4 clips of 2 mosaics and 4 images of 64 patches; the images again.
    assert [row["visual_tokens"] for row in report["datasets"]] == [4 * 128 + 4 * 64, 4 * 64]
    assert report["visual_histogram"] == {"0": 4, "64..127": 8, "128..255": 4}
    assert report["steps"] == 4  # 16 samples, 2 ranks, 2 accumulated
    assert report["broken"] == 0 and report["memory_gigabytes"]["sum"] > 0
    assert (tmp_path / "failures.jsonl").read_text() == ""
    assert "train" in capsys.readouterr().out


def test_packing_needs_fewer_steps(material: Path, tmp_path: Path) -> None:
    data = material / "data" / "train.jsonl"
    flags = ("--out", str(tmp_path), "--pack_sequences", "--model_max_length", "600")
    assert _validate(material, data, *flags) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["rows"] < 12 and report["row_tokens"] <= 600


def test_broken_samples_are_code_1_and_listed_by_file_and_line(
    material: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (material / "data" / "train.jsonl").read_text().splitlines()
    lines[2], lines[4] = "{", lines[4].replace("image_1.png", "lost.png")
    data = material / "data" / "broken.jsonl"
    data.write_text("\n".join(lines))
    assert _validate(material, data, "--out", str(tmp_path)) == 1
    failures = [json.loads(line) for line in (tmp_path / "failures.jsonl").read_text().splitlines()]
    assert [row["index"] for row in failures] == [2, 4]
    output = capsys.readouterr().out
    assert "broken.jsonl:3: not valid JSON" in output
    assert "broken.jsonl:5" in output and "lost.png cannot be read" in output


def test_damaged_pixels_are_found_when_asked_for(material: Path, tmp_path: Path) -> None:
    picture = (material / "data" / "image_0.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(picture[: len(picture) // 2])
    turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": "A"}]
    data = tmp_path / "cut.jsonl"
    data.write_text(json.dumps({"image": "cut.png", "conversations": turns}))
    assert _validate(material, data) == 0
    assert _validate(material, data, "--pixels") == 1


@pytest.mark.parametrize("data", ["lost.jsonl", "lost.yaml", "data/image_0.png"])
def test_wrong_data_paths_are_code_2(
    material: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _validate(material, material / data) == 2
    assert "error: " in capsys.readouterr().err


def test_a_model_that_is_no_folder_is_code_2(material: Path, tmp_path: Path) -> None:
    data = str(material / "data" / "train.jsonl")
    assert main([data, "--model_name_or_path", str(tmp_path / "none")]) == 2


def test_classes_of_the_histogram_are_powers_of_two() -> None:
    values = np.array([0, 1, 2, 3, 4, 7, 8])
    assert histogram(values) == {"0": 1, "1": 1, "2..3": 2, "4..7": 2, "8..15": 1}


def test_memory_follows_the_weights_and_the_stage(material: Path) -> None:
    from llava.model.loading import load_pretrained

    model, _ = load_pretrained(material / "model")
    numbers = sum(weight.numel() for weight in model.parameters())
    assert count_parameters(material / "model") == numbers
    size = read_model_size(material / "model")
    alone, shared = (
        training_gigabytes(size, row_tokens=100, world_size=4, zero_stage=stage) for stage in (0, 3)
    )
    assert alone["optimiser"] == pytest.approx(12 * numbers / 1e9, abs=1e-3)
    assert shared["weights"] == pytest.approx(alone["weights"] / 4, abs=1e-3)
    assert shared["activations"] == alone["activations"]
