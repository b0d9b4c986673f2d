"""Karlo's stages: our networks with the published conditioning, the published sampler, and ours on the same weights.

Letters: B pictures, C colours, H x W pixels, D embedding width, L caption tokens, X the UNet's context width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip_core.clip import TextFeatures
from unclip_core.cpu import Linear
from unclip_core.denoiser import Denoise, make_denoiser
from unclip_core.prior_diffusion import DiffusionPrior, DiffusionPriorConfig
from unclip_core.sampling import Noise, SampleStep, invert, run_sampler
from unclip_core.schedule import NoiseSchedule
from unclip_core.unet import UNet, UNetConfig


@dataclass(frozen=True)
class ReferenceSchedule:
    """How a published network was trained and is sampled: squared cosine, `steps` of them.

    predicts: "eps" or "x0". clip: bound on x0, None for none. learned_range: the network says the variance as well.
    """

    steps: int = 1000
    predicts: str = "eps"
    clip: float | None = 1.0
    learned_range: bool = False

    @property
    def ours(self) -> NoiseSchedule:
        return NoiseSchedule("cosine", self.steps)

    def sample(
        self, network: Denoise, x: Tensor, steps: int, noise: Noise, last: Denoise | None = None
    ) -> Iterator[SampleStep]:
        """The published ancestral sampler. `last`, where given, is the network of the final step.

        beta is taken anew from neighbouring alpha_bar where steps are skipped. Coefficients are float32, as published:
        near the noisy end x0 is divided by sqrt(alpha_bar) = 5e-5, where other roundings would show.
        """
        betas = self.ours.betas.float()
        alpha_bar = torch.cumprod(1 - betas, dim=0)
        grid = self.ours.times(steps).tolist()
        for i, t in enumerate(grid):
            final = i + 1 == len(grid)
            before = -1 if final else grid[i + 1]
            a, a_before = alpha_bar[t], alpha_bar[before] if before >= 0 else torch.tensor(1.0)
            beta = betas[t] if before == t - 1 else 1 - a / a_before
            time = torch.full((len(x),), t, dtype=torch.int64, device=x.device)
            raw = (last if final and last else network)(x, time).to(x.dtype)
            prediction = raw[:, : x.shape[1]]
            x0 = (x - (1 - a) ** 0.5 * prediction) / a**0.5 if self.predicts == "eps" else prediction
            x0 = x0 if self.clip is None else x0.clamp(-self.clip, self.clip)
            mean = a_before**0.5 * beta / (1 - a) * x0 + (1 - beta) ** 0.5 * (1 - a_before) / (1 - a) * x
            x = mean
            if t > 0 and not final:
                draw = noise(tuple(x.shape[1:])).to(x)
                x = mean + self._spread((1 - a_before) / (1 - a) * beta, beta, raw[:, x.shape[1] :]) * draw
            yield SampleStep(i, len(grid), x, x0)

    def _spread(self, posterior: Tensor, beta: Tensor, learned: Tensor) -> Tensor:
        """Standard deviation of a step: the posterior's, or between it and sqrt(beta) in log, by the learned share."""
        if not self.learned_range:
            return torch.exp(0.5 * torch.log(posterior.clamp(min=1e-20)))
        share = (learned + 1) / 2
        return torch.exp(0.5 * (share * beta.log() + (1 - share) * posterior.log()))

    def denoiser(self, network: Denoise, channels: int, clip: float | None) -> Denoise:
        """For our own samplers: the mean alone, without the learned variance."""
        return make_denoiser(lambda x, t: network(x, t)[:, :channels], self.ours, self.predicts, clip)


class KarloPrior(DiffusionPrior):
    """The diffusion prior with its published schedule. `empty`, the encoded caption "", is set with the weights."""

    empty: TextFeatures | None = None

    def __init__(self, config: DiffusionPriorConfig, schedule: ReferenceSchedule) -> None:
        super().__init__(config)
        self.schedule = schedule

    def standard(self, x: Tensor) -> Tensor:
        """Standardised z_i [B, D] -> z_i as CLIP gives it."""
        return x * self.clip_std + self.clip_mean

    def denoiser(self, text: TextFeatures, guidance: float, null: TextFeatures | None = None, n: int = 1) -> Denoise:
        """As DiffusionPrior's, for what this network was trained to predict."""
        return self.schedule.denoiser(self.network(text, guidance, null, n), self.config.embed_dim, self.schedule.clip)

    def sample_steps(self, *args, **options) -> Iterator[SampleStep]:
        """As DiffusionPrior's, with the empty caption at hand."""
        return super().sample_steps(*args, **{"null": self.empty, **options})


@dataclass(frozen=True)
class KarloDecoderConfig:
    """image_size: what it was published for; the pipeline runs it at 64 px."""

    unet: UNetConfig
    embed_dim: int
    image_tokens: int = 4
    image_size: int = 64
    schedule: ReferenceSchedule = ReferenceSchedule(learned_range=True)


class KarloDecoder(nn.Module):
    """P(x | z_i, y): z_i and z_t added to the timestep embedding; context = [image tokens; LayerNorm(caption tokens)].

    `empty`, the encoded caption "", is what guidance drops the caption to; set when the weights are loaded.
    """

    empty: TextFeatures | None = None

    def __init__(self, config: KarloDecoderConfig) -> None:
        super().__init__()
        self.config = config
        width, context_width = config.embed_dim, config.unet.context_width
        self.null_image = nn.Parameter(torch.zeros(width))
        self.pooled_to_time = Linear(width, config.unet.time_width)
        self.image_to_time = Linear(width, config.unet.time_width)
        self.image_to_tokens = Linear(width, config.image_tokens * context_width)
        self.text_to_context = Linear(width, context_width)
        self.text_norm = nn.LayerNorm(context_width)
        self.unet = UNet(config.unet)

    def condition(self, z_i: Tensor | None, text: TextFeatures) -> tuple[Tensor, Tensor, Tensor]:
        """-> (added to the timestep embedding [B, time_width], context [B, K + L, X], its mask [B, K + L]).

        z_i None is the learned null. Context after the longest caption is left out: nothing may look at it.
        """
        longest = int(text.mask.any(0).nonzero().max()) + 1
        pooled, tokens = text.pooled.to(self.null_image), text.tokens[:, :longest].to(self.null_image)
        image = self.null_image.expand(len(pooled), -1) if z_i is None else z_i.to(self.null_image)
        time_extra = self.image_to_time(image) + self.pooled_to_time(pooled)
        # As published, the token's number varies fastest.
        image_tokens = self.image_to_tokens(image).unflatten(1, (-1, self.config.image_tokens)).transpose(1, 2)
        context = torch.cat([image_tokens, self.text_norm(self.text_to_context(tokens))], dim=1)
        mask = F.pad(text.mask[:, :longest], (self.config.image_tokens, 0), value=True)
        return time_extra, context, mask

    def network(self, z_i: Tensor | None, text: TextFeatures | None, guidance: float, rows: int) -> Denoise:
        """Guided raw output, (x [B, C, H, W], t [B]) -> [B, C or 2C, H, W]: the conditional half's learned variance.

        text None is the empty caption. At guidance 1 the unconditional half is never run.
        """
        text = self._empty(rows) if text is None else text
        if guidance != 1:  # in one batch: conditional half, then null z_i and empty caption
            empty = self._empty(rows)
            text = TextFeatures(*(torch.cat([a, b.to(a)]) for a, b in zip(text, empty)))
            null = self.null_image.expand(rows, -1)
            z_i = torch.cat([null if z_i is None else z_i.to(null), null])
        time_extra, context, mask = self.condition(z_i, text)
        dtype = self.unet.conv_in.weight.dtype  # conditioning is float32; the UNet may not be
        time_extra, prepared = time_extra.to(dtype), self.unet.prepare_context(context.to(dtype), mask)
        if guidance == 1:
            return lambda x, t: self.unet(x, t, time_extra, prepared)

        def guided(x: Tensor, t: Tensor) -> Tensor:
            both = self.unet(torch.cat([x, x]), torch.cat([t, t]), time_extra, prepared).to(x.dtype)
            with_condition, without = both.chunk(2)
            c = x.shape[1]
            mean = without[:, :c] + guidance * (with_condition[:, :c] - without[:, :c])
            return torch.cat([mean, with_condition[:, c:]], dim=1)

        return guided

    def _empty(self, rows: int) -> TextFeatures:
        return TextFeatures(*(part.expand(rows, *part.shape[1:]) for part in self.empty))

    def sample_steps(
        self,
        z_i: Tensor | None,
        text: TextFeatures | None,
        x_T: Tensor,
        *,
        guidance: float,
        steps: int,
        sampler: str = "ddpm",
        eta: float = 0.0,
        noise: Noise | None = None,
        clip: float | None = 1.0,
        pull: bool = True,
    ) -> Iterator[SampleStep]:
        """From noise x_T [B, C, H, W] to pictures in [-1, 1]. "ddpm" is the published sampler with learned variance.

        pull is without effect: this decoder takes every z_i as it is.
        """
        network = self.network(z_i, text, guidance, len(x_T))
        schedule = self.config.schedule
        if sampler == "ddpm":
            yield from schedule.sample(network, x_T, steps, noise)
            return
        denoise = schedule.denoiser(network, x_T.shape[1], clip and schedule.clip)
        yield from run_sampler(sampler, denoise, x_T, schedule.ours.times(steps), schedule.ours, eta=eta, noise=noise)

    def invert_steps(
        self, x0: Tensor, z_i: Tensor | None, text: TextFeatures | None, *, steps: int, refine: int = 0
    ) -> Iterator[SampleStep]:
        """DDIM inversion of pictures x0 [B, C, H, W]; the last x is x_T."""
        schedule = self.config.schedule
        denoise = schedule.denoiser(self.network(z_i, text, 1.0, len(x0)), x0.shape[1], None)
        yield from invert(denoise, x0, schedule.ours.times(steps), schedule.ours, refine=refine)


@dataclass(frozen=True)
class KarloUpsamplerConfig:
    """image_size: what it was published for. Being convolutions, it runs at any; the pipeline asks 64 -> 256."""

    unet: UNetConfig
    image_size: int = 256
    low_size: int = 64
    high_size: int = 256
    schedule: ReferenceSchedule = ReferenceSchedule()


class KarloUpsampler(nn.Module):
    """Two networks of one config: the first runs every step but the last, which recovers fine detail.

    pair: both by their published names; with little memory one that reads each when it is asked for, so that each is in
    memory only while it works.
    """

    def __init__(self, config: KarloUpsamplerConfig, pair: nn.ModuleDict | Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.pair = pair

    def first(self) -> UNet:
        return self.pair["super_res_first"]

    def last(self) -> UNet:
        return self.pair["super_res_last"]

    def networks(self, low: Tensor, size: tuple[int, int]) -> tuple[Denoise, Denoise]:
        """Both networks with the small pictures low [B, C, h, w], resized once, concatenated to their input."""
        enlarged = F.interpolate(low, size=size, mode="bicubic", align_corners=False, antialias=True)

        def beside(network: Callable[[], UNet]) -> Denoise:
            return lambda x, t: network()(torch.cat([x, enlarged.to(x)], dim=1), t)

        return beside(self.first), beside(self.last)

    def sample_steps(
        self, low: Tensor, x_T: Tensor, *, steps: int, sampler: str = "ddpm", noise: Noise | None = None
    ) -> Iterator[SampleStep]:
        """From pictures low [B, C, h, w] and noise x_T [B, C, H, W] to large pictures, one yield a step."""
        schedule = self.config.schedule
        first, last = self.networks(low, x_T.shape[-2:])
        if sampler == "ddpm":
            yield from schedule.sample(first, x_T, steps, noise, last)
            return
        grid = schedule.ours.times(steps)
        end = int(grid[-1])

        def network(x: Tensor, t: Tensor) -> Tensor:
            return (last if int(t[0]) == end else first)(x, t)

        denoise = schedule.denoiser(network, x_T.shape[1], schedule.clip)
        yield from run_sampler(sampler, denoise, x_T, grid, schedule.ours, noise=noise)
