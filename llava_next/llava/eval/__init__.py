"""Evaluation with lmms-eval: the plug-in model, codec assets of benchmarks, the run's manifest."""
