"""Sizes of images: LLaVA-NeXT's canvas rule, several images, the budget, small images."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from llava.visual.config import (
    PROCESSOR_FILE,
    PUBLISHED_RULES,
    ProcessorSettings,
    VisualConfig,
    read_processor_settings,
    write_processor_settings,
)
from llava.visual.segments import image_visual
from llava.visual.sizes import best_canvas, plan_images
from support.image_grids import image_grid

PINPOINTS = ((574, 1120), (1120, 574), (1120, 1120), (1694, 574), (574, 1694))
ANYRES = VisualConfig(image_aspect_ratio="anyres", image_grid_pinpoints=PINPOINTS)


@pytest.mark.parametrize(
    ("size", "llava_next", "most_detail"),
    [
        # By hand: all canvases hold a small image whole. LLaVA-NeXT then takes the smallest that
        # the list names first (two have the same area), in both orientations.
        ((300, 200), (574, 1120), (1120, 574)),
        ((448, 448), (574, 1120), (1120, 574)),
        ((200, 300), (574, 1120), (574, 1120)),
        ((640, 480), (1120, 574), (1120, 574)),
        ((1920, 1080), (1120, 1120), (1120, 1120)),
        ((3000, 900), (1694, 574), (1694, 574)),
    ],
)
def test_the_rule_decides_the_canvas(
    size: tuple[int, int], llava_next: tuple[int, int], most_detail: tuple[int, int]
) -> None:
    assert best_canvas(*size, PINPOINTS, rule="llava_next") == llava_next
    assert best_canvas(*size, PINPOINTS) == most_detail


def _next_rule(width: int, height: int, canvases: list[tuple[int, int]]) -> tuple[int, int]:
    """The published rule as a loop over the list: more survives, or as much with less waste."""
    best, most, least = canvases[0], -1, 0
    for canvas_width, canvas_height in canvases:
        scale = min(canvas_width / width, canvas_height / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        waste = canvas_width * canvas_height - kept
        if kept > most or (kept == most and waste < least):
            best, most, least = (canvas_width, canvas_height), kept, waste
    return best


def test_published_checkpoints_get_the_published_canvas_for_every_size() -> None:
    for width in range(40, 2400, 97):
        for height in range(40, 2400, 89):
            expected = _next_rule(width, height, list(PINPOINTS))
            assert best_canvas(width, height, PINPOINTS, rule="llava_next") == expected


def test_a_small_image_is_not_enlarged_but_where_the_checkpoint_was_trained_so() -> None:
    assert image_grid(300, 200, ANYRES) == (14, 21)
    assert image_grid(300, 200, replace(ANYRES, **PUBLISHED_RULES)) == (80, 41)
    published = replace(ANYRES, **PUBLISHED_RULES)
    assert image_grid(2000, 1500, ANYRES) == image_grid(2000, 1500, published) == (80, 80)
    assert image_grid(2000, 4, ANYRES) == (41, 121)  # too flat for a grid of its own


@pytest.mark.parametrize("mode", ["anyres", "native"])
def test_several_images_have_base_size_each(mode: str) -> None:
    config = replace(ANYRES, image_aspect_ratio=mode)
    plans = plan_images([(1920, 1080), (280, 140), (1080, 1920)], config)
    assert [(plan.rows, plan.columns) for plan in plans] == [(36, 36), (10, 20), (36, 36)]
    assert [plan.keeps_aspect for plan in plans] == [True, False, True]
    each = plan_images([(3000, 900)] * 2, replace(config, multi_image="each", max_image_tokens=0))
    assert [(plan.rows, plan.columns) for plan in each] == [image_grid(3000, 900, config)] * 2


@pytest.mark.parametrize("merge", [1, 2])
@pytest.mark.parametrize("count", [2, 8, 9, 50, 400])
def test_the_images_of_a_sample_fit_the_budget(count: int, merge: int) -> None:
    config = replace(ANYRES, merge_side_patches=merge, max_image_tokens=10368 // merge**2)
    sizes = [(2000, 1500), (60, 60)] * (count // 2) + [(900, 3000)] * (count % 2)
    plans = plan_images(sizes, config)
    tokens = sum(plan.rows * plan.columns for plan in plans) // merge**2
    unlimited = plan_images(sizes, replace(config, max_image_tokens=0))
    if sum(plan.rows * plan.columns for plan in unlimited) // merge**2 <= 10368 // merge**2:
        assert plans == unlimited
    else:
        assert 0.5 * config.max_image_tokens < tokens <= config.max_image_tokens
    assert all(plan.rows % merge == plan.columns % merge == 0 for plan in plans)


def test_more_images_than_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 3 images, one token each.*got 4; split"):
        plan_images([(50, 50)] * 4, replace(ANYRES, max_image_tokens=3))


def test_a_single_image_has_no_budget() -> None:
    assert image_grid(1920, 1080, replace(ANYRES, max_image_tokens=10)) == (80, 80)


def test_a_planned_image_has_the_patches_of_its_plan() -> None:
    images = [Image.new("RGB", size) for size in ((1200, 700), (150, 100))]
    plans = plan_images([image.size for image in images], ANYRES)
    pairs = zip(images, plans, strict=True)
    segments = [image_visual(image, ANYRES, plan) for image, plan in pairs]
    assert [len(segment.patches) for segment in segments] == [36 * 36, 7 * 11]


def test_the_file_names_the_rules_and_older_files_keep_the_older_ones(
    tmp_path: Path,
) -> None:
    write_processor_settings(tmp_path, ProcessorSettings(ANYRES, "qwen_1_5"))
    path = tmp_path / PROCESSOR_FILE
    values = json.loads(path.read_text())
    assert values["visual"]["canvas_rule"] == "most_detail"
    assert read_processor_settings(tmp_path).visual == ANYRES
    for name in PUBLISHED_RULES:
        del values["visual"][name]
    path.write_text(json.dumps(values))
    older = read_processor_settings(tmp_path).visual
    assert older == replace(ANYRES, **{**PUBLISHED_RULES, "canvas_rule": "most_detail"})


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema_version": 1, "visual": 3}'])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / PROCESSOR_FILE).write_text(text)
    with pytest.raises(ValueError, match="llava_processor.json"):
        read_processor_settings(tmp_path)
