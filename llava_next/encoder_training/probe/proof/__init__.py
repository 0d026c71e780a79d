"""The proof of the probe: made actions that only motion tells apart, and inputs compared."""
