"""Read how a task wants answers generated: its settings and its stop strings.

Defaults are those of the reference implementation: greedy, at most 1024 new tokens. Sampling is on
exactly where the temperature is above 0.
"""

from collections.abc import Mapping
from typing import Any

from llava.generation import GenerationSettings

_NUMBERS = ("max_new_tokens", "temperature", "top_p", "top_k", "num_beams", "repetition_penalty")


def read_generation_settings(
    task_settings: Mapping[str, Any], max_new_tokens: int
) -> tuple[GenerationSettings, dict[str, Any]]:
    """Read a task's ``generation_kwargs``.

    Args:
        task_settings: ``generation_kwargs`` of the task.
        max_new_tokens: limit where the task states none.

    Returns:
        The settings, and those of the task that have no meaning here (``image_aspect_ratio``: the
        checkpoint decides; ``do_sample``: the temperature does).

    Raises:
        ValueError: if ``until`` is neither a string nor a list of strings.
    """
    values = {name: task_settings[name] for name in _NUMBERS if task_settings.get(name) is not None}
    ignored = {
        name: value for name, value in task_settings.items() if name not in (*_NUMBERS, "until")
    }
    settings = GenerationSettings(
        **{"max_new_tokens": max_new_tokens, **values}, until=_stop_strings(task_settings)
    )
    if ignored.get("do_sample") == (settings.temperature > 0):
        del ignored["do_sample"]
    return settings, ignored


def _stop_strings(task_settings: Mapping[str, Any]) -> tuple[str, ...]:
    until = task_settings.get("until") or []
    texts = [until] if isinstance(until, str) else until
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"generation_kwargs.until must be a string or a list of strings, got {until!r}; "
            "correct the task's YAML"
        )
    return tuple(text for text in texts if text)
