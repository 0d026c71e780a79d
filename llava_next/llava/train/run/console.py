"""What a run prints: a table with one line per logged step, and the time that is left."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from run_kit.pages.text import duration_text, short_number

_HEADER_EVERY = 25
_MOST_SETS = 4
_NAME_WIDTH = 8


class ConsoleTable(TrainerCallback):
    """Prints the figures of each logged step, on the first rank.

    Args:
        set_names: names of the data sets; their losses are shown where there are few sets.
        stream: where to print; default is standard error.
    """

    def __init__(self, set_names: Sequence[str], stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._sets = _titles(set_names) if 1 < len(set_names) <= _MOST_SETS else {}
        self._lines = 0
        self._started, self._first_step = 0.0, 0

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Start the clock, and say which data sets the cut titles mean."""
        self._started, self._first_step = time.perf_counter(), state.global_step
        cut = [f"{title} = {name}" for name, title in self._sets.items() if title != name]
        if cut and state.is_world_process_zero:
            self._print(f"losses of data sets: {', '.join(cut)}")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Print the line of a step, or that of a validation."""
        logs: Mapping[str, Any] = kwargs["logs"]
        if state.is_world_process_zero and "eval_loss" in logs:
            self._print(_validation_line(state.global_step, logs))
        if not state.is_world_process_zero or "loss" not in logs:
            return
        columns = self._columns(state, logs)
        if self._lines % _HEADER_EVERY == 0:
            self._print("  ".join(title.rjust(len(text)) for title, text in columns))
        self._lines += 1
        self._print("  ".join(text for _, text in columns))

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Print what was done, and the command that shows the figures."""
        if state.is_world_process_zero:
            steps = state.global_step - self._first_step
            seconds = time.perf_counter() - self._started
            self._print(
                f"{steps} steps in {duration_text(seconds)}; plots: python -m llava.train.report "
                f"{args.output_dir}"
            )

    def _columns(self, state: TrainerState, logs: Mapping[str, Any]) -> list[tuple[str, str]]:
        """Return (title, text) pairs of a line; a title's texts have one width in every line."""
        total = f"{state.max_steps}"
        done = state.global_step - self._first_step
        left = (time.perf_counter() - self._started) / max(done, 1)
        left *= state.max_steps - state.global_step
        columns = [("step", f"{state.global_step:>{max(4, len(total))}}/{total}")]
        columns += [
            (title, _cell(logs.get(name), show, width)) for title, width, name, show in _FIGURES
        ]
        columns += [
            (title, _cell(logs.get(f"loss_{name}"), "{:.4f}".format, _NAME_WIDTH))
            for name, title in self._sets.items()
        ]
        return [*columns, ("left", f"{duration_text(left):>11}")]

    def _print(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()


def _titles(names: Sequence[str]) -> dict[str, str]:
    """Return a title of at most `_NAME_WIDTH` characters for each name, all of them different."""
    cut = [name[:_NAME_WIDTH] for name in names]
    return {
        name: title if cut.count(title) == 1 else f"{name[: _NAME_WIDTH - 2]}~{number}"
        for number, (name, title) in enumerate(zip(names, cut, strict=True), 1)
    }


def _validation_line(step: int, logs: Mapping[str, Any]) -> str:
    sets = ", ".join(
        f"{name.removeprefix('eval_loss_')} {loss:.4f}"
        for name, loss in logs.items()
        if name.startswith("eval_loss_")
    )
    seconds = duration_text(logs["eval_seconds"])
    return f"held-out data at step {step}: loss {logs['eval_loss']:.4f} ({sets}) in {seconds}"


def _cell(value: Any, show: Callable[[Any], str], width: int) -> str:
    return ("-" if value is None else show(value)).rjust(width)


_FIGURES: tuple[tuple[str, int, str, Callable[[Any], str]], ...] = (
    ("epoch", 6, "epoch", "{:.3f}".format),
    ("loss", 7, "loss", "{:.4f}".format),
    ("rate", 8, "learning_rate", "{:.2e}".format),
    ("gradient", 8, "grad_norm", "{:.3f}".format),
    ("tokens/s", 8, "tokens_per_second", short_number),
    ("visual/s", 8, "visual_tokens_per_second", short_number),
    ("wait s", 6, "data_wait_seconds", "{:.2f}".format),
    ("MFU %", 5, "mfu", lambda value: f"{100 * value:.1f}"),
    ("GB", 5, "peak_memory_bytes", lambda value: f"{value / 1e9:.1f}"),
    ("bad", 4, "bad_samples", "{:d}".format),
)
"""Title, width, name in the logs, how it is written."""
