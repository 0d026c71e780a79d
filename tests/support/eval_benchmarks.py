"""Small copies of benchmarks, as lmms-eval's own tasks read them offline: a few made clips under
the real folder and file names or made pictures, two questions each in the real annotation schema.

In every task the right answer to the first question is its first option, A, and to the second it
is B. A model that always says A therefore scores one of two.
"""

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from datasets import DatasetInfo, Features
from datasets import Image as ImageFeature
from datasets.naming import camelcase_to_snakecase
from datasets.splits import SplitDict, SplitInfo
from PIL import Image
from safetensors.torch import load_file, save_file

from llava.conversation import IM_END
from llava.eval.benchmarks.table import find_benchmark
from llava.model.tiny import tiny_tokenizer, write_tiny_checkpoint
from support.media import moving_square, texture, write_video

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Annotations:
    """One split of one configuration of a data set; ``dataset`` where the table names none."""

    config: str
    split: str
    rows: Rows
    dataset: str = ""


@dataclass(frozen=True)
class Copy:
    """A made benchmark.

    Attributes:
        videos: files below the cache folder.
        annotations: what its data set holds.
        metric: name of the score, by task.
        score: what always saying A gives.
        keys: of the assets that preparation must make.
        frame_folder: below the cache folder, a video as a folder of images.
    """

    videos: tuple[str, ...]
    annotations: tuple[Annotations, ...]
    metric: str
    score: Any
    keys: tuple[str, ...]
    frame_folder: str = ""


def _videomme() -> Copy:
    rows: Rows = [
        {
            "video_id": f"00{number}",
            "duration": "short",
            "domain": "Knowledge",
            "sub_category": "Astronomy",
            "url": f"https://www.youtube.com/watch?v={name}",
            "videoID": name,
            "question_id": f"00{number}-1",
            "task_type": "Counting Problem",
            "question": "How many squares move?",
            "options": ["A. One.", "B. Two.", "C. Three.", "D. Four."],
            "answer": answer,
        }
        for number, (name, answer) in enumerate([("fFjv93ACGo8", "A"), ("N1cdUjctpG8", "B")])
    ]
    return Copy(
        videos=("data/fFjv93ACGo8.mp4", "data/N1cdUjctpG8.mkv"),
        annotations=(Annotations("videomme", "test", rows),),
        metric="videomme_perception_score",
        score=50.0,
        keys=("fFjv93ACGo8", "N1cdUjctpG8"),
    )


_MVBENCH_FOLDERS = {
    "action_sequence": "star/Charades_segment",
    "moving_count": "clevrer/video_validation",
    "action_prediction": "star/Charades_segment",
    "episodic_reasoning": "tvqa/video_fps3_hq_segment",
    "action_antonym": "ssv2_video_mp4",
    "action_count": "perception/videos",
    "scene_transition": "scene_qa/video",
    "object_shuffle": "perception/videos",
    "object_existence": "clevrer/video_validation",
    "fine_grained_pose": "nturgbd_convert",
    "unexpected_action": "FunQA_test/test",
    "moving_direction": "clevrer/video_validation",
    "state_change": "perception/videos",
    "object_interaction": "star/Charades_segment",
    "character_order": "perception/videos",
    "action_localization": "sta/sta_video_segment",
    "counterfactual_inference": "clevrer/video_validation",
    "fine_grained_action": "Moments_in_Time_Raw/videos",
    "moving_attribute": "clevrer/video_validation",
    "egocentric_navigation": "vlnqa",
}


def _mvbench() -> Copy:
    """One clip per folder, all with the same name: only the folder tells them apart."""
    videos: list[str] = []
    annotations: list[Annotations] = []
    for task, folder in _MVBENCH_FOLDERS.items():
        name = "friends_s01e01_seg01_clip_00" if task == "episodic_reasoning" else "1.mp4"
        if f"{folder}/{name}" not in videos and name.endswith(".mp4"):
            videos.append(f"{folder}/{name}")
        rows: Rows = [
            {"video": name, "question": "What moves?", "candidates": ["red", "blue"], "answer": it}
            for it in ("red", "blue")
        ]
        annotations.append(Annotations(task, "train", rows))
    return Copy(
        videos=tuple(videos),
        annotations=tuple(annotations),
        metric="mvbench_accuracy",
        score=50.0,
        keys=tuple(video.removesuffix(".mp4").replace("/", "__") for video in videos),
        frame_folder="tvqa/video_fps3_hq_segment/friends_s01e01_seg01_clip_00",
    )


def _perceptiontest() -> Copy:
    rows: Rows = [
        {
            "video_name": "video_1580",
            "question_id": str(number),
            "question": "Is the camera moving?",
            "options": ["Yes", "No", "I do not know"],
            "answer_id": str(number),
            "area": "physics",
            "reasoning": "descriptive",
            "tag": ["motion"],
        }
        for number in range(2)
    ]
    return Copy(
        videos=("videos/video_1580.mp4",),
        annotations=(Annotations("mc_question_val", "validation", rows),),
        metric="accuracy",
        score=0.5,
        keys=("video_1580",),
    )


def _nextqa() -> Copy:
    rows: Rows = [
        {
            "video": 4010069381,
            "frame_count": 12,
            "width": 64,
            "height": 48,
            "question": "how do the two squares play",
            "answer": number,
            "qid": number,
            "type": "CH",
            **{f"a{option}": f"way {option}" for option in range(5)},
        }
        for number in range(2)
    ]
    return Copy(
        videos=("NExTVideo/4010069381.mp4",),
        annotations=(Annotations("MC", "test", rows),),
        metric="exact_match",
        score=0.5,
        keys=("4010069381",),
    )


def _temporalbench() -> Copy:
    rows: Rows = [
        {
            "idx": number,
            "video_name": f"video/ActivityNet/v_{number}.mp4",
            "dataset": "ActivityNet",
            "question": "Which caption matches?\nA. Up.\nB. Down.\nAnswer with the letter.",
            "GT": answer,
            "category": "",
        }
        for number, answer in enumerate("AB")
    ]
    return Copy(
        videos=tuple(row["video_name"] for row in rows),
        annotations=(Annotations("default", "test_long_qa", rows),),
        metric="temporalbench_score",
        score=[50.0, 50.0],
        keys=("video__ActivityNet__v_0", "video__ActivityNet__v_1"),
    )


def _video_mmmu() -> Copy:
    names = ("validation_Art_Theory_1", "validation_Math_7")

    def rows(kinds: tuple[str, str], answers: tuple[str, str]) -> Rows:
        return [
            {
                "id": name,
                "question": "Which one?",
                "options": ["One", "Two", "Three"],
                "answer": answer,
                "question_type": kind,
            }
            for name, kind, answer in zip(names, kinds, answers, strict=True)
        ]

    options = ("multiple-choice", "multiple-choice")
    questions = {
        "Adaptation": rows(("multiple-choice", "open"), ("A", "12.5")),
        "Comprehension": rows(options, ("A", "B")),
        "Perception": rows(options, ("A", "B")),
    }
    return Copy(
        videos=("Art/validation_Art_Theory_1.mp4", "Science/validation_Math_7.mp4"),
        annotations=tuple(Annotations(name, "test", rows) for name, rows in questions.items()),
        metric="mmmu_acc",
        score=0.5,
        keys=("Art__validation_Art_Theory_1", "Science__validation_Math_7"),
    )


def _tomato() -> Copy:
    rows: Rows = [
        {
            "id": str(number),
            "question": "Which way does the square turn?",
            "options": ["left", "right"],
            "answer": number,
            "video_path": f"videos/{kind}/0001-01.mp4",
            "reason_type": "rotation",
            "demonstration_type": kind,
        }
        for number, kind in enumerate(("human", "object"))
    ]
    return Copy(
        videos=tuple(row["video_path"] for row in rows),
        annotations=(Annotations("default", "test", rows),),
        metric="tomato_score",
        score=0.5,
        keys=("videos__human__0001-01", "videos__object__0001-01"),
    )


def _longvideobench() -> Copy:
    rows: Rows = [
        {
            "id": f"86CxyhFV9MI_{number}",
            "video_id": "86CxyhFV9MI",
            "video_path": "86CxyhFV9MI.mp4",
            "subtitle_path": "86CxyhFV9MI_en.json",
            "question": "What is on the screen?",
            "question_category": "S2E",
            "topic_category": "NP-News-Programs",
            "duration_group": 15,
            "duration": 10.0,
            "starting_timestamp_for_subtitles": 0,
            "correct_choice": number,
            **{f"option{option}": f"thing {option}" for option in range(3)},
            "option3": "N/A",
            "option4": "N/A",
        }
        for number in range(2)
    ]
    return Copy(
        videos=("videos/86CxyhFV9MI.mp4",),
        annotations=(Annotations("default", "validation", rows),),
        metric="lvb_acc",
        score=0.5,
        keys=("86CxyhFV9MI",),
    )


def _mlvu_dev() -> Copy:
    rows: Rows = [
        {
            "video_name": f"{kind}_1.mp4",
            "duration": 10.0,
            "question": "What is it?\n(A) one\n(B) two",
            "candidates": ["one", "two"],
            "answer": answer,
            "task_type": kind,
            "question_id": f"{kind}_1_0",
        }
        for kind, answer in (("ego", "A"), ("needle", "B"))
    ]
    return Copy(
        videos=("ego_1.mp4", "needle_1.mp4"),
        annotations=(Annotations("default", "test", rows),),
        metric="mlvu_percetion_score",
        score=100 / 7,  # the mean over seven kinds of question, five of them without any
        keys=("ego_1", "needle_1"),
    )


def _picture(seed: int) -> dict[str, Any]:
    """An image inside a data set: its bytes."""
    buffer = io.BytesIO()
    Image.fromarray(texture(40, 56, seed=seed)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _images(config: str, split: str, rows: Rows, metric: str, score: float) -> Copy:
    shown: Rows = [{**row, "image": _picture(seed)} for seed, row in enumerate(rows)]
    return Copy((), (Annotations(config, split, shown),), metric, score, ())


def _ai2d() -> Copy:
    options = ["larva", "pupa", "egg", "adult"]
    rows: Rows = [
        {"question": "What is labelled C?", "options": options, "answer": it} for it in ("0", "1")
    ]
    return _images("default", "test", rows, "exact_match", 0.5)


def _chartqa() -> Copy:
    rows: Rows = [
        {"type": kind, "question": "Which bar is highest?", "answer": answer}
        for kind, answer in (("human_test", "A"), ("augmented_test", "B"))
    ]
    return _images("default", "test", rows, "relaxed_overall", 0.5)


def _docvqa() -> Copy:
    rows: Rows = [
        {
            "questionId": str(number),
            "question": "What is the letter on the page?",
            "question_types": ["handwritten"],
            "docId": number,
            "ucsf_document_id": "nkbl0226",
            "ucsf_document_page_no": "1",
            "answers": answers,
        }
        for number, answers in enumerate((["a page", "A"], ["B"]))
    ]
    return _images("DocVQA", "validation", rows, "anls", 0.5)


def _ocrbench() -> Copy:
    rows: Rows = [
        {
            "dataset": "IIIT5K",
            "question": "what is written in the image?",
            "question_type": "Regular Text Recognition",
            "answer": [answer],
        }
        for answer in ("A", "CENTRE")
    ]
    return _images("default", "test", rows, "ocrbench_accuracy", 1 / 1000)


def _arc_easy() -> Copy:
    """Text alone, scored by likelihoods; of these options, only one is what the model says."""
    rows: Rows = [
        {
            "id": f"Mercury_{number}",
            "question": "Which letter comes first?",
            "choices": {"text": ["A", "not this"], "label": ["A", "B"]},
            "answerKey": answer,
        }
        for number, answer in enumerate("AB")
    ]
    parts = tuple(
        Annotations("ARC-Easy", split, rows, "allenai/ai2_arc")
        for split in ("train", "validation", "test")
    )
    return Copy((), parts, "acc", 0.5, ())


COPIES: dict[str, Callable[[], Copy]] = {
    "videomme": _videomme,
    "mvbench": _mvbench,
    "perceptiontest": _perceptiontest,
    "nextqa": _nextqa,
    "temporalbench": _temporalbench,
    "video_mmmu": _video_mmmu,
    "tomato": _tomato,
    "longvideobench": _longvideobench,
    "mlvu_dev": _mlvu_dev,
}
"""Benchmarks with videos."""

OTHER_COPIES: dict[str, Callable[[], Copy]] = {
    "ai2d": _ai2d,
    "chartqa": _chartqa,
    "docvqa_val": _docvqa,
    "ocrbench": _ocrbench,
    "arc_easy": _arc_easy,
}
"""Benchmarks with images, and one that the table does not know, without any."""


def write_copy(name: str, hf_home: Path) -> Copy:
    """Write the made copy of a benchmark below ``HF_HOME``."""
    benchmark = find_benchmark(name)
    copy = {**COPIES, **OTHER_COPIES}[name]()
    folder = hf_home / (benchmark.cache_folder if benchmark else "")
    for seed, video in enumerate(copy.videos):
        path = folder / video
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, moving_square(10 + seed % 3, 48, 64, seed=seed))
    if copy.frame_folder:
        (folder / copy.frame_folder).mkdir(parents=True)
        for number in range(12):
            picture = Image.fromarray(texture(48, 64, seed=number))
            picture.save(folder / copy.frame_folder / f"{number + 1:05d}.jpg")
    for annotations in copy.annotations:
        dataset = annotations.dataset or (benchmark.dataset if benchmark else "")
        _write_annotations(dataset, annotations, hf_home / "datasets")
    return copy


def _write_annotations(dataset: str, annotations: Annotations, folder: Path) -> None:
    """A prepared data set as the ``datasets`` library leaves it in its cache."""
    owner, _, name = dataset.partition("/")
    stem = camelcase_to_snakecase(name)
    target = folder / f"{owner}___{stem}" / annotations.config / "0.0.0" / ("0" * 40)
    target.mkdir(parents=True, exist_ok=True)
    features = Features.from_arrow_schema(pa.Table.from_pylist(annotations.rows).schema)
    if "image" in features:
        features["image"] = ImageFeature()
    table = pa.Table.from_pylist(annotations.rows, schema=features.arrow_schema)
    with (
        pa.OSFile(str(target / f"{stem}-{annotations.split}.arrow"), "wb") as sink,
        pa.ipc.new_stream(sink, table.schema) as writer,
    ):
        writer.write_table(table)
    info = DatasetInfo(
        features=features,
        builder_name="parquet",
        dataset_name=stem,
        config_name=annotations.config,
        version="0.0.0",
        splits=SplitDict(dataset_name=stem),
    )
    if (target / "dataset_info.json").exists():
        info = DatasetInfo.from_directory(str(target))
    assert info.splits is not None
    info.splits.add(SplitInfo(annotations.split, num_examples=len(table), dataset_name=stem))
    info.write_to_directory(str(target))


def write_checkpoint_that_says_a(folder: Path) -> Path:
    """A tiny checkpoint whose greedy answer is "A" to every prompt.

    Its decoder layers add nothing, so what comes next depends on the last token alone: after "A"
    the end of the turn, after anything else "A".
    """
    write_tiny_checkpoint(folder)
    tokenizer = tiny_tokenizer()
    [letter] = tokenizer.encode("A", add_special_tokens=False)
    end = tokenizer.convert_tokens_to_ids(IM_END)
    [path] = folder.glob("*.safetensors")
    weights = load_file(path)
    for name, weight in weights.items():
        if re.search(r"model\.layers\.\d+\.(self_attn\.o_proj|mlp\.down_proj)", name):
            weight.zero_()
    embedding, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    other, ended = torch.eye(embedding.shape[1])[:2]
    embedding.copy_(other.expand_as(embedding))
    embedding[letter] = ended
    head.zero_()
    head[letter], head[end] = other, ended
    save_file(weights, path, {"format": "pt"})
    return folder


def read_samples(folder: Path, task: str) -> Iterator[dict[str, Any]]:
    """The samples that an evaluation wrote for a task."""
    [path] = folder.glob(f"**/*_samples_{task}.jsonl")
    return map(json.loads, path.read_text(encoding="utf-8").splitlines())
