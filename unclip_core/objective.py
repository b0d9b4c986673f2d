"""The training objective that the decoder and both upsamplers share: noise a picture, predict, weigh the error."""

from collections.abc import Callable

import torch
from torch import Tensor

from unclip_core.denoiser import training_target
from unclip_core.schedule import NoiseSchedule


def _flat(snr: Tensor) -> Tensor:
    return torch.ones_like(snr)


def _min_snr(snr: Tensor, gamma: float = 5.0) -> Tensor:
    """Hang et al. 2303.09556, for v-prediction: min(SNR, gamma) / (SNR + 1), scaled to a mean near one."""
    return 2.0 * snr.clamp(max=gamma) / (snr + 1.0)


def _sigmoid(snr: Tensor, bias: float = 1.0) -> Tensor:
    """Hoogeboom et al. 2410.19324: sigmoid(bias - log SNR) on the epsilon error, rewritten for the v error."""
    log_snr = snr.clamp(1e-8, 1e8).log()
    return 4.0 * torch.sigmoid(bias - log_snr) * torch.sigmoid(log_snr)


def _detail(snr: Tensor) -> Tensor:
    """More weight where detail is decided: a bump over the middle and low noise levels, a floor elsewhere."""
    log_snr = snr.clamp(1e-8, 1e8).log()
    return 0.5 + torch.exp(-0.5 * ((log_snr - 1.0) / 2.0) ** 2)


def _x0_as_v(snr: Tensor, most: float = 10.0) -> Tensor:
    """For x0-prediction: the same as an unweighted v error, 1 + SNR times, up to `most` (Li and He 2511.13720)."""
    return (1.0 + snr).clamp(max=most)


# Signal-to-noise ratio -> weight of the squared error at that level (of a v-prediction, but for the last).
WEIGHTINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "flat": _flat,
    "min_snr": _min_snr,
    "sigmoid": _sigmoid,
    "detail": _detail,
    "x0_as_v": _x0_as_v,
}


def draw_times(batch: int, schedule: NoiseSchedule, generator: torch.Generator | None, device: torch.device) -> Tensor:
    """[B] int64 noise levels in 0..T-1, as likely as the schedule's `shift` makes them (all alike at 1).

    Stratified: one in each B-th of that distribution, in random order, which takes most of the loss's variance between
    batches away.
    """
    place = generator.device if generator is not None else device
    order = torch.randperm(batch, generator=generator, device=place)
    offset = torch.rand(batch, generator=generator, device=place)
    places = schedule.shifted((order + offset) / batch)
    return (places * schedule.steps).long().clamp(max=schedule.steps - 1).to(device)


def diffusion_loss(
    network: Callable[[Tensor, Tensor], Tensor],
    x0: Tensor,
    schedule: NoiseSchedule,
    predicts: str,
    generator: torch.Generator | None = None,
    weighting: str = "flat",
    extra: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """Mean squared error of the network's output at random noise levels.

    network: (x [B, ...], t [B] int64) -> prediction like x. x0: [B, ...]. weighting: a key of
    WEIGHTINGS. extra: a further distance (prediction, target) -> [B], added unweighted. Returns a float32 scalar.
    """
    t = draw_times(len(x0), schedule, generator, x0.device)  # [B]
    place = generator.device if generator is not None else x0.device
    noise = torch.randn(x0.shape, generator=generator, device=place).to(x0)
    target = training_target(x0, noise, t, schedule, predicts)
    prediction = network(schedule.add_noise(x0, noise, t), t)
    error = (prediction.float() - target.float()).square().flatten(1).mean(1)  # [B]
    alpha_bar = schedule.alpha_bar.to(t.device)[t].float()
    loss = WEIGHTINGS[weighting](alpha_bar / (1.0 - alpha_bar)) * error
    return (loss if extra is None else loss + extra(prediction, target)).mean()
