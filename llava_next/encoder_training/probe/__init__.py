"""Attentive probe: what a frozen encoder's tokens are worth, measured on labelled videos."""
