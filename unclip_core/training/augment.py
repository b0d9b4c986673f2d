"""Picture augmentation for CLIP training, in batches on tensors. No flips: captions say left and right."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def augment(pixels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """[B, 3, S, S] in [-1, 1] -> [B, 3, size, size]: moved, scaled, turned, recoloured, all a little, some blurred."""
    batch = len(pixels)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator) * (high - low) + low

    angle, zoom = draw(-0.15, 0.15), torch.exp(draw(math.log(0.88), math.log(1.35)))
    stretch = torch.exp(draw(-0.08, 0.08))
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    shift = draw(-0.12, 0.12, 2)
    theta = torch.stack(
        [torch.stack([cos * stretch, -sin, shift[:, 0]], 1), torch.stack([sin, cos / stretch, shift[:, 1]], 1)], 1
    )  # [B, 2, 3]
    grid = F.affine_grid(theta, [batch, 3, size, size], align_corners=False)
    if pixels.shape[-1] >= 2 * size:  # halve first: bilinear sampling alone would alias
        pixels = F.avg_pool2d(pixels, 2)
    out = F.grid_sample(pixels, grid, padding_mode="border", align_corners=False)
    contrast, brightness, saturation = draw(0.8, 1.2, 1, 1, 1), draw(-0.1, 0.1, 1, 1, 1), draw(0.7, 1.3, 1, 1, 1)
    grey = out.mean(1, keepdim=True)
    out = ((grey + (out - grey) * saturation) * contrast + brightness).clamp(-1, 1)
    blurred = F.avg_pool2d(F.pad(out, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return torch.where(draw(0, 1, 1, 1, 1) < 0.15, blurred, out)
