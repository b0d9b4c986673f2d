"""Distances in the frozen CLIP's own picture tower, for training the decoder: no other network is needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip_core.clip import Clip
from unclip_core.errors import UnclipError


class Perceptual:
    """`maps` times the squared distance of unit feature vectors, averaged over places and layers (as LPIPS, Zhang et
    al. 1801.03924), and `embedding` times one minus the cosine of the two pictures' z_i.

    For a ResNet tower: the stem and the first three stages. Raises UnclipError for another tower.
    """

    def __init__(self, clip: Clip, maps: float = 1.0, embedding: float = 0.0) -> None:
        self.visual, self.maps, self.embedding = clip.model.visual, maps, embedding
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
        found = self.features(made)
        total = self.maps * distance(found, wanted)
        if self.embedding:
            with torch.no_grad():
                wanted = self._top(wanted[-1])
            total = total + self.embedding * (1 - F.cosine_similarity(self._top(found[-1]).float(), wanted.float()))
        return total

    def _top(self, x: Tensor) -> Tensor:
        """The third stage's map -> z_i [B, D], before it is brought to unit length."""
        return self.visual.attnpool(self.visual.layer4(x))


def distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """Feature maps [B, C, h, w] of two batches, finest first -> [B]: squared distance of unit vectors, averaged over
    places and maps. Unlike in LPIPS no weights are learned for it."""
    pairs = [(F.normalize(p.float(), dim=1), F.normalize(q.float(), dim=1)) for p, q in zip(a, b, strict=True)]
    return torch.stack([(p - q).square().sum(1).mean((1, 2)) for p, q in pairs]).mean(0)
