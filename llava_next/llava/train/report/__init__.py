"""A page about training runs: ``python -m llava.train.report``."""

from llava.train.report.page import main

__all__ = ["main"]
