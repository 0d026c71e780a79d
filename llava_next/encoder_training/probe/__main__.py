"""Judge a frozen encoder by attentive probes on labelled videos.

    python -m encoder_training.probe --dataset ssv2 --model_weight ENCODER --output_dir runs/ssv2

alone or under torchrun. docs/probe.md explains data, inputs and results; ``--help`` every setting.

Exit codes: 0 done; 1 clips could not be read, or the run failed (what is
done remains, and the same command continues); 2 settings, lists or installation wrong, nothing
started; 130 interrupted.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from encoder_training.probe.clips import ClipView
from encoder_training.probe.features import (
    CachedFeatures,
    JoinedSegments,
    StreamedFeatures,
    segments_of,
)
from encoder_training.probe.material import label_table, list_row, read_material, say_once
from encoder_training.probe.report import (
    PREDICTIONS_FILE,
    RESULT_FILE,
    probe_page,
    read_result,
)
from encoder_training.probe.scores import confusion, per_class, score_clips
from encoder_training.probe.settings import ProbeSettings
from encoder_training.probe.state import (
    HEAD_FILE,
    append_report,
    check_same_run,
    load_checkpoint,
    prediction_rows,
    save_checkpoint,
    save_head,
)
from encoder_training.probe.training import (
    FeatureSource,
    Labelled,
    ProbeTraining,
    split_for_choice,
)
from run_kit.arguments import parse_settings
from run_kit.checkpoints import check_sharing, find_checkpoint
from run_kit.exits import FAILED_SAMPLES, INTERRUPTED, OK, USAGE, ExitOnError, say
from run_kit.files import write_json, write_json_lines, write_text
from run_kit.log import CONFIG_FILE
from run_kit.pages.text import duration_text
from run_kit.ranks import gather, join_group, leave, rank_and_size
from run_kit.versions import code_state, package_versions

_PACKAGES = ("torch", "transformers", "safetensors", "numpy", "av")
_SHOWN = 20


class BrokenClips(RuntimeError):
    """Clips that cannot be read end the run."""


class Probing:
    """A run of the command."""

    def __init__(self, settings: ProbeSettings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.folder = Path(settings.output_dir)
        self.material = read_material(settings, device)
        self.several = settings.data_set().has_several_labels
        dtype = getattr(torch, settings.feature_dtype)
        train_view = ClipView(draw=0) if settings.augmentation != "none" else ClipView()
        self.train_views = [
            train_view._replace(draw=number) if train_view.draw is not None else train_view
            for number in range(settings.train_views)
        ]
        self.val_views = [
            ClipView(segment, settings.val_segments, crop, settings.val_crops)
            for segment in range(settings.val_segments)
            for crop in range(settings.val_crops)
        ]
        self.streams = {
            role: StreamedFeatures(
                clips, self.material.how, self.material.encoder, dtype=dtype,
                encode_batch=settings.encode_batch, num_workers=settings.num_workers,
                input_dir=Path(settings.input_dir) if settings.input_dir else None,
            )
            for role, clips in (("train", self.material.train), ("val", self.material.val))
        }  # fmt: skip
        self.seconds = {"encoding": 0.0, "training": 0.0, "scoring": 0.0}
        self.sources: dict[str, Any] = dict(self.streams)
        if settings.features == "cached":
            folder = Path(settings.feature_dir or self.folder / "features")
            views = {"train": self.train_views, "val": self.val_views}
            if settings.num_segments > 1:
                views = {
                    role: [
                        part for view in own for part in segments_of(view, settings.num_segments)
                    ]
                    for role, own in views.items()
                }
            self.sources = {
                role: CachedFeatures(
                    stream, folder, role, views=views[role],
                    clips_per_shard=settings.clips_per_shard,
                )
                for role, stream in self.streams.items()
            }  # fmt: skip

    def encode(self) -> dict[str, str]:
        """Fill the cache; returns the clips that cannot be read, by their path."""
        broken: dict[str, str] = {}
        for role, source in self.sources.items():
            if not isinstance(source, CachedFeatures):
                continue
            start = time.perf_counter()
            source.fill(partial(_tell_progress, role, start))
            self.seconds["encoding"] += time.perf_counter() - start
            broken |= source.broken
        return broken

    def features(self, role: str) -> FeatureSource:
        """Return the features of the clips of a list, of all their segments."""
        source, count = self.sources[role], self.settings.num_segments
        return JoinedSegments(source, count) if count > 1 else source

    def training(self, broken: dict[str, str]) -> ProbeTraining:
        """Return the training on the clips that can be read."""
        settings, material = self.settings, self.material
        labels = label_table(material.train, material.num_classes)
        train, choice = split_for_choice(labels, settings.choice_share, settings.seed)
        there = [clip.video not in broken for clip in material.train.clips]
        train, choice = ([i for i in part if there[i]] for part in (train, choice))
        if not train or (settings.choice_share > 0 and not choice):
            raise ValueError(
                f"{material.train.path} must have clips to train on and to choose by, got "
                f"{len(train)} and {len(choice)}; lower --choice_share, or add clips"
            )
        if settings.shuffle_labels:
            order = np.random.default_rng([settings.seed, 5]).permutation(len(labels))
            labels = labels[torch.from_numpy(order)]
        source = self.features("train")
        choice_views = self.train_views[:1] if settings.features == "cached" else [ClipView()]
        return ProbeTraining(
            settings,
            Labelled(source, labels, train, self.train_views),
            Labelled(source, labels, choice, choice_views),
            width=material.encoder.width,
            device=self.device,
            has_several_labels=self.several,
        )

    def about(self) -> dict[str, Any]:
        """Return what makes a run another one."""
        material = self.material
        return {
            "settings": dataclasses.asdict(self.settings),
            "data": {
                "train": list_row(material.train),
                "val": list_row(material.val),
                "num_classes": material.num_classes,
            },
            "encoder": {"fingerprint": material.encoder.fingerprint},
        }

    def train(self, training: ProbeTraining, about: dict[str, Any]) -> None:
        """Train to the end, with checkpoints."""
        start = time.perf_counter() - training.progress.seconds
        every, total = self.settings.save_steps, self.settings.default_epoch
        while not training.is_done:
            for step in training.epoch():
                if every and step % every == 0 and step < training.steps_per_epoch:
                    training.progress.seconds = time.perf_counter() - start
                    save_checkpoint(self.folder, training, about)
            self._stop_at_broken()
            training.progress.seconds = time.perf_counter() - start
            save_checkpoint(self.folder, training, about)
            row = training.progress.history[-1]
            best = training.progress.best
            text = f"epoch {row['step']}/{total}: loss {min(row['loss']):.4f}"
            if best is not None and row.get("choice"):
                text += f"; clips to choose by {max(row['choice']):.2f}, best {best.score:.2f}"
            say_once(text)
        self.seconds["training"] = training.progress.seconds

    def _stop_at_broken(self) -> None:
        """End a streamed run whose epoch met broken clips, unless they are to be skipped."""
        if self.settings.features == "streamed" and self.settings.on_broken == "stop":
            self.refuse(self.all_broken())

    def all_broken(self) -> dict[str, str]:
        """Return the broken clips that all ranks met."""
        own = {
            video: why for source in self.sources.values() for video, why in source.broken.items()
        }
        return {video: why for part in gather(own) for video, why in part.items()}

    def refuse(self, broken: dict[str, str]) -> None:
        """End the run if there are broken clips.

        Raises:
            BrokenClips: naming them.
        """
        if broken:
            raise BrokenClips(
                f"{len(broken)} clips cannot be read:\n  {_listed(broken)}\nRepair or remove them "
                "and run again, which continues, or leave them out with --on_broken skip"
            )

    def finish(self, training: ProbeTraining, about: dict[str, Any]) -> dict[str, Any]:
        """Score the chosen head once on the clips to score, and write everything."""
        settings, material, progress = self.settings, self.material, training.progress
        if progress.best is None:
            raise ArithmeticError("every probe diverged; lower --default_lr_list")
        start = time.perf_counter()
        labels = label_table(material.val, material.num_classes)
        there = [clip.video not in self.sources["val"].broken for clip in material.val.clips]
        data = Labelled(
            self.features("val"), labels, [i for i, ok in enumerate(there) if ok], self.val_views
        )
        indices, predictions = training.predict(training.best_head, data)
        self._stop_at_broken()
        self.seconds["scoring"] = time.perf_counter() - start
        broken = self.all_broken()
        if not indices:
            raise BrokenClips(f"no clip of {material.val.path} can be read")
        kept, probabilities = labels[indices], predictions[0]
        found = score_clips(probabilities, kept, has_several_labels=self.several)
        videos = [material.val.clips[index].video for index in indices]
        size = rank_and_size()[1]
        counts = gather([sum(s.num_tokens for s in self.streams.values()),
                         sum(s.num_encoded for s in self.streams.values())])  # fmt: skip
        tokens, encoded = (sum(part) for part in zip(*counts, strict=True))
        best = progress.best
        result: dict[str, Any] = {
            **about,
            "score": found._asdict(),
            "chosen": {
                "rate": training.probes[best.probe][0], "decay": training.probes[best.probe][1],
                **best._asdict(),
            },
            "probes": [{"rate": rate, "decay": decay} for rate, decay in training.probes],
            "history": progress.history,
            "broken": broken,
            "classes": material.classes,
            "per_class": per_class(probabilities, kept),
            "confusion": confusion(probabilities, kept).tolist(),
            "cost": {
                "tokens_per_clip": self._tokens_per_clip(), "encoded_clips": encoded,
                "encoded_tokens": tokens, "num_ranks": size, "device": _device_name(self.device),
                "seconds": self.seconds, "device_hours": sum(self.seconds.values()) * size / 3600,
            },
            "versions": package_versions(_PACKAGES),
            "code": code_state(Path(__file__).parent),
        }  # fmt: skip
        result["encoder"] = {
            **about["encoder"], "name": settings.model_name or material.encoder.name,
            "family": material.encoder.family, "width": material.encoder.width,
            "size_px": material.how.size_px, "other_tokens": material.encoder.num_other_tokens,
        }  # fmt: skip
        if rank_and_size()[0] == 0:
            self._write(result, training, prediction_rows(videos, probabilities, kept))
        return result

    def _tokens_per_clip(self) -> float | None:
        """Return the tokens of a scored clip's view, all its segments, from its features."""
        source: Any = self.sources["val"]
        if isinstance(source, CachedFeatures):
            return source.mean_tokens() * self.settings.num_segments
        stream = self.streams["val"]
        if not stream.num_encoded:
            return None
        return stream.num_tokens / stream.num_encoded * self.settings.num_segments

    def _write(
        self, result: dict[str, Any], training: ProbeTraining, rows: list[dict[str, Any]]
    ) -> None:
        settings, is_new = self.settings, not (self.folder / RESULT_FILE).is_file()
        summary = {key: result[key] for key in ("score", "chosen", "encoder", "data")}
        save_head(self.folder / HEAD_FILE, training.best_head, summary)
        write_json_lines(self.folder / PREDICTIONS_FILE, rows)
        write_json(self.folder / RESULT_FILE, result)
        write_text(self.folder / "report.html", probe_page([read_result(self.folder)]))
        if settings.save_report and is_new:
            kind, count = settings.kind_and_count()
            path = append_report(
                Path(settings.save_report), settings.model_weight, settings.data_set().name,
                result["score"]["top1"], count if kind != "frames" else 0,
            )  # fmt: skip
            say(f"report line: {path}")


def _tell_progress(role: str, start: float, done: int, total: int) -> None:
    """Say how far the features of a list are: at each power of two, and at the end."""
    if done & (done - 1) == 0 or done == total:
        left = duration_text((time.perf_counter() - start) / done * (total - done))
        say_once(f"features of {role}: {done} of {total} shards, {left} left")


def _listed(broken: dict[str, str]) -> str:
    lines = [f"{video}: {why}" for video, why in sorted(broken.items())]
    more = [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    return "\n  ".join([*lines[:_SHOWN], *more])


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def run_probe(settings: ProbeSettings, state: ExitOnError | None = None) -> dict[str, Any]:
    """Run a probe to its result; every rank must call it.

    Raises:
        ValueError: before anything starts, if settings, lists or the encoder do not fit.
        BrokenClips: if clips cannot be read.
    """
    device = join_group(settings.use_cpu)
    folder = Path(settings.output_dir)
    check_sharing(folder)
    checkpoint = find_checkpoint(folder, "auto" if settings.resume else None)
    probe = Probing(settings, device)
    about = probe.about()
    if checkpoint is not None:
        check_same_run(checkpoint, about)
    if rank_and_size()[0] == 0:
        write_json(folder / CONFIG_FILE, about)
    if state is not None:
        state.code = FAILED_SAMPLES
    broken = probe.encode()
    if settings.on_broken == "stop":
        probe.refuse(broken)
    training = probe.training(broken)
    if checkpoint is not None:
        load_checkpoint(checkpoint, training)
    probe.train(training, about)
    return probe.finish(training, about)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; see the module's text for the exit codes."""
    with ExitOnError(USAGE) as state:
        (settings,) = parse_settings(
            "encoder_training.probe",
            (ProbeSettings,),
            argv,
            description=__doc__,
            required="--dataset NAME --model_weight DIR",
        )
        try:
            result = run_probe(settings, state)
        except KeyboardInterrupt:
            return INTERRUPTED
    say_once(_sentence(result, settings))
    leave()
    if result["broken"]:
        say_once(f"{len(result['broken'])} clips were left out:\n  {_listed(result['broken'])}")
        return FAILED_SAMPLES
    return OK


def _sentence(result: dict[str, Any], settings: ProbeSettings) -> str:
    found, chosen = result["score"], result["chosen"]
    precision = found["mean_average_precision"]
    mean = "" if precision is None else f", mAP {precision:.2f}"
    return (
        f"{settings.data_set().name} {found['top1']:.2f} (top-5 {found['top5']:.2f}{mean}; "
        f"{found['num_clips']:,} clips; rate {chosen['rate']:g}, decay {chosen['decay']:g}, epoch "
        f"{chosen['epoch']}); page: {Path(settings.output_dir) / 'report.html'}"
    )


if __name__ == "__main__":
    sys.exit(main())
