"""A perceptual distance in the feature maps of the frozen CLIP's own picture tower: no other network is needed."""

from __future__ import annotations

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
        """[B, 3, S, S] in [-1, 1] -> maps [B, C, h, w] of unit vectors."""
        x = self.visual.stem(pixels)
        maps = [x]
        for layer in (self.visual.layer1, self.visual.layer2, self.visual.layer3):
            x = layer(x)
            maps.append(x)
        return [F.normalize(m.float(), dim=1) for m in maps]

    def __call__(self, made: Tensor, true: Tensor) -> Tensor:
        """[B, 3, S, S] twice -> [B] distances, with gradient to `made`."""
        with torch.no_grad():
            wanted = self.features(true)
        pairs = zip(self.features(made), wanted, strict=True)
        return torch.stack([(a - b).square().sum(1).mean((1, 2)) for a, b in pairs]).mean(0)
