"""Data set lines to batches: sources -> records -> images + tokenization -> dataset -> collator."""
