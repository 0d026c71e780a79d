"""Containers, packets and pictures: what a file holds, in which order, and how it is shown."""
