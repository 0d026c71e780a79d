"""Prompts and scores of the quickstart task: short answers, matched as whole strings."""

import string
from typing import Any


def doc_to_visual(doc: dict[str, Any]) -> list[str]:
    """Return the video of a question as a path; the model decides how to read it."""
    return [doc["video"]]


def doc_to_text(doc: dict[str, Any]) -> str:
    return doc["question"]


def normalise(answer: str) -> str:
    """Return lower case with single spaces and no punctuation at either end."""
    return " ".join(answer.lower().split()).strip(string.punctuation + " ")


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return 1 for the right answer, else 0."""
    return {"accuracy": float(normalise(results[0]) == normalise(doc["answer"]))}
