"""Pretrain the encoder by cluster discrimination against a bank of concepts."""
