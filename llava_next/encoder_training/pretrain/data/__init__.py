"""Data of pretraining: labelled samples in tar shards, read, decoded and augmented."""
