"""From a network's raw output to the clean picture x0. Nothing else knows the parameterisation (eps, v or x0).

Contract: `denoise(x, t) -> x0` with x [B, ...] and t [B] int64. Samplers see nothing but this.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from unclip_core.errors import PackError
from unclip_core.schedule import NoiseSchedule

Denoise = Callable[[Tensor, Tensor], Tensor]
PREDICTS = ("eps", "v", "x0")


def make_denoiser(network: Denoise, schedule: NoiseSchedule, predicts: str, clip: float | None = None) -> Denoise:
    """Wrap `network(x, t) -> raw output` as `denoise(x, t) -> x0`, clipped to +-`clip` where one is given.

    Guide the raw outputs (`guided`, `guided_batch`) before they come here and the clipping acts on the guided result,
    as it should: eps, v and x0 are linear in one another at a given (x, t), so guidance is the same in all three.
    """
    if predicts not in PREDICTS:
        raise PackError(f"Unknown prediction type {predicts!r}: choose one of {', '.join(PREDICTS)}.")

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        raw = network(x, t).to(x.dtype)
        signal, sigma = schedule.signal_and_noise(t, x)
        if predicts == "eps":
            x0 = (x - sigma * raw) / signal
        elif predicts == "v":
            x0 = signal * x - sigma * raw
        else:
            x0 = raw
        return x0 if clip is None else x0.clamp(-clip, clip)

    return denoise


def training_target(x0: Tensor, noise: Tensor, t: Tensor, schedule: NoiseSchedule, predicts: str) -> Tensor:
    """What the network should put out at x_t: noise, sqrt(ab) noise - sqrt(1 - ab) x0, or x0. All [B, ...]."""
    if predicts == "eps":
        return noise
    if predicts == "x0":
        return x0
    signal, sigma = schedule.signal_and_noise(t, x0)
    return signal * noise - sigma * x0


def guided(conditional: Denoise, unconditional: Denoise, scale: float) -> Denoise:
    """Classifier-free guidance: u + scale (c - u). At scale 1 the unconditional pass is never run."""
    if scale == 1:
        return conditional

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        without = unconditional(x, t)
        return without + scale * (conditional(x, t) - without)

    return denoise


def guided_batch(both: Denoise, scale: float) -> Denoise:
    """The same with both halves in one pass: `both` maps ([2B, ...], [2B]) to [2B, ...], conditional half first.

    For scale 1 use the conditional network alone instead: half the work.
    """

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        with_condition, without = both(torch.cat([x, x]), torch.cat([t, t])).chunk(2)
        return without + scale * (with_condition - without)

    return denoise


def guided_between(inside: Denoise, outside: Denoise, steps: int, low: float, high: float) -> Denoise:
    """`inside` at the noise levels low * steps to high * steps, `outside` at others (Kynkäänniemi et al. 2404.07724).

    A batch is at one level, as samplers have it: t [B] holds one number.
    """
    if (low, high) == (0.0, 1.0):
        return inside
    return lambda x, t: (inside if low <= t[0].item() / steps <= high else outside)(x, t)
