"""The evaluator: a small ConvNet that names the concept and the style of a 64 px picture.

It has seen real corpus pictures only (`train_evaluator`), and nothing that a pack is trained with has seen it: what it
says of generated pictures is an outside opinion. Its features are what Fréchet distance and CMMD are measured in.

Letters: B pictures, F feature width, K concepts, S styles.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip_core.configs import config_from_dict, config_to_dict
from unclip_core.errors import UnclipError
from unclip_core.training.perceptual import distance

ASSETS = Path(__file__).resolve().parent.parent.parent / "assets" / "evaluator"
WEIGHTS, CARD = "evaluator.safetensors", "evaluator.json"


@dataclass(frozen=True)
class EvaluatorConfig:
    """widths: channels at 32, 16, 8 and 4 px; blocks: residual blocks at each; features: F."""

    widths: tuple[int, ...] = (32, 64, 128, 256)
    blocks: tuple[int, ...] = (1, 1, 2, 2)
    features: int = 128
    side: int = 64


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut (ResNet, arXiv 1512.03385)."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outside)
        self.skip = nn.Conv2d(inside, outside, 1, bias=False) if inside != outside else nn.Identity()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        short = F.avg_pool2d(x, 2) if self.stride == 2 else x
        x = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(x + self.skip(short))


class Evaluator(nn.Module):
    """concepts: K rows {"code", "label", "label_ko", "group", "core"}; styles: S names."""

    def __init__(self, config: EvaluatorConfig, concepts: list[dict[str, Any]], styles: list[str]) -> None:
        super().__init__()
        self.config, self.concepts, self.styles = config, concepts, styles
        self.index = {row["code"]: i for i, row in enumerate(concepts)}
        self.hash = ""  # of the stored weights, set by `load`
        widths = config.widths
        self.stem = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, widths[0], 3, 1, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()
        )
        self.stages = nn.ModuleList()
        before = widths[0]
        for level, (width, count) in enumerate(zip(widths, config.blocks, strict=True)):
            strides = [1 if level == 0 else 2] + [1] * (count - 1)
            self.stages.append(
                nn.Sequential(*(Block(before if i == 0 else width, width, s) for i, s in enumerate(strides)))
            )
            before = width
        self.to_features = nn.Linear(before, config.features)
        self.norm = nn.BatchNorm1d(config.features, affine=False)
        self.concept_head = nn.Parameter(torch.randn(len(concepts), config.features) * config.features**-0.5)
        self.style_head = nn.Linear(config.features, len(styles))
        self.scale = nn.Parameter(torch.tensor(20.0))

    def maps(self, x: Tensor) -> list[Tensor]:
        """x [B, 3, H, W] in [-1, 1], any size divisible by 16 -> the activations after each stage, finest first."""
        x, found = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def forward(self, x: Tensor) -> Tensor:
        """x [B, 3, side, side] in [-1, 1] -> features [B, F], entries of unit variance over the training pictures."""
        return self.norm(self.to_features(self.maps(x)[-1].mean((2, 3))).float())

    def concept_logits(self, features: Tensor) -> Tensor:
        """[B, F] -> [B, K]: scaled cosines with one direction a concept."""
        return self.scale * F.normalize(features, dim=-1) @ F.normalize(self.concept_head, dim=-1).T

    def style_logits(self, features: Tensor) -> Tensor:
        """[B, F] -> [B, S]."""
        return self.style_head(features)

    @torch.inference_mode()
    def features(self, pixels: Tensor, batch: int = 128) -> Tensor:
        """pixels [N, 3, H, W]: uint8, or float in [-1, 1]; other sizes are brought to `side` -> [N, F] float32, CPU."""
        device, made = self.scale.device, []
        if not len(pixels):
            return torch.zeros(0, self.config.features)
        for part in pixels.split(batch):
            x = part.to(device).float() / 127.5 - 1 if part.dtype == torch.uint8 else part.to(device).float()
            if x.shape[-1] != self.config.side:
                x = F.interpolate(x, (self.config.side, self.config.side), mode="bicubic", antialias=True).clamp(-1, 1)
            made.append(self(x.contiguous(memory_format=torch.channels_last)).cpu())
        return torch.cat(made).clone()

    @torch.inference_mode()
    def ranks(self, features: Tensor, codes: list[str]) -> Tensor:
        """features [N, F] and the true concept of each -> how many concepts it finds likelier [N] (0: right)."""
        logits = self.concept_logits(features.to(self.scale.device))
        own = logits.gather(1, torch.tensor([[self.index[code]] for code in codes], device=logits.device))
        return (logits > own).sum(1).cpu()

    @torch.inference_mode()
    def perceptual(self, a: Tensor, b: Tensor) -> Tensor:
        """An LPIPS-like distance [B] of pictures [B, 3, H, W] in [-1, 1], over the three finest stages."""
        return distance(self.maps(a)[:3], self.maps(b)[:3])


def save(evaluator: Evaluator, folder: Path, facts: dict[str, Any]) -> None:
    """Weights (large tensors in bfloat16) and the card: config, classes, and `facts` on how it was trained."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {
        key: (value.to(torch.bfloat16) if value.is_floating_point() and value.numel() > 1024 else value)
        .contiguous()
        .clone()
        for key, value in evaluator.state_dict().items()
    }
    data = safetensors.torch.save(state)
    (folder / WEIGHTS).write_bytes(data)
    card = {
        "config": config_to_dict(evaluator.config),
        "sha256": hashlib.sha256(data).hexdigest(),
        "training": facts,
        "styles": evaluator.styles,
        "concepts": evaluator.concepts,
    }
    (folder / CARD).write_text(json.dumps(card, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load(folder: Path = ASSETS) -> Evaluator:
    """The shipped evaluator, ready to judge. Raises UnclipError where it is missing or damaged."""
    folder = Path(folder)
    try:
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        data = (folder / WEIGHTS).read_bytes()
    except FileNotFoundError as fault:
        raise UnclipError(
            f"The evaluator is missing ({fault.filename}). Train it: python -m unclip_core.evaluation.train_evaluator"
        ) from None
    except ValueError as fault:
        raise UnclipError(f"{folder / CARD} is not valid JSON ({fault}). Fetch it again.") from fault
    if hashlib.sha256(data).hexdigest() != card["sha256"]:
        raise UnclipError(f"{folder / WEIGHTS} is damaged: its SHA-256 is not the one in {CARD}. Fetch it again.")
    evaluator = Evaluator(
        config_from_dict(EvaluatorConfig, card["config"], "evaluator"), card["concepts"], card["styles"]
    )
    evaluator.load_state_dict(safetensors.torch.load(data))
    evaluator.hash = card["sha256"][:16]
    return evaluator.eval().requires_grad_(False).to(memory_format=torch.channels_last)
