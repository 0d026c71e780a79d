"""Running tasks: worker processes that a crash or a hang of one task cannot stop."""
