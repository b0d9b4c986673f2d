"""What each stage trains on and how it is judged on the way: one class a stage, one row of STAGES each.

A task has: `network`; defaults `steps`, `batch`, `lr`, `weight_decay`, `betas`, `clip_norm`; `draw(n, generator)` -> a
batch; `loss(batch, generator)` -> scalar; `validate(network, path)` -> figures, and a preview grid at `path`;
`configs()` -> what the pack stores beside the weights.
"""

from __future__ import annotations

import dataclasses
from argparse import Namespace

import torch
import torch.nn.functional as F
from torch import Tensor

from unclip_core.clip import Clip, ClipConfig, used_vocabulary
from unclip_core.training.augment import augment
from unclip_core.training.data import CLIP_WEIGHTS, CaptionTable, load


class ClipTask:
    """Contrastive training of both encoders with open_clip's loss; judged by retrieval among held-out pairs."""

    steps, batch, lr, weight_decay, betas, clip_norm, autocast = 5000, 384, 1.5e-3, 0.1, (0.9, 0.98), 1.0, True
    config = ClipConfig(
        embed_dim=256,
        vision={"layers": (2, 3, 4, 2), "width": 32, "head_width": 64, "image_size": 64},
        text={"context_length": 48, "width": 256, "heads": 4, "layers": 4},
    )

    def __init__(self, options: Namespace) -> None:
        from open_clip.loss import ClipLoss

        self.data = load(options.data / "train", 128)
        self.held_out = load(options.data / "held_out_pairs", 128)
        vocabulary = used_vocabulary([c for group in self.data.captions for c in group])
        self.network = Clip(self.config, vocabulary).to(memory_format=torch.channels_last)
        self.captions = CaptionTable(self.data.captions, self.network.tokenize)
        self.weights = self.data.weights(CLIP_WEIGHTS, rest=0.8)
        self.contrast = ClipLoss()

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.multinomial(self.weights, n, generator=generator)
        pixels = augment(self.data.pixels(rows), self.network.image_size, generator)
        return pixels.contiguous(memory_format=torch.channels_last), self.captions.tokens(self.captions.draw(rows, generator))

    def loss(self, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        pixels, tokens = batch
        network = self.network
        network.model.logit_scale.data.clamp_(max=4.6052)  # at most 100
        return self.contrast(network.encode_pixels(pixels), encode_by_length(network, tokens), network.logit_scale)

    @torch.no_grad()
    def validate(self, network: Clip, path) -> dict[str, float]:
        """Share of held-out pairs whose caption finds its own picture first among all of them."""
        rows = torch.arange(len(self.held_out))
        z_i = torch.cat([network.encode_pixels(F.avg_pool2d(self.held_out.pixels(r), 2)) for r in rows.split(250)])
        figures = {}
        for name, field in (("english", "label"), ("korean", "label_ko")):
            z_t = torch.cat([network.encode_text([self.held_out.fields[i][field] for i in r]).pooled for r in rows.split(250)])
            figures[name] = ((z_t @ z_i.T).argmax(1) == rows).float().mean().item()
        styled = [next(c for c in group if c.endswith(" style")) for group in self.held_out.captions]
        z_t = torch.cat([network.encode_text([styled[i] for i in r]).pooled for r in rows.split(250)])
        figures["english_with_style"] = ((z_t @ z_i.T).argmax(1) == rows).float().mean().item()
        return figures

    def configs(self) -> dict:
        return {"clip": dataclasses.asdict(self.config)}


def encode_by_length(clip: Clip, tokens: Tensor, parts: int = 4) -> Tensor:
    """Token rows [B, L] -> pooled embeddings [B, D]; captions of like length run together, so little padding is computed."""
    lengths = (tokens != 0).sum(1)
    order = torch.argsort(lengths)
    pooled = [clip.encode_tokens(tokens[rows, : int(lengths[rows].max())]).pooled for rows in order.chunk(parts)]
    return torch.cat(pooled)[torch.argsort(order)]


STAGES = {"clip": ClipTask}
