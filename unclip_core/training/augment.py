"""Picture augmentation for CLIP training, in batches on tensors. No flips: captions say left and right.

Held-out pictures are known things in another hand, so what is varied is the hand: shape, line, colour, statistics of
the first feature maps.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def augment(pixels: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """[B, 3, S, S] in [-1, 1] (written over) -> [B, 3, size, size]: bent, lines thicker or thinner, recoloured."""
    batch = len(pixels)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(batch, *shape, generator=generator) * (high - low) + low

    def struck(chance: float) -> Tensor:
        return draw(0, 1, 1, 1, 1) < chance

    for sign in (-1, 1):  # dark lines grow, then light ones
        chosen = struck(0.13).flatten()
        pixels[chosen] = sign * F.max_pool2d(sign * pixels[chosen], 3, stride=1, padding=1)
    if pixels.shape[-1] >= 2 * size:  # halve first: bilinear sampling alone would alias
        pixels = F.avg_pool2d(pixels, 2)
    out = F.grid_sample(pixels, _grid(draw, batch, size), padding_mode="border", align_corners=False)
    out = _recoloured(out, draw, struck)
    blurred = F.avg_pool2d(F.pad(out, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    out = torch.where(struck(0.15), blurred, out)
    return torch.where(struck(0.3) & _patches(draw, size), draw(-1, 1, 3, 1, 1), out).clamp(-1, 1)


def _grid(draw, batch: int, size: int) -> Tensor:
    """Sampling grid [B, size, size, 2]: turned, scaled, stretched, shifted, and bent by a smooth random field."""
    angle, zoom = draw(-0.22, 0.22), torch.exp(draw(math.log(0.85), math.log(1.4)))
    stretch, shift = torch.exp(draw(-0.14, 0.14)), draw(-0.15, 0.15, 2)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack(
        [torch.stack([cos * stretch, -sin, shift[:, 0]], 1), torch.stack([sin, cos / stretch, shift[:, 1]], 1)], 1
    )  # [B, 2, 3]
    bend = F.interpolate(draw(-0.11, 0.11, 2, 4, 4), (size, size), mode="bicubic", align_corners=True)
    return F.affine_grid(theta, [batch, 3, size, size], align_corners=False) + bend.permute(0, 2, 3, 1)


def _recoloured(x: Tensor, draw, struck) -> Tensor:
    """Contrast, brightness, saturation, each channel's gain, and grey for one in twelve."""
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * torch.where(struck(0.08), torch.zeros(1), draw(0.6, 1.4, 1, 1, 1))
    gain = draw(0.7, 1.25, 1, 1, 1) * draw(0.88, 1.12, 3, 1, 1)
    return (1 - (1 - x) * gain + draw(-0.12, 0.12, 1, 1, 1) * struck(0.5)).clamp(-1, 1)  # white stays nearly white


def _patches(draw, size: int) -> Tensor:
    """[B, 1, size, size] bool: a rectangle of 15 to 40% of the side in each picture."""
    along = torch.linspace(0, 1, size)
    inside = []
    for _ in range(2):
        half, middle = draw(0.07, 0.2, 1), draw(0, 1, 1)
        inside.append((along - middle).abs() < half)  # [B, size]
    return (inside[0][:, :, None] & inside[1][:, None, :])[:, None]


def redrawn(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """[B, 3, S, S] in [-1, 1] -> the same shape: as another hand might draw it. By chance, each on its own: colours
    flattened to a few levels, washed out, and edges inked with a dark line."""
    batch = len(pixels)

    def draw(low: float, high: float) -> Tensor:
        return torch.rand(batch, 1, 1, 1, generator=generator) * (high - low) + low

    lines = _edges(pixels)
    lines = torch.where(draw(0, 1) < 0.35, F.max_pool2d(lines, 3, stride=1, padding=1), lines)
    levels = draw(1, 4).round()
    out = torch.where(draw(0, 1) < 0.3, (pixels * levels).round() / levels, pixels)
    washed = draw(0, 1) < 0.25
    out = torch.where(washed, out + (1 - out) * draw(0.4, 1), out)
    inked = washed | (draw(0, 1) < 0.6)  # what is washed out keeps its lines
    return torch.where(inked, out + (draw(-1, -0.6) - out) * lines, out)


def smaller(pixels: Tensor, generator: torch.Generator, least: float = 0.6) -> Tensor:
    """[B, 3, S, S] in [-1, 1] -> the same shape: drawn smaller, at `least` to 1 times their size, somewhere on a page
    of the ground's colour (that of most corners). Styles differ in how much of the page a drawing fills."""
    batch = len(pixels)
    scale = torch.rand(batch, generator=generator) * (1 - least) + least
    room = (1 - scale)[:, None] * (torch.rand(batch, 2, generator=generator) - 0.5)  # half-way to the edge at most
    theta = torch.cat([torch.eye(2).expand(batch, 2, 2), room[:, :, None]], 2) / scale[:, None, None]
    corners = pixels[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]  # [B, 3, 4]
    ground = corners.median(2).values[:, :, None, None]
    grid = F.affine_grid(theta, list(pixels.shape), align_corners=False)
    return ground + F.grid_sample(pixels - ground, grid, align_corners=False)  # nothing but ground outside


def _edges(pixels: Tensor) -> Tensor:
    """[B, 3, S, S] -> [B, 1, S, S] in [0, 1]: where neighbouring pixels differ much in any channel."""
    high = F.max_pool2d(pixels, 3, stride=1, padding=1)
    low = -F.max_pool2d(-pixels, 3, stride=1, padding=1)
    return (((high - low).amax(1, keepdim=True) - 0.25) * 2.5).clamp(0, 1)


class MixStyle(nn.Module):
    """Mixes the mean and spread of feature maps between the pictures of a batch (Zhou et al. 2104.02008), in training
    only: a network that cannot rely on them learns what styles share. Used as a forward hook."""

    def __init__(self, chance: float = 0.5, alpha: float = 0.2) -> None:
        super().__init__()
        self.chance, self.beta = chance, torch.distributions.Beta(alpha, alpha)

    def forward(self, module: nn.Module, arguments: tuple, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> the same shape."""
        if not module.training or torch.rand(()) > self.chance:
            return x
        wide = x.float()
        mean = wide.mean((2, 3), keepdim=True).detach()
        std = (wide.var((2, 3), keepdim=True) + 1e-5).sqrt().detach()
        share = self.beta.sample((len(x), 1, 1, 1))
        other = torch.randperm(len(x))
        mixed_mean, mixed_std = share * mean + (1 - share) * mean[other], share * std + (1 - share) * std[other]
        return ((wide - mean) / std * mixed_std + mixed_mean).to(x.dtype)
