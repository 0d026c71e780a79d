"""3-D rotary embedding of patch positions, in the layout that the published weights expect.

Axis letters: B samples, L tokens of a sample, N heads, K width of a head, (t, h, w) positions.
"""

import torch
from torch import Tensor, nn

from .configuration_onevision_encoder import OneVisionEncoderConfig
from .patches import grid_positions


class VideoRotaryEmbeddingSplit466(nn.Module):
    """Angles of the 3-D rotary embedding; half a head is split 4 : 6 : 6 between t, h and w.

    Frequencies are computed where they are needed: a buffer that is not saved is left
    uninitialised when the library builds a model without memory and then loads weights into it.
    """

    def __init__(self, config: OneVisionEncoderConfig) -> None:
        super().__init__()
        unit = config.hidden_size // config.num_attention_heads // 32
        self.axis_sizes = (4 * unit, 6 * unit, 6 * unit)
        self.theta = config.rope_theta

    def forward(self, t: int, h: int, w: int, device: torch.device | None = None) -> Tensor:
        """Return angles of a whole grid, raster order: float32 (t * h * w, K / 2)."""
        return self.forward_from_positions(grid_positions(torch.arange(t, device=device), h, w))

    def forward_from_positions(
        self, patch_positions: Tensor, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Return angles of explicit positions.

        Args:
            patch_positions: (..., 3), rows (t, h, w), integer or floating.
            dtype: dtype of the result; at least float32, or whole positions are no longer exact.

        Returns:
            (..., K / 2), order t, h, w.
        """
        coordinates = patch_positions.to(dtype)
        angles = []
        for axis, size in enumerate(self.axis_sizes):
            exponents = torch.arange(size, dtype=torch.float32, device=coordinates.device) / size
            frequencies = (1.0 / self.theta**exponents).to(dtype)
            angles.append(coordinates[..., axis, None] * frequencies)
        return torch.cat(angles, dim=-1)

    def tables(self, patch_positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return cosine and signed sine for ``rotate``: each (..., 1, K), one row for all heads.

        The published weights expect an unusual layout: the angles are repeated side by side, as
        for a rotation of halves, but neighbours are rotated into each other. The two members of
        a pair thus turn by different angles.
        """
        angles = self.forward_from_positions(patch_positions, dtype)
        angles = torch.cat((angles, angles), dim=-1).unsqueeze(-2)
        sine = angles.sin()
        # The partner of (x0, x1) is (-x1, x0): its sign is put into the table once, here.
        return angles.cos(), torch.stack((-sine[..., 0::2], sine[..., 1::2]), dim=-1).flatten(-2)


def rotate(tensor: Tensor, cosine: Tensor, signed_sine: Tensor) -> Tensor:
    """Apply the tables to queries or keys (B, L, N, K), in the precision of the tables."""
    dtype = tensor.dtype
    tensor = tensor.to(cosine.dtype)
    partner = tensor.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return torch.addcmul(tensor * cosine, partner, signed_sine).to(dtype)
