"""Prompts and scores of the quickstart task: short answers, matched as whole strings."""

import string
from typing import Any


def doc_to_visual(doc: dict[str, Any]) -> list[str]:
    """The video of a question, as a path: the model decides how it is read."""
    return [doc["video"]]


def doc_to_text(doc: dict[str, Any]) -> str:
    return doc["question"]


def normalise(answer: str) -> str:
    """Lower case, single spaces, no punctuation at either end."""
    return " ".join(answer.lower().split()).strip(string.punctuation + " ")


def process_results(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """1 where the answer is right, else 0: over all questions and over the question's own kind."""
    score = float(normalise(results[0]) == normalise(doc["answer"]))
    return {"accuracy": score, f"accuracy_{doc['kind']}": score}
