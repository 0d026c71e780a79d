"""The projector: from the encoder's width to the language model's.

Axis letters: P patches, D vision width, H language-model width, M side of a merged block.
"""

from torch import Tensor, nn

MERGE_SIDE_PATCHES = {"linear": 1, "mlp2x_gelu": 1, "spatial_merge": 2}
"""Projector types, and the side of the block of patches that becomes one language token."""

PROJECTOR_TYPES = tuple(MERGE_SIDE_PATCHES)


class SpatialMerge(nn.Module):
    """Each block of M x M patches to one language token.

    The blocks are true neighbours within one image, frame or mosaic, because the preprocessing
    (``VisualConfig.merge_side_patches``) lays the patches of a block side by side.
    """

    def __init__(self, vision_width: int, language_width: int, merge_side: int) -> None:
        super().__init__()
        self.block_width = vision_width * merge_side**2
        self.norm = nn.LayerNorm(vision_width, eps=1e-6)
        self.mlp = nn.Sequential(
            nn.Linear(self.block_width, self.block_width),
            nn.GELU(),
            nn.Linear(self.block_width, language_width),
        )

    def forward(self, features: Tensor) -> Tensor:
        """(P, D), blocks of M * M rows -> (P / (M * M), H)."""
        return self.mlp(self.norm(features).view(-1, self.block_width))


def build_projector(projector_type: str, vision_width: int, language_width: int) -> nn.Module:
    """Make the projector (P, D) -> (P / patches per token, H).

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
    if projector_type == "spatial_merge":
        return SpatialMerge(vision_width, language_width, MERGE_SIDE_PATCHES[projector_type])
    raise ValueError(
        f"mm_projector_type must be one of {', '.join(PROJECTOR_TYPES)}, got {projector_type!r}"
    )
