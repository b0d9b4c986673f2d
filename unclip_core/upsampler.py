"""Upsamplers 64 -> 256 and 256 -> 1024 (paper section 2.1): diffusion conditioned on a smaller picture.

The network is convolutions only, so it trains on crops and runs at full size; the smaller picture is resized and
concatenated to the noised one. In training the smaller picture is corrupted, so that the upsampler forgives what the
stage before it gets wrong: Gaussian blur for the first, for the second a BSR-like chain of blur, resizing, noise and
JPEG.

Letters: B pictures, C = 3 colours, H x W the large size, h x w the small one. Pictures lie in [-1, 1].
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip_core.denoiser import Denoise, make_denoiser
from unclip_core.objective import diffusion_loss
from unclip_core.sampling import Noise, SampleStep, run_sampler
from unclip_core.schedule import NoiseSchedule
from unclip_core.unet import UNet, UNetConfig


@dataclass(frozen=True)
class UpsamplerConfig:
    """unet takes six channels in (noised picture, resized small picture) and gives three. Sizes in pixels.

    residual: the UNet gives what is to be added to the resized small picture; for predicts = "x0" only.
    """

    unet: UNetConfig
    low_size: int = 64
    high_size: int = 256
    corruption: str = "blur"
    schedule: NoiseSchedule = field(default_factory=lambda: NoiseSchedule("cosine"))
    predicts: str = "v"
    residual: bool = False


class Upsampler(nn.Module):
    def __init__(self, config: UpsamplerConfig):
        super().__init__()
        if config.unet.in_channels != 6 or config.unet.out_channels != 3:
            raise ValueError("an upsampler's UNet takes 6 channels and gives 3")
        if config.residual and config.predicts != "x0":
            raise ValueError("an upsampler predicts a residual of x0 only")
        self.config = config
        self.unet = UNet(config.unet)

    @property
    def factor(self) -> int:
        return self.config.high_size // self.config.low_size

    def forward(self, x: Tensor, t: Tensor, low: Tensor) -> Tensor:
        """x [B, 3, H, W] noised, t [B], low [B, 3, h, w] -> raw prediction [B, 3, H, W]."""
        return self._predict(x, t, enlarge(low, x.shape[-2:]))

    def _predict(self, x: Tensor, t: Tensor, enlarged: Tensor) -> Tensor:
        out = self.unet(torch.cat([x, enlarged.to(x)], dim=1), t)
        return out.to(x.dtype) + enlarged.to(x) if self.config.residual else out

    def denoiser(self, low: Tensor) -> Denoise:
        """The small pictures low [B, 3, h, w] are resized once, for all the steps."""
        size = (low.shape[-2] * self.factor, low.shape[-1] * self.factor)
        enlarged = enlarge(low, size)
        return make_denoiser(
            lambda x, t: self._predict(x, t, enlarged), self.config.schedule, self.config.predicts, clip=1.0
        )

    def sample_steps(
        self, low: Tensor, x_T: Tensor, *, steps: int, sampler: str = "ddim", noise: Noise | None = None
    ) -> Iterator[SampleStep]:
        """From small pictures low [B, 3, h, w] and noise x_T [B, 3, H, W] to large pictures, one yield a step."""
        schedule = self.config.schedule
        return run_sampler(sampler, self.denoiser(low), x_T, schedule.times(steps), schedule, noise=noise)

    def loss(self, high: Tensor, generator: torch.Generator | None = None, weighting: str = "flat") -> Tensor:
        """high: crops [B, 3, H, W] of true pictures; the small picture is made of them and corrupted here."""
        low = F.avg_pool2d(high.float(), self.factor)  # [B, 3, h, w], area-averaged as the corpus's own small pictures
        with torch.autocast(high.device.type, enabled=False):  # the corruptions mix float32 pictures
            low = CORRUPTIONS[self.config.corruption](low, generator)
        enlarged = enlarge(low, high.shape[-2:]).to(high)
        return diffusion_loss(
            lambda x, t: self._predict(x, t, enlarged),
            high,
            self.config.schedule,
            self.config.predicts,
            generator,
            weighting,
        )


def enlarge(low: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic, kept within [-1, 1]."""
    return F.interpolate(low.float(), size=tuple(size), mode="bicubic", align_corners=False).clamp(-1, 1)


# ---- what is done to the small picture in training ----


def _uniform(batch: int, low: float, high: float, generator: torch.Generator | None, like: Tensor) -> Tensor:
    place = generator.device if generator is not None else like.device
    return (low + (high - low) * torch.rand(batch, generator=generator, device=place)).to(like.device)


def gaussian_blur(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Each picture of x [B, C, h, w] blurred by its own sigma [B] (pixels; 0 leaves it), edges reflected."""
    batch, channels, height, width = x.shape
    offsets = torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3).to(x)[:, None]) ** 2)  # [B, K]
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)  # [B*C, K]
    planes = x.reshape(1, batch * channels, height, width)
    planes = F.pad(planes, (radius,) * 4, mode="reflect")
    planes = F.conv2d(planes, kernel[:, None, None, :], groups=batch * channels)
    planes = F.conv2d(planes, kernel[:, None, :, None], groups=batch * channels)
    return planes.reshape(batch, channels, height, width)


def corrupt_blur(low: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Paper appendix C: kernel 3, sigma 0.6; sigma here runs from 0.1 to 0.6 so that a clean picture is known too."""
    return gaussian_blur(low, _uniform(len(low), 0.1, 0.6, generator, low), radius=1)


# The luminance table of the JPEG standard (ITU-T T.81, annex K), used for all three planes.
_JPEG_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)


def _dct_matrix(like: Tensor) -> Tensor:
    """The orthonormal 8-point cosine transform [8, 8]."""
    n = torch.arange(8, device=like.device, dtype=like.dtype)
    matrix = torch.cos(math.pi / 8 * (n[None] + 0.5) * n[:, None]) * 0.5
    matrix[0] /= math.sqrt(2)
    return matrix


def jpeg_like(x: Tensor, quality: Tensor) -> Tensor:
    """JPEG's 8 x 8 cosine quantisation of x [B, C, h, w] in [-1, 1] (sides multiples of 8), quality [B] in 1..100."""
    batch, channels, height, width = x.shape
    dct = _dct_matrix(x)
    scale = torch.where(quality < 50, 50.0 / quality, 2.0 - quality / 50.0).to(x)  # libjpeg's rule
    table = torch.tensor(_JPEG_TABLE, device=x.device, dtype=x.dtype) * scale[:, None, None]  # [B, 8, 8]
    table = (table / 127.5).clamp(min=1 / 127.5)[:, None, None, None]  # 255 levels span [-1, 1]
    blocks = x.reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4)  # [B, C, h/8, w/8, 8, 8]
    spectrum = dct @ blocks @ dct.T
    blocks = dct.T @ (torch.round(spectrum / table) * table) @ dct
    return blocks.transpose(3, 4).reshape(batch, channels, height, width)


def corrupt_bsr(low: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """BSR-like (Rombach et al. 2112.10752, after Zhang et al. 2103.14006), milder: blur, resize, noise, JPEG.

    Each step strikes each picture with its own strength, and misses about half of them; the resizing is the batch's.
    """
    batch, height, width = len(low), low.shape[-2], low.shape[-1]

    def struck(chance: float) -> Tensor:
        return (_uniform(batch, 0, 1, generator, low) < chance).to(low)[:, None, None, None]

    x = gaussian_blur(low, _uniform(batch, 0.1, 1.2, generator, low), radius=3)
    shrink = float(_uniform(1, 0.5, 1.0, generator, low))
    small = F.interpolate(x, scale_factor=shrink, mode="area") if shrink < 1 else x
    x = torch.lerp(x, enlarge(small, (height, width)), struck(0.5))
    place = generator.device if generator is not None else low.device
    noise = torch.randn(low.shape, generator=generator, device=place).to(low)
    x = x + struck(0.5) * noise * _uniform(batch, 0.0, 0.06, generator, low)[:, None, None, None]
    if height % 8 == 0 and width % 8 == 0:
        x = torch.lerp(x, jpeg_like(x.clamp(-1, 1), _uniform(batch, 40, 95, generator, low)), struck(0.5))
    return torch.lerp(low, x, struck(0.85)).clamp(-1, 1)


CORRUPTIONS = {"blur": corrupt_blur, "bsr": corrupt_bsr}
