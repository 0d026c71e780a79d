"""How far two results may differ, by the reason for which they differ; the policy of all tests.

- Integers, positions, selections, file contents, texts, and decoded samples must be equal. So must
  results of the same code with the same seed on the same device, to the bit.
- Two paths through the same float32 operations, in another order or by another kernel, agree within
  ``FLOAT32``. Weights that were multiplied out first add a rounding per layer: ``MERGED_WEIGHTS``.
- Losses of runs that divide a batch in another way (ranks, accumulation, packing) agree within
  ``SAME_LOSS``. Values that were only written and read back agree within ``WRITTEN``.
- Times agree within ``SECONDS``; containers that store whole milliseconds within ``MILLISECONDS``.

Any other tolerance belongs to one test, which states its reason next to it.
"""

FLOAT32 = {"atol": 1e-5, "rtol": 0.0}
"""For ``torch.testing.assert_close`` and ``np.testing.assert_allclose``."""
MERGED_WEIGHTS = {"atol": 1e-4, "rtol": 1e-4}

SAME_LOSS = 1e-4
"""Relative, for ``pytest.approx``."""
WRITTEN = 1e-5
"""Relative, for ``pytest.approx``: a float32 as text."""

SECONDS = 1e-6
MILLISECONDS = 1e-3
