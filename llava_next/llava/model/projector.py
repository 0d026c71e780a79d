"""The projector: from the encoder's width to the language model's.

Axis letters: P patches, D vision width, H language-model width.
"""

from torch import nn

PROJECTOR_TYPES = ("linear", "mlp2x_gelu")


def build_projector(projector_type: str, vision_width: int, language_width: int) -> nn.Module:
    """Make the projector (P, D) -> (P, H).

    ``mlp2x_gelu`` is a Sequential, so that its weights are named ``0.*`` and ``2.*``.

    Raises:
        ValueError: if ``projector_type`` is not one of ``PROJECTOR_TYPES``.
    """
    if projector_type == "linear":
        return nn.Linear(vision_width, language_width)
    if projector_type == "mlp2x_gelu":
        return nn.Sequential(
            nn.Linear(vision_width, language_width),
            nn.GELU(),
            nn.Linear(language_width, language_width),
        )
    raise ValueError(
        f"mm_projector_type must be one of {', '.join(PROJECTOR_TYPES)}, got {projector_type!r}"
    )
