"""Published benchmarks: which there are, their videos, and how they are fetched and prepared."""
