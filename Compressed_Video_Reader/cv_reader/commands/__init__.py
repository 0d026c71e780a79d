"""The commands; each module has ``main(argv) -> exit code``."""
