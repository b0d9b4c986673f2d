"""Noise schedules and time grids: what alpha_bar is at every training step, and which steps a sampler visits.

x_t = sqrt(alpha_bar[t]) x_0 + sqrt(1 - alpha_bar[t]) noise, for t = 0 (almost clean) .. steps - 1 (almost pure noise).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from unclip_core.errors import PackError

KINDS = ("cosine", "linear")


@lru_cache(maxsize=32)
def _betas(kind: str, steps: int) -> Tensor:
    """beta [T] float64. Python's own floats, so that the table is the same on every machine."""
    if kind == "cosine":  # Nichol and Dhariwal 2021, equation 17, with beta capped at 0.999

        def alpha_bar(time: float) -> float:
            return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

        betas = [min(1 - alpha_bar((i + 1) / steps) / alpha_bar(i / steps), 0.999) for i in range(steps)]
        return torch.tensor(betas, dtype=torch.float64, device="cpu")
    scale = 1000 / steps  # Ho et al. 2020, rescaled for other numbers of steps
    return torch.linspace(scale * 1e-4, min(scale * 0.02, 0.999), steps, dtype=torch.float64, device="cpu")


@lru_cache(maxsize=64)
def _alpha_bar(kind: str, steps: int, device: str) -> Tensor:
    return torch.cumprod(1 - _betas(kind, steps), dim=0).to(device)


@dataclass(frozen=True)
class NoiseSchedule:
    """A discrete noise schedule: `kind` "cosine" or "linear" with `steps` training steps T.

    shift: above 1, training and sampling visit the noisy end more densely (Esser et al. 2403.03206, equation 23), which
    is where the condition decides what a picture shows; the schedule itself stays as it is.
    """

    kind: str = "cosine"
    steps: int = 1000
    shift: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise PackError(f"Unknown noise schedule {self.kind!r}: choose one of {', '.join(KINDS)}.")
        if not isinstance(self.steps, int) or self.steps < 1:
            raise PackError(f"A noise schedule needs at least one training step, not {self.steps!r}.")
        if not isinstance(self.shift, (int, float)) or not 0 < self.shift < math.inf:
            raise PackError(f"A noise schedule's shift is a number above 0, not {self.shift!r}.")

    @property
    def betas(self) -> Tensor:
        """beta [T] float64: 1 - alpha_bar[t] / alpha_bar[t - 1]."""
        return _betas(self.kind, self.steps)

    @property
    def alpha_bar(self) -> Tensor:
        """alpha_bar [T] float64, falling."""
        return _alpha_bar(self.kind, self.steps, "cpu")

    def shifted(self, places: Tensor) -> Tensor:
        """Places in time, in [0, 1], moved towards the noisy end by `shift`; 0 and 1 stay."""
        return self.shift * places / (1 + (self.shift - 1) * places)

    def times(self, n: int, even: bool = False) -> Tensor:
        """n times falling from T - 1 to 0, evenly spaced but for `shift`: int64 [n]. One step means T - 1 alone.

        even: without `shift`. DDIM inversion goes this way, and back: it finds x_T where little noise is.
        """
        if n < 1:
            raise ValueError(f"A sampler needs at least one step, not {n}.")
        if n == 1:
            return torch.tensor([self.steps - 1])
        ratio = (self.steps - 1) / (n - 1)
        places = torch.arange(n, dtype=torch.float64) * ratio
        if self.shift != 1.0 and not even:
            places = self.shifted(places / (self.steps - 1)) * (self.steps - 1)
        return places.round().long().flip(0)

    def levels(self, times: Tensor) -> list[float]:
        """alpha_bar at each time of a grid, then 1.0, the clean end of every sampler's walk: n + 1 floats."""
        return [*self.alpha_bar[times.cpu()].tolist(), 1.0]

    def signal_and_noise(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(alpha_bar), sqrt(1 - alpha_bar) at t [B], shaped [B, 1, ..] and typed for `like` [B, ...].

        Made in float64 and rounded once: near T - 1 the signal is 5e-5 and everything is divided by it.
        """
        alpha_bar = _alpha_bar(self.kind, self.steps, str(t.device))[t].view(-1, *[1] * (like.ndim - 1))
        return alpha_bar.sqrt().to(like), (1 - alpha_bar).sqrt().to(like)

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x0 and noise [B, ...], t [B] int64 -> x_t [B, ...]."""
        signal, sigma = self.signal_and_noise(t, x0)
        return signal * x0 + sigma * noise
