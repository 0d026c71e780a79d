"""Clips of 1 to N mosaics made of blocks, from raw records to loss and answers.

A still clip and a busy one go through both stages, the validators, training batches, evaluation and
``llava.ask``, on a tiny model whose projector merges 2 x 2 patches. The decoder of JPEG and the
arrays on disk are the oracle, not the modules under test.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cv_reader.assets import AssetConfig
from cv_reader.assets.make import write_evaluation_asset
from cv_reader.assets.records import count_image_placeholders
from cv_reader.commands import precompute, stage1, stage2, validate
from llava.ask import Assistant
from llava.data.collator import Collator
from llava.data.dataset import SupervisedDataset
from llava.data.validate import main as validate_data
from llava.eval.plugin.answering import Answerer
from llava.eval.plugin.manifest import RunRecord
from llava.eval.plugin.preflight import check_assets
from llava.eval.plugin.requests import Sample
from llava.eval.plugin.visuals import VisualLoader
from llava.eval.settings import read_settings
from llava.generation import GenerationSettings
from llava.model.loading import load_pretrained
from llava.model.tiny import write_tiny_checkpoint
from llava.visual.batch import VisualSegment, pack_segments
from llava.visual.config import VisualConfig
from llava.visual.loading import load_asset, load_mosaics
from support.media import texture, write_video
from support.tolerances import MERGED_WEIGHTS, SAME_LOSS

GRID, CELL_PX, FRAMES, MOST = 8, 8, 8, 4
SIZES = ["--square_size", "64", "--patch_size", "8", "--num_images", "4", "--T", "8"]
QUALITY = ["--select", "rate_distortion", "--quality_db", "28", "--predict", "still"]
BLOCKS = ["--block_cells", "2"]
CLIPS = ("still", "busy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos, raw records, both stages' output with and without blocks, a merging checkpoint."""
    root = tmp_path_factory.mktemp("lengths")
    (root / "videos").mkdir()
    write_video(root / "videos" / "still.mp4", [texture(64, 64)] * 12)
    scenes = (texture(64, 64, seed=number // 2) for number in range(12))
    write_video(root / "videos" / "busy.mp4", scenes)
    rows = [
        {
            "id": name,
            "video": f"{name}.mp4",
            "conversations": [
                {"from": "human", "value": "<video>\nWhat is shown?"},
                {"from": "gpt", "value": f"The {name} clip."},
            ],
        }
        for name in CLIPS
    ]
    (root / "raw.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, flags in (("cells", QUALITY), ("blocks", [*QUALITY, *BLOCKS])):
        data = ["--dataset_path", str(root / "raw.jsonl"), "--video_root", str(root / "videos")]
        first, second = str(root / name / "first"), str(root / name / "second")
        run = [*data, "--num_workers", "1", *SIZES]
        assert stage1.main([*run, "--out_root", first, *flags]) == 0
        target = ["--out_image_root", second, "--out_jsonl", str(root / name / "train.jsonl")]
        pack = ["--mode", "pack", "--visidx_root", first, "--write_positions"]
        assert stage2.main([*run, *pack, *target]) == 0
    write_tiny_checkpoint(root / "model", patches_per_side=GRID, projector_type="spatial_merge")
    return root


def _records(folder: Path, name: str = "blocks") -> list[dict[str, Any]]:
    lines = (folder / name / "train.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def _counts(folder: Path) -> list[int]:
    return [len(record["image"]) for record in _records(folder)]


def test_clips_have_the_mosaics_that_they_need(folder: Path) -> None:
    counts = _counts(folder)
    assert counts[0] == 1 < counts[1] <= MOST
    for record, count in zip(_records(folder), counts, strict=True):
        assert count_image_placeholders(record["conversations"]) == count
        assert np.load(record["positions_thw"]).shape == (count * GRID**2, 3)
    for part in ("first", "second", "train.jsonl"):
        assert validate.main([str(folder / "blocks" / part), "--num_workers", "1"]) == 0


def test_each_token_joins_four_neighbours_of_one_frame(folder: Path) -> None:
    """The encoder sees raster order here, and the blocks are cut by hand from its output."""
    model, processor = load_pretrained(folder / "model")
    record = _records(folder)[1]
    images, grid = [Path(path) for path in record["image"]], GRID
    rows = np.load(record["positions_thw"]).reshape(len(images), grid, grid, 3)
    corner = rows[:, ::2, ::2]
    for down, right in ((0, 1), (1, 0), (1, 1)):
        assert np.array_equal(rows[:, down::2, right::2] - corner, corner * 0 + [0, down, right])
    assert not (corner[..., 1:] % 2).any()

    segment = load_mosaics(images, Path(record["positions_thw"]), processor.visual)
    assert segment.placeholder_tokens == (grid**2 // 4,) * len(images)
    side = grid * 14
    pictures = [Image.open(path).resize((side, side), Image.Resampling.BICUBIC) for path in images]
    pixels = np.stack([np.asarray(picture, np.float32) for picture in pictures]) / 255
    mean, std = processor.visual.image_mean, processor.visual.image_std
    cut = ((pixels - np.array(mean)) / np.array(std)).reshape(len(images), grid, 14, grid, 14, 3)
    raster = torch.from_numpy(cut.transpose(0, 1, 3, 5, 2, 4).reshape(-1, 588)).float()
    encoder = model.model.vision_tower  # type: ignore[attr-defined]
    plain = VisualSegment(
        raster, torch.from_numpy(rows.reshape(-1, 3)).long(), (grid**2,) * len(images)
    )
    with torch.inference_mode():
        features = encoder(pack_segments([[plain]]))
        blocks = features.view(len(images), grid // 2, 2, grid // 2, 2, -1).transpose(2, 3)
        joined = blocks.reshape(-1, 4 * features.shape[-1])
        normed = model.model.mm_projector.norm(joined.view(-1, features.shape[-1]))  # type: ignore[attr-defined]
        expected = model.model.mm_projector.mlp(normed.view(joined.shape))  # type: ignore[attr-defined]
        found = model.model.mm_projector(encoder(pack_segments([[segment]])))  # type: ignore[attr-defined]
    torch.testing.assert_close(found, expected, **MERGED_WEIGHTS)


def _dataset(folder: Path, name: str = "blocks") -> SupervisedDataset:
    _, processor = load_pretrained(folder / "model")
    return SupervisedDataset(
        folder / name / "train.jsonl", processor.tokenizer, processor.visual, max_length=4096
    )


@pytest.mark.parametrize("packed", [False, True])
def test_one_batch_of_both_has_the_loss_of_separate_ones(folder: Path, packed: bool) -> None:
    model, processor = load_pretrained(folder / "model")
    model.train()  # type: ignore[attr-defined]
    dataset = _dataset(folder)
    per_mosaic = GRID**2 // 4
    visual = [dataset.length(index)[1] for index in range(2)]
    assert visual == [per_mosaic * count for count in _counts(folder)]
    collate = Collator(processor.pad_token_id, model.config.image_token_id, packed=packed)
    losses, weights = [], []
    for items in ([dataset[0]], [dataset[1]], [dataset[0], dataset[1]]):
        batch: dict[str, Any] = dict(collate(items))
        info = batch.pop("info")
        with torch.no_grad():
            losses.append(float(model(**batch).loss))  # type: ignore[operator]
        weights.append(int((batch["labels"][:, 1:] != -100).sum()))
        assert sum(info.segment_patches) == 4 * int(batch["visual"].tokens_per_sample(2).sum())
    mean = (losses[0] * weights[0] + losses[1] * weights[1]) / (weights[0] + weights[1])
    assert np.isfinite(losses).all()
    assert losses[2] == pytest.approx(mean, rel=SAME_LOSS)
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


def test_data_without_blocks_are_refused_with_the_flag(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--model_name_or_path", str(folder / "model"), "--workers", "0"]
    assert validate_data([str(folder / "cells" / "train.jsonl"), *arguments]) == 1
    text = capsys.readouterr().out
    assert "sample 'busy'" in text
    assert "spatial_merge" in text and "--block_cells 2 --overwrite to cv_reader stage1" in text
    with pytest.raises(ValueError, match="sample 'busy' .*spatial_merge.*--block_cells 2"):
        _dataset(folder, "cells")[1]
    assert validate_data([str(folder / "blocks" / "train.jsonl"), *arguments]) == 0


def _arguments(folder: Path, **changes: object) -> dict[str, Any]:
    sizes = {"seq_len_frames": FRAMES, "num_images": MOST, "square_size": 64, "patch_size": CELL_PX}
    values: dict[str, Any] = {f"codec_{name}": value for name, value in sizes.items()}
    return {"pretrained": folder / "model", "device": "cpu", "max_new_tokens": 6} | values | changes


ASKED = {"codec_select": "rate_distortion", "codec_quality_db": "28", "codec_predict": "still"}


def _precompute(folder: Path, out: Path, flags: list[str]) -> Path:
    listing = folder / "evaluation.jsonl"
    rows = [{"video": str(folder / "videos" / f"{name}.mp4"), "key": name} for name in CLIPS]
    listing.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = ["--jsonl", str(listing), "--out_root", str(out), "--num_workers", "1", *SIZES, *flags]
    assert precompute.main(run) == 0
    return out / "assets"


def _loader(folder: Path, **changes: object) -> VisualLoader:
    _, processor = load_pretrained(folder / "model")
    return VisualLoader(read_settings(_arguments(folder, **changes), {}), processor.visual)


@pytest.mark.slow
def test_the_run_makes_the_assets_that_the_command_makes(folder: Path, tmp_path: Path) -> None:
    offline = _precompute(folder, tmp_path / "offline", [*QUALITY, *BLOCKS])
    loader = _loader(folder, codec_miss="online", codec_cache=tmp_path / "cache", **ASKED)
    videos = [str(folder / "videos" / f"{name}.mp4") for name in CLIPS]
    assert loader.missing(videos) == videos
    for name, visual in zip(CLIPS, loader.load(videos), strict=True):
        assert visual.asset is not None
        made = {path.name: path.read_bytes() for path in visual.asset.folder.iterdir()}
        expected = {path.name: path.read_bytes() for path in (offline / name).iterdir()}
        for both in (made, expected):
            meta = json.loads(both.pop("meta.json"))
            assert meta["fingerprint"] == loader.config.fingerprint
        assert made == expected
        config = loader._visual_config
        assert visual.segment.placeholder_tokens == (
            load_asset(offline / name, config).placeholder_tokens
        )
    # Assets of other settings than those that the run would make are refused at once.
    (offline / "busy").rename(tmp_path / "elsewhere")
    mixed = {name: value for name, value in ASKED.items() if name != "codec_quality_db"}
    loader = _loader(
        folder,
        codec_miss="online",
        codec_cache=tmp_path / "other",
        codec_root=offline,
        **mixed,
    )
    with pytest.raises(ValueError, match="quality_db=28.0 where 0.0 is asked for"):
        loader.missing(videos)
    with pytest.raises(ValueError, match="made with quality_db=28.0, .* codec_quality_db=20.0"):
        _loader(folder, codec_root=offline, **{**ASKED, "codec_quality_db": 20}).missing(videos)


@pytest.mark.slow
def test_the_command_of_the_refusal_makes_blocks(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assets = _precompute(folder, tmp_path / "offline", QUALITY)
    settings = read_settings(_arguments(folder, codec_root=assets), {})
    videos = [str(folder / "videos" / f"{name}.mp4") for name in CLIPS]
    loader = _loader(folder, codec_root=assets)
    with pytest.raises(SystemExit) as stopped:
        check_assets([videos[1]], loader, settings, tmp_path)
    assert stopped.value.code == 2
    text = capsys.readouterr().err
    assert "spatial_merge" in text
    command = text.split("Make the assets again:\n  python ")[1].split("\n")[0].split()
    assert command[command.index("--block_cells") + 1] == "2" and command[-1] == "--overwrite"
    assert precompute.main([*command[1:], "--num_workers", "1"]) == 0
    loader = _loader(folder, codec_root=assets)
    assert loader.missing([videos[1]]) == []
    meta = json.loads((assets / "busy" / "meta.json").read_text())
    assert (meta["cfg"]["block_cells"], meta["cfg"]["quality_db"]) == (2, 28.0)


@pytest.mark.slow
def test_a_batch_of_both_is_answered_as_one_by_one(folder: Path, tmp_path: Path) -> None:
    assets = _precompute(folder, tmp_path / "offline", [*QUALITY, *BLOCKS])
    model, processor = load_pretrained(folder / "model")
    videos = [str(folder / "videos" / f"{name}.mp4") for name in CLIPS]
    samples = [
        Sample(name=video, task="toy", context="What is shown?", second={}, visuals=[video])
        for video in videos
    ]
    settings = GenerationSettings(max_new_tokens=8)

    def answers(batches: list[list[Sample]]) -> tuple[list[str], list[int]]:
        record = RunRecord()
        answerer = Answerer(model, processor, _loader(folder, codec_root=assets), record)
        found = [one for batch in batches for one in answerer.generate(batch, settings)]
        assert sum(record.visuals.values()) == record.visuals["hits"] == 2
        return [one.content for one in found], record.visual_tokens

    together, tokens = answers([samples])
    assert answers([[sample] for sample in samples]) == (together, tokens)
    counts = [len(list((assets / name).glob("*.jpg"))) for name in CLIPS]
    assert tokens == [GRID**2 // 4 * count for count in counts]
    assert counts[0] == 1 < counts[1]
    assert len(set(together)) == 2


def test_asking_takes_the_settings_of_assets(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assistant = Assistant.load(folder / "model", "cpu")
    seen: dict[str, Any] = {}
    generate = assistant.model.generate
    monkeypatch.setattr(
        assistant.model, "generate", lambda **given: seen.update(given) or generate(**given)
    )
    settings = {"select": "rate_distortion", "quality_db": 28, "predict": "still"}
    tokens = []
    for name in CLIPS:
        video = folder / "videos" / f"{name}.mp4"
        assistant.ask(video, "What?", num_images=4, max_new_tokens=1, sequence_length=8, **settings)
        tokens.append(int(seen["visual"].tokens_per_sample(1)[0]))
    assert tokens[0] == GRID**2 // 4 < tokens[1]
    with pytest.raises(ValueError, match="qualty is no setting"):
        assistant.ask(video, "What?", qualty=3)


def test_eight_mosaics_of_the_published_size_are_2592_tokens(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", [texture(90, 160, seed=number) for number in range(64)])
    config = AssetConfig(block_cells=2, signal="framediff")
    asset = write_evaluation_asset(video, key="a", out_root=tmp_path, config=config)
    merging = VisualConfig(patches_per_side=36, merge_side_patches=2)
    segment = load_asset(asset.folder, merging)
    assert segment.placeholder_tokens == (324,) * 8
    assert sum(segment.placeholder_tokens) == 2592
