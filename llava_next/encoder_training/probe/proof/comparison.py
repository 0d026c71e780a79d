"""Compare the inputs of a proof: intervals over seeds and clips, the verdict, table and page."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from statistics import mean, stdev

from encoder_training.probe.proof.actions import ACTIONS
from encoder_training.probe.proof.plan import FRAMES, PUBLISHED, RATE_DISTORTION, Proof
from encoder_training.probe.report import ProbeRun, probe_page
from run_kit.files import write_json, write_text
from run_kit.pages.page import table

_T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}
"""Factor of a 95 % interval of a mean of so many seeds, by Student's distribution."""
GOAL_POINTS = 3.0
"""By how much the best codec selection is to be better than frames, with disjoint intervals."""


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean of some seeds and its 95 % interval; of one seed NaN for the ends."""
    if len(values) < 2:
        return values[0], math.nan, math.nan
    half = _T95.get(len(values), 2.6) * stdev(values) / math.sqrt(len(values))
    return mean(values), mean(values) - half, mean(values) + half


def group_scores(run: ProbeRun, *, is_made: bool = True) -> dict[str, float]:
    """Return the top-1 of all classes and, of made actions, of these and of the controls."""
    counts = run.result["per_class"]
    groups = {"all": counts}
    if is_made:
        groups |= {"actions": counts[: len(ACTIONS)], "controls": counts[len(ACTIONS) :]}
    return {
        name: 100 * sum(correct for correct, _ in rows) / sum(total for _, total in rows)
        for name, rows in groups.items()
    }


def clip_interval(
    runs: Sequence[ProbeRun], others: Sequence[ProbeRun] | None = None
) -> tuple[float, float, float]:
    """Return top-1 in percent, each clip scored by the mean of the seeds, and its 95 % interval.

    Args:
        runs: one of each seed.
        others: what to subtract clip by clip: then the change in points.
    """
    values: list[float] = []
    for video in runs[0].correct:
        value = mean(float(run.correct[video]) for run in runs)
        if others is not None:
            value -= mean(float(run.correct[video]) for run in others)
        values.append(value)
    half = 1.96 * stdev(values) / math.sqrt(len(values))
    middle = mean(values)
    return 100 * middle, 100 * (middle - half), 100 * (middle + half)


def verdict(runs: dict[str, list[ProbeRun]]) -> str:
    """Say whether the best codec selection reaches the goal against whole frames."""
    scores = {arm: clip_interval(own) for arm, own in runs.items()}
    best = max((PUBLISHED, RATE_DISTORTION), key=lambda arm: scores[arm][0])
    points = scores[best][0] - scores[FRAMES][0]
    is_apart = scores[best][1] > scores[FRAMES][2]
    word = "met" if is_apart and points >= GOAL_POINTS else "missed"
    return (
        f"Goal {word}: the best codec selection ({best}) is {points:+.1f} points from whole "
        f"frames, their intervals over clips are {'disjoint' if is_apart else 'not disjoint'}; "
        f"asked are {GOAL_POINTS:+.0f} points and disjoint intervals."
    )


def write_proof_page(proof: Proof, runs: dict[str, list[ProbeRun]]) -> str:
    """Write figures and page of all seeds; returns the verdict."""
    out, is_made = proof.out, proof.data is None
    figures = {
        arm: [group_scores(run, is_made=is_made) for run in own] for arm, own in runs.items()
    }
    says = verdict(runs)
    about = {
        **asdict(proof.sizes), **asdict(proof.inputs), "seeds": list(proof.seeds),
        "encoder": str(proof.encoder or ""), "data": str(proof.data or ""),
    }  # fmt: skip
    changes = {arm: clip_interval(own, runs[FRAMES]) for arm, own in runs.items()}
    clips = {arm: clip_interval(own) for arm, own in runs.items()}
    content = {
        "settings": about,
        "figures": figures,
        "over_clips": clips,
        "against_frames": changes,
    }
    write_json(out / "figures.json", {**content, "verdict": says})
    groups = {"all": "all %", "actions": "actions %", "controls": "appearance controls %"}
    groups = {name: text for name, text in groups.items() if name in figures[FRAMES][0]}
    rows: list[list[str]] = []
    for arm, scores in figures.items():
        cells = [arm, f"{runs[arm][0].result['cost']['tokens_per_clip']:.0f}"]
        for group in groups:
            middle, low, high = interval([score[group] for score in scores])
            cells.append(_with_interval(middle, max(low, 0.0), min(high, 100.0)))
        _, low, high = clips[arm]
        cells += [f"{low:.1f} to {high:.1f}"]
        cells += ["" if arm == FRAMES else _with_interval(*changes[arm], sign="+")]
        rows.append(cells)
    last = ("interval over clips", "against frames, points")
    header = ("input", "tokens", *groups.values(), *last)
    chance = 100 / runs[FRAMES][0].result["data"]["num_classes"]
    origin = "given" if proof.encoder else "pretrained on other pictures and clips, without labels"
    several = len(proof.seeds) > 1
    spread = (
        "; in brackets the 95 % interval of Student's distribution over them" if several else ""
    )
    note = (
        f"<p>{len(proof.seeds)} seed{'s' if several else ''}{spread}. The interval over clips "
        "takes each clip's mean of the seeds, the last column its change. Chance is "
        f"{chance:.1f} %. The encoder was {origin}. Below: the first seed.</p>"
    )
    lines = [header, ["---"] * len(header), *rows]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    write_text(out / "table.md", f"{text}\n{says}\n")
    table_of_all = table(header, rows, set(range(1, len(header))))
    summary = f"<h2>Inputs at equal tokens</h2>{table_of_all}<p>{says}</p>{note}"
    first = [own[0]._replace(name=arm.replace(",", "")) for arm, own in runs.items()]
    start, found, rest = probe_page(first).partition("</h1>\n")
    write_text(out / "report.html", f"{start}{found}{summary}{rest}")
    return says


def _with_interval(middle: float, low: float, high: float, sign: str = "") -> str:
    text = f"{middle:{sign}.1f}"
    return text if math.isnan(low + high) else f"{text} ({low:{sign}.1f} to {high:{sign}.1f})"
