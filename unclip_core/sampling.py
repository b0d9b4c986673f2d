"""Samplers: short generators over `denoise(x, t) -> x0` that yield every step. The last step's `x` is the result.

`times` is a falling grid (NoiseSchedule.times); each walk ends at the clean picture, alpha_bar = 1. In the code `a` is
alpha_bar where the walk stands and `a_next` where it goes.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from unclip_core.denoiser import Denoise
from unclip_core.schedule import NoiseSchedule

Noise = Callable[[tuple[int, ...]], Tensor]  # shape of one picture -> [B, *shape]


class SampleStep(NamedTuple):
    """One step of a sampler: x after the step, and the network's present idea of the clean x0, both [B, ...]."""

    index: int
    total: int
    x: Tensor
    x0: Tensor


class PictureNoise:
    """Random numbers of which picture i's depend on (seed, i, stage) alone, never on the batch it is made in.

    Each picture draws from its own CPU generator, so the numbers are the same on every device as well.
    """

    def __init__(self, seed: int, indices: list[int] | range, stage: str = "") -> None:
        self.generators = [torch.Generator().manual_seed(_mixed(seed, index, stage)) for index in indices]

    @classmethod
    def alone(cls, seeds: list[int], stage: str = "") -> PictureNoise:
        """Each picture as the first of a seed of its own."""
        made = cls(0, [], stage)
        made.generators = [torch.Generator().manual_seed(_mixed(seed, 0, stage)) for seed in seeds]
        return made

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers [B, *shape], float32 on the CPU; each call continues every picture's own stream."""
        return torch.stack([torch.randn(tuple(shape), generator=g, device="cpu") for g in self.generators])


def _mixed(seed: int, index: int, stage: str) -> int:
    """A 63-bit hash: neighbours must not share streams (seed 1's picture 2 and seed 2's picture 1)."""
    digest = hashlib.blake2b(f"{seed}/{index}/{stage}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def ddpm(denoise: Denoise, x: Tensor, times: Tensor, schedule: NoiseSchedule, noise: Noise) -> Iterator[SampleStep]:
    """Ancestral sampling with the posterior variance (Ho et al. 2020): DDIM's eta = 1 is exactly this."""
    return ddim(denoise, x, times, schedule, eta=1.0, noise=noise)


def ddim(
    denoise: Denoise, x: Tensor, times: Tensor, schedule: NoiseSchedule, eta: float = 0.0, noise: Noise | None = None
) -> Iterator[SampleStep]:
    """DDIM (Song et al. 2021, equations 12 and 16). eta = 0 is deterministic; `noise` is needed only above that."""
    levels = schedule.levels(times)
    for i, t in enumerate(times.tolist()):
        a, a_next = levels[i], levels[i + 1]
        x0 = denoise(x, _filled(t, x))
        sigma = eta * math.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))
        direction = math.sqrt(max(1 - a_next - sigma**2, 0.0)) / math.sqrt(1 - a)  # times (x - sqrt(a) x0) = of eps
        x = (math.sqrt(a_next) - direction * math.sqrt(a)) * x0 + direction * x
        if sigma > 0:
            x = x + sigma * noise(x.shape[1:]).to(x)
        yield SampleStep(i, len(times), x, x0)


def dpm_solver_pp(denoise: Denoise, x: Tensor, times: Tensor, schedule: NoiseSchedule) -> Iterator[SampleStep]:
    """DPM-Solver++(2M), second order and multistep (Lu et al. 2022, algorithm 2). The last step is first order: x0.

    Evenly spaced times are very uneven in log SNR at both ends, where the full extrapolation overshoots; it is held to
    what equal steps would give (1/2). With that, 20 steps and more beat DDIM's error, and fewer are no worse.
    """
    levels = schedule.levels(times)
    half_log_snr = [math.log(a / (1 - a)) / 2 if a < 1 else math.inf for a in levels]  # lambda
    earlier = None
    for i, t in enumerate(times.tolist()):
        a, a_next = levels[i], levels[i + 1]
        x0 = denoise(x, _filled(t, x))
        step = half_log_snr[i + 1] - half_log_snr[i]
        estimate = x0
        if earlier is not None and 0 < step < math.inf and half_log_snr[i] > half_log_snr[i - 1]:
            ratio = min(step / (half_log_snr[i] - half_log_snr[i - 1]), 1.0) / 2  # 1 / 2r
            estimate = (1 + ratio) * x0 - ratio * earlier
        x = math.sqrt((1 - a_next) / (1 - a)) * x - math.sqrt(a_next) * math.expm1(-step) * estimate
        earlier = x0
        yield SampleStep(i, len(times), x, x0)


def invert(
    denoise: Denoise, x0: Tensor, times: Tensor, schedule: NoiseSchedule, refine: int = 0
) -> Iterator[SampleStep]:
    """DDIM inversion: the deterministic sampler on the reversed grid, from a clean x0 [B, ...] up to x_T (paper, 3).

    Each step reuses the noise seen where it stands. With `refine` > 0 the noise is then looked at again from where the
    step arrived, that many times: a fixed-point iteration to the exact inverse of `ddim` on the same grid. Give a
    denoiser that does not clip, or the walk back takes another path.
    """
    levels, grid = schedule.levels(times), times.tolist()
    x, t = x0, grid[-1]
    for step, i in enumerate(reversed(range(len(grid)))):
        a, a_next = levels[i + 1], levels[i]
        seen, level = x, schedule.alpha_bar[t].item()  # a clean picture is looked at as if at the first time
        for _ in range(refine + 1):
            estimate = denoise(seen, _filled(t, x))
            eps = (seen - math.sqrt(level) * estimate) / math.sqrt(1 - level)
            seen = math.sqrt(a_next / a) * (x - math.sqrt(1 - a) * eps) + math.sqrt(1 - a_next) * eps
            t, level = grid[i], a_next  # from here on: looked at again from where the step arrived
        x = seen
        yield SampleStep(step, len(grid), x, estimate)


def _filled(t: int, x: Tensor) -> Tensor:
    """The time t for every picture of x [B, ...]: int64 [B]."""
    return torch.full((x.shape[0],), t, dtype=torch.int64, device=x.device)


SAMPLERS = {"ddpm": ddpm, "ddim": ddim, "dpm++": dpm_solver_pp}


def run_sampler(
    name: str,
    denoise: Denoise,
    x: Tensor,
    times: Tensor,
    schedule: NoiseSchedule,
    eta: float = 0.0,
    noise: Noise | None = None,
) -> Iterator[SampleStep]:
    """A sampler by its name, with those of eta and noise that it takes."""
    takes = {"ddpm": {"noise": noise}, "ddim": {"eta": eta, "noise": noise}}.get(name, {})
    return SAMPLERS[name](denoise, x, times, schedule, **takes)
