"""Supervised fine-tuning: settings, recipe, trainer, checkpoints."""
