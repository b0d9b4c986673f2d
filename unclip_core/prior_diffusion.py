"""The diffusion prior P(z_i | y) (paper section 2.2): a causal Transformer that denoises CLIP image embeddings.

The sequence is: encoded caption tokens, z_t, timestep, noised z_i, and a learned token whose output is the prediction,
trained by mean squared error on the un-noised z_i. Inside, z_i is standardised with the corpus's mean and spread.

The mask being causal, caption and z_t never see the timestep or the noised z_i: their keys and values (`Prefix`) are
made once a caption, and each sampling step runs the last three positions only.

Letters: B rows, D embedding width, L caption tokens, W their width, P = L + 1 prefix positions, E Transformer width,
R sampled rows (captions x samples x candidates).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip_core.clip import TextFeatures
from unclip_core.cpu import Linear
from unclip_core.denoiser import Denoise, guided_batch, make_denoiser
from unclip_core.layers import KeysValues, TimeEmbedding, TransformerBlock
from unclip_core.objective import diffusion_loss
from unclip_core.sampling import Noise, SampleStep, run_sampler
from unclip_core.schedule import NoiseSchedule


@dataclass(frozen=True)
class DiffusionPriorConfig:
    """unit: CLIP's embeddings are unit vectors (pocket): z_t is scaled to entries of about one, z_i comes out unit.

    null: what stands for a dropped caption: "learned" vectors, or "empty", the caption "" as CLIP encodes it (Karlo).
    clip: bound on the predicted standardised z_i; None for none. time_hidden: width inside the timestep's embedding.
    """

    embed_dim: int
    text_width: int
    context_length: int
    width: int = 512
    layers: int = 8
    heads: int = 8
    time_hidden: int | None = None
    unit: bool = True
    null: str = "learned"
    clip: float | None = None
    schedule: NoiseSchedule = field(default_factory=NoiseSchedule)


class Prefix(NamedTuple):
    """Keys and values of caption and z_t in every layer, and which positions exist: bool [B, P]."""

    keys_values: tuple[KeysValues, ...]
    exists: Tensor

    def repeat(self, n: int) -> Prefix:
        """Every row n times in a row: [B, ...] -> [B * n, ...]."""
        repeated = tuple((k.repeat_interleave(n, 0), v.repeat_interleave(n, 0)) for k, v in self.keys_values)
        return Prefix(repeated, self.exists.repeat_interleave(n, 0))


class DiffusionPrior(nn.Module):
    def __init__(self, config: DiffusionPriorConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.text_in = Linear(config.text_width, width)
        self.pooled_in = Linear(config.embed_dim, width)
        self.time = TimeEmbedding(width, config.time_hidden or width, width)
        self.image_in = Linear(config.embed_dim, width)
        self.final = nn.Parameter(0.02 * torch.randn(width))
        self.position = nn.Parameter(0.02 * torch.randn(config.context_length + 4, width))
        if config.null == "learned":
            self.null_text = nn.Parameter(0.02 * torch.randn(width))
            self.null_pooled = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(TransformerBlock(width, width // config.heads) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.image_out = Linear(width, config.embed_dim)
        # Until `fit`, unit vectors are brought to entries of unit variance.
        self.register_buffer("clip_mean", torch.zeros(1, config.embed_dim))
        self.register_buffer("clip_std", torch.full((1, config.embed_dim), config.embed_dim**-0.5))

    @torch.no_grad()
    def fit(self, z_i: Tensor) -> None:
        """Take the mean and spread of CLIP image embeddings z_i [N, D]; call once, before training."""
        self.clip_mean.copy_(z_i.mean(0, keepdim=True))
        self.clip_std.copy_(z_i.std(0, keepdim=True).clamp(min=1e-6))

    # ---- the network ----

    def prepare(self, text: TextFeatures, drop: Tensor | None = None) -> Prefix:
        """Captions -> Prefix; rows of `drop` [B] bool get the learned null in place of caption and z_t.

        Positions after the longest caption are left out: nothing may look at padding, so they change nothing.
        """
        longest = int(text.mask.any(0).nonzero().max()) + 1
        dtype = self.text_in.weight.dtype
        tokens = self.text_in(text.tokens[:, :longest].to(dtype))  # [B, L, E]
        pooled, exists = text.pooled, text.mask[:, :longest]
        if self.config.unit:
            pooled = F.normalize(pooled.float(), dim=-1) * self.config.embed_dim**0.5
        pooled = self.pooled_in(pooled.to(dtype))  # [B, E]
        if drop is not None:
            first = torch.zeros_like(exists)
            first[:, 0] = True
            tokens = torch.where((drop[:, None] & first)[..., None], self.null_text.to(tokens.dtype), tokens)
            pooled = torch.where(drop[:, None], self.null_pooled.to(pooled.dtype), pooled)
            exists = torch.where(drop[:, None], first, exists)
        position = torch.cat([self.position[:longest], self.position[-4:-3]])
        x = torch.cat([tokens, pooled[:, None]], dim=1) + position  # [B, P, E]
        exists = F.pad(exists, (0, 1), value=True)
        causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
        # A position may always look at itself, so that one that does not exist has something to average.
        mask = ((causal & exists[:, None]) | torch.eye(len(causal), dtype=torch.bool, device=x.device))[:, None]
        keys_values = []
        for block in self.blocks:
            x, past = block(x, mask)
            keys_values.append(past)
        return Prefix(tuple(keys_values), exists)

    def step(self, x: Tensor, t: Tensor, prefix: Prefix) -> Tensor:
        """Noised standardised z_i [B, D], t [B] -> predicted standardised z_i [B, D]: the last three positions."""
        image = self.image_in(x.to(self.image_in.weight.dtype))
        tokens = [self.time(t), image, self.final.to(image.dtype).expand_as(image)]
        h = torch.stack([token.to(image.dtype) for token in tokens], dim=1) + self.position[-3:]  # [B, 3, E]
        exists = prefix.exists[:, None].expand(-1, 3, -1)
        causal = torch.ones(3, 3, dtype=torch.bool, device=x.device).tril().expand(len(x), -1, -1)
        mask = torch.cat([exists, causal], dim=2)[:, None]  # [B, 1, 3, P + 3]
        for block, past in zip(self.blocks, prefix.keys_values):
            h, _ = block(h, mask, past)
        return self.image_out(self.norm(h[:, -1]))

    def forward(self, x: Tensor, t: Tensor, text: TextFeatures, drop: Tensor | None = None) -> Tensor:
        """x [B, D] noised standardised z_i, t [B], drop [B] bool -> predicted standardised z_i [B, D]."""
        return self.step(x, t, self.prepare(text, drop))

    def loss(
        self, z_i: Tensor, text: TextFeatures, generator: torch.Generator | None = None, drop: float = 0.1
    ) -> Tensor:
        """Mean squared error on the un-noised standardised z_i [B, D]; captions dropped with probability `drop`."""
        place = generator.device if generator is not None else z_i.device
        dropped = torch.rand(len(z_i), generator=generator, device=place).to(z_i.device) < drop
        prefix = self.prepare(text, dropped)
        z_i = (z_i.float() - self.clip_mean) / self.clip_std
        return diffusion_loss(lambda x, t: self.step(x, t, prefix), z_i, self.config.schedule, "x0", generator)

    # ---- sampling ----

    def denoiser(self, text: TextFeatures, guidance: float, null: TextFeatures | None = None, n: int = 1) -> Denoise:
        """Guided denoiser for n rows a caption, R = B * n. `null` is the encoded "" where the config says "empty"."""
        predict = self.network(text, guidance, null, n)
        return make_denoiser(predict, self.config.schedule, "x0", self.config.clip)

    def network(self, text: TextFeatures, guidance: float, null: TextFeatures | None = None, n: int = 1) -> Denoise:
        """The guided raw prediction, (x [R, D], t [R]) -> [R, D]; at guidance 1 the unconditional half is never run."""
        if guidance == 1:
            prefix = self.prepare(text).repeat(n)
            return lambda x, t: self.step(x, t, prefix)
        batch = len(text.pooled)
        drop = None
        if self.config.null == "learned":
            null = text
            drop = torch.arange(2 * batch, device=text.pooled.device) >= batch
        elif null is None:
            raise ValueError("this prior's guidance needs the encoded empty caption")
        rows = [b.expand(batch, *b.shape[1:]) for b in null]
        both = TextFeatures(*(torch.cat([a, b.to(a)]) for a, b in zip(text, rows)))
        prefix = self.prepare(both, drop).repeat(n)
        return guided_batch(lambda x, t: self.step(x, t, prefix), guidance)

    @torch.no_grad()
    def sample(self, text: TextFeatures, n: int, guidance: float, noise: Noise, **options) -> Tensor:
        """-> z_i [B*n, D] float32, row b*n+j caption b, sample j. Options: those of `sample_steps`."""
        for step in self.sample_steps(text, n, guidance, noise, **options):
            pass
        return step.x

    @torch.no_grad()
    def sample_steps(
        self,
        text: TextFeatures,
        n: int,
        guidance: float,
        noise: Noise,
        steps: int = 64,
        candidates: int = 2,
        sampler: str = "ddpm",
        null: TextFeatures | None = None,
    ) -> Iterator[SampleStep]:
        """Yields the present estimate of z_i [B*n, D] in CLIP's units, as both x and x0; the last is the result.

        Of `candidates` embeddings a row the one nearest z_t by dot product of unit vectors is kept (paper: two).
        noise holds one stream for each of the B*n rows.
        """
        embed_dim, schedule = self.config.embed_dim, self.config.schedule

        def draw(shape: tuple[int, ...]) -> Tensor:
            return noise((candidates, *shape)).flatten(0, 1).to(text.pooled.device)  # [R, *shape]

        denoise = self.denoiser(text, guidance, null, n * candidates)
        z_t = text.pooled.float().repeat_interleave(n, 0)  # [B*n, D]
        grid = schedule.times(steps)
        for step in run_sampler(sampler, denoise, draw((embed_dim,)), grid, schedule, noise=draw):
            z_i = self.nearest(step.x0, z_t)
            yield SampleStep(step.index, step.total, z_i, z_i)

    def nearest(self, x: Tensor, z_t: Tensor) -> Tensor:
        """Standardised candidates [B * candidates, D] -> for each z_t [B, D] the z_i [B, D] nearest to it."""
        z_i = x.float() * self.clip_std.float() + self.clip_mean.float()
        z_i = z_i.view(len(z_t), -1, self.config.embed_dim)  # [B, candidates, D]
        directions = F.normalize(z_i, dim=-1)
        best = (directions * F.normalize(z_t, dim=-1)[:, None]).sum(-1).argmax(1)
        return (directions if self.config.unit else z_i)[torch.arange(len(z_t), device=x.device), best]
