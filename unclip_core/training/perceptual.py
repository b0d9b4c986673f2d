"""A perceptual distance in the feature maps of the frozen CLIP's own picture tower: no other network is needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip_core.clip import Clip
from unclip_core.errors import UnclipError


class Perceptual:
    """Squared distance of unit feature vectors, averaged over places and layers (as LPIPS, Zhang et al. 1801.03924).

    For a ResNet tower: the stem and the first three stages. Raises UnclipError for another tower.
    """

    def __init__(self, clip: Clip) -> None:
        self.visual = clip.model.visual
        if not hasattr(self.visual, "layer3"):
            raise UnclipError("--option perceptual needs a CLIP with a ResNet picture tower; set it to 0.")

    def features(self, pixels: Tensor) -> list[Tensor]:
        """[B, 3, S, S] in [-1, 1] -> maps [B, C, h, w]."""
        x = self.visual.stem(pixels)
        maps = [x]
        for layer in (self.visual.layer1, self.visual.layer2, self.visual.layer3):
            x = layer(x)
            maps.append(x)
        return maps

    def __call__(self, made: Tensor, true: Tensor) -> Tensor:
        """[B, 3, S, S] twice -> [B] distances, with gradient to `made`."""
        with torch.no_grad():
            wanted = self.features(true)
        return distance(self.features(made), wanted)


def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Feature maps [B, C, h, w] of two batches, finest first -> [B]: squared distance of unit vectors, averaged over
    places and maps. Unlike in LPIPS no weights are learned for it."""
    pairs = [(F.normalize(p.float(), dim=1), F.normalize(q.float(), dim=1)) for p, q in zip(a, b, strict=True)]
    return torch.stack([(p - q).square().sum(1).mean((1, 2)) for p, q in pairs]).mean(0)
