"""What belongs to one training run: settings, log, checkpoints, figures, console."""
