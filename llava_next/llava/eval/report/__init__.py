"""A page about evaluation results: ``python -m llava.eval.report``."""

from llava.eval.report.page import main

__all__ = ["main"]
