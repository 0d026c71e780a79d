"""Tables of the training page: whole runs, settings, data, starts, samples that were left out."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timezone
from html import escape
from statistics import fmean
from typing import Any

from llava.train.report.runs import Run
from run_kit.pages.page import table
from run_kit.pages.text import breakable, duration_text, short_number

_LAST_SHARE = 0.05
_MOST_SHOWN = 100
_SETTINGS = ("model", "data", "training", "deepspeed_settings")
NONE = "–"


def summary_table(runs: Sequence[Run]) -> str:
    """Return a table with one column per run: what was trained, and the outcome."""
    rows = [[label, *(describe(run) for run in runs)] for label, describe in _FACTS.items()]
    return table(["", *(run.name for run in runs)], rows, set())


def run_sections(runs: Sequence[Run]) -> list[str]:
    """Return the sections below the charts."""
    return [
        _differing_settings(runs),
        "<h2>Data</h2>",
        *(_data_section(run) for run in runs),
        "<h2>Starts</h2>",
        *(_starts_section(run) for run in runs),
        "<h2>Samples that could not be used</h2>",
        *(_bad_samples_section(run) for run in runs),
        "<h2>Versions</h2>",
        _versions_table(runs),
        "<h2>All settings</h2>",
        *(_settings_section(run) for run in runs),
    ]


def _sum(run: Run, name: str) -> float:
    return sum(row[name] for row in run.rows)


def _steps(run: Run) -> str:
    last = run.rows[-1]
    return f"{last['step']:,} (epoch {last['epoch']:.2f})"


def _loss(run: Run) -> str:
    losses: list[float | None] = [row["loss"] for row in run.rows]
    # Runs of earlier versions logged NaN where there is None now.
    good = [loss for loss in losses if loss is not None and math.isfinite(loss)]
    if not good:
        return "no finite value"
    tail = good[-max(1, math.ceil(_LAST_SHARE * len(good))) :]
    bad = len(losses) - len(good)
    text = f"{good[0]:.4g} at the first step, {fmean(tail):.4g} over the last 5 % of the steps"
    return f"{text}; {bad} logged steps were not finite" if bad else text


def _held_out_loss(run: Run) -> str:
    known = [(row["loss"], row["step"]) for row in run.validations if row["loss"] is not None]
    if not known:
        return NONE
    best, step = min(known)
    return f"{known[-1][0]:.4g} at step {known[-1][1]:,}; lowest {best:.4g} at step {step:,}"


def _tokens(run: Run) -> str:
    tokens, visual = _sum(run, "tokens"), _sum(run, "visual_tokens")
    return f"{short_number(tokens)}, {100 * visual / max(tokens, 1):.0f} % visual"


def _rate(run: Run) -> str:
    seconds = _sum(run, "seconds")
    rates = (_sum(run, name) / seconds for name in ("tokens", "visual_tokens"))
    tokens, visual = map(short_number, rates)
    return f"{tokens} tokens/s, {visual} visual"


def _mfu(run: Run) -> str:
    known = [(row["mfu"], row["seconds"]) for row in run.rows if row.get("mfu") is not None]
    if not known:
        flag = _command("--peak_tflops")
        return f"{NONE} (peak speed of the device is not known; train with {flag})"
    total = sum(seconds for _, seconds in known)
    return f"{100 * sum(mfu * seconds for mfu, seconds in known) / total:.1f} %"


def _time(run: Run) -> str:
    seconds = _sum(run, "seconds")
    waiting = 100 * _sum(run, "data_wait_seconds") / seconds
    return f"{duration_text(seconds)}, {waiting:.1f} % of it waiting for data"


def _memory(run: Run) -> str:
    parts = [
        (name, max((row.get(field) or 0 for row in run.rows), default=0))
        for name, field in (
            ("device", "peak_memory_bytes"),
            ("first process", "peak_host_memory_bytes"),
        )
    ]
    return ", ".join(f"{name} {size / 1e9:.2f} GB" for name, size in parts if size) or NONE


def _batch(run: Run) -> str:
    training = run.config.get("training")
    if training is None:
        return NONE
    parts = (
        training["per_device_train_batch_size"],
        training["gradient_accumulation_steps"],
        run.config["world_size"],
    )
    rows = "packed rows" if training.get("pack_sequences") else "samples"
    return f"{' x '.join(map(str, parts))} = {math.prod(parts)} {rows} a step"


def _parts(run: Run) -> str:
    parts = run.config.get("trainable_parameters", {})
    counts = (f"{breakable(name)} {short_number(count)}" for name, count in parts.items())
    return ", ".join(counts) or NONE


def _data(run: Run) -> str:
    data = run.config.get("data_fingerprint")
    if data is None:
        return NONE
    samples = "streamed" if data["samples"] is None else f"{data['samples']:,} samples"
    return f"{samples}, <code>{data['digest']}</code>"


def _times(count: int) -> str:
    return {0: "never", 1: "once"}.get(count, f"{count} times")


def _code(value: Any) -> str:
    return NONE if value is None else f"<code>{escape(str(value))}</code>"


_FACTS: dict[str, Callable[[Run], str]] = {
    "folder": lambda run: _code(run.folder),
    "model": lambda run: _code(run.config.get("model", {}).get("model_name_or_path")),
    "tuned parameters": _parts,
    "data": _data,
    "batch": _batch,
    "steps": _steps,
    "loss": _loss,
    "loss on held-out data": _held_out_loss,
    "tokens": _tokens,
    "speed": _rate,
    "share of the peak speed (MFU)": _mfu,
    "time": _time,
    "memory, peak": _memory,
    "resumed": lambda run: _times(len(run.resumes)),
    "samples left out": lambda run: str(len(run.bad_samples)),
    "device": lambda run: escape(str(run.config.get("device", NONE))),
    "code": lambda run: _code(run.config.get("code")),
}
"""Rows of the first table: label, and function that describes it for a run."""


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}" if name else key, inner)
    else:
        yield name, value


def _differing_settings(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return ""
    flat = [dict(_flat("", {key: run.config.get(key) for key in _SETTINGS})) for run in runs]
    names = dict.fromkeys(name for settings in flat for name in settings)
    rows = [
        [_code(name), *(_code(json.dumps(settings.get(name))) for settings in flat)]
        for name in names
        if len({json.dumps(settings.get(name)) for settings in flat}) > 1
    ]
    body = table(["setting", *(run.name for run in runs)], rows, set()) if rows else "<p>None.</p>"
    return "<h2>Settings that differ</h2>" + body


def _heading(run: Run) -> str:
    return f"<h3>{escape(run.name)}</h3>"


def _count(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def _taken(row: dict[str, Any]) -> str:
    """Return what is taken of a data set; of one in a streamed mixture its weight, too."""
    if "weight" not in row:
        return row["sampling_strategy"]
    how = f"{row['shards']} shards, streamed" if row["streaming"] else row["sampling_strategy"]
    return f"{how}, weight {row['weight']:g}"


def _data_section(run: Run) -> str:
    rows = [
        [
            escape(row["name"]),
            _count(row.get("samples")),
            _count(row.get("entries")),
            escape(_taken(row)),
            escape(row["type"] or "by its fields"),
            f"{short_number(row['size_bytes'])}B" if row["size_bytes"] else NONE,
            _clock(row["modified"] / 1e9) if row["modified"] else NONE,
            _code(row["edges"]),
            _code(row["path"]),
        ]
        for row in run.config.get("data_fingerprint", {}).get("datasets", [])
    ]
    header = [
        "data set",
        "samples",
        "of entries",
        "taken",
        "type",
        "size",
        "changed (UTC)",
        "checksum of its ends",
    ]
    return _heading(run) + table([*header, "file"], rows, {1, 2, 5})


def _clock(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, timezone.utc):%Y-%m-%d %H:%M:%S}"


def _starts_section(run: Run) -> str:
    rows: list[list[str]] = []
    versions: dict[str, Any] | None = None
    for start in run.config.get("starts", []):
        now = {**start["versions"], "code": start["code"]}
        changes = [*start["changes"]]
        if versions is not None:
            changes += [
                f"{name} {versions.get(name)} before, {text} now"
                for name, text in now.items()
                if versions.get(name) != text
            ]
        versions = now
        rows.append(
            [
                str(start["first_step"]),
                f"<span>{escape(_start_time(start['time']))}</span>",
                escape(start["host"]),
                "<br>".join(map(escape, changes)) or "none",
                _command(start["command"]),
            ]
        )
    return _heading(run) + table(
        ["first step", "time (UTC)", "host", "changes", "command"], rows, {0}
    )


def _start_time(text: str) -> str:
    """Return an ISO time with its zone in the form of ``_clock``."""
    return _clock(datetime.fromisoformat(text).timestamp())


def _command(text: str) -> str:
    """Return a command as HTML that breaks between its flags alone."""
    words: list[str] = []
    for word in text.split(" "):
        if word.startswith("-") or not words:
            words.append(word)
        else:
            words[-1] += f" {word}"
    spans = (f"<span>{escape(word)}</span>" for word in words)
    return f"<code>{' '.join(spans)}</code>"


def _bad_samples_section(run: Run) -> str:
    lines = "".join(f"<li>{escape(text)}</li>" for text in run.bad_samples[:_MOST_SHOWN])
    more = len(run.bad_samples) - _MOST_SHOWN
    rest = f"<p>... and {more} more in bad_samples.jsonl</p>" if more > 0 else ""
    return _heading(run) + (f"<ol>{lines}</ol>{rest}" if lines else "<p>None.</p>")


def _versions_table(runs: Sequence[Run]) -> str:
    versions = [run.config.get("versions", {}) for run in runs]
    names = dict.fromkeys(name for found in versions for name in found)
    rows = [
        [escape(name), *(escape(str(found.get(name) or NONE)) for found in versions)]
        for name in names
    ]
    return table(["package", *(run.name for run in runs)], rows, set())


def _settings_section(run: Run) -> str:
    settings = {key: run.config[key] for key in _SETTINGS if key in run.config}
    text = json.dumps(settings, indent=2)
    return f"<details><summary>{escape(run.name)}</summary><pre>{escape(text)}</pre></details>"
