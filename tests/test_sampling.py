"""Samplers against closed forms: for Gaussian data the ideal denoiser and the DDIM path are known exactly."""

import math

import pytest
import torch

from unclip_core.denoiser import make_denoiser
from unclip_core.sampling import SAMPLERS, PictureNoise, ddim, ddpm, dpm_solver_pp, invert
from unclip_core.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule()
MEAN, STD = 0.7, 0.3


def ideal(x, t):
    """E[x0 | x_t] for x0 ~ N(MEAN, STD^2)."""
    signal, sigma = SCHEDULE.signal_and_noise(t, x)
    return MEAN + signal * STD**2 / (signal**2 * STD**2 + sigma**2) * (x - signal * MEAN)


def last(steps):
    return list(steps)[-1].x


def exact_end(x_start, t_start):
    """Where the probability-flow ODE ends: for Gaussian data the standardised value is carried along unchanged."""
    a = SCHEDULE.alpha_bar[t_start].item()
    return MEAN + STD * (x_start - math.sqrt(a) * MEAN) / math.sqrt(a * STD**2 + 1 - a)


@pytest.mark.parametrize(
    ("sampler", "steps", "bound"), [(ddim, 100, 0.05), (ddim, 1000, 5e-3), (dpm_solver_pp, 40, 1e-3)]
)
def test_deterministic_samplers_follow_the_gaussian_path(sampler, steps, bound):
    x = torch.randn(64, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    end = last(sampler(ideal, x, SCHEDULE.times(steps), SCHEDULE))
    assert (end - exact_end(x, 999)).abs().max() < bound


def test_dpm_solver_needs_fewer_steps_than_ddim():
    x = torch.randn(64, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def error(sampler):
        return (last(sampler(ideal, x, SCHEDULE.times(40), SCHEDULE)) - exact_end(x, 999)).abs().mean()

    assert error(dpm_solver_pp) < error(ddim) * 0.75


@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_stochastic_samplers_reach_the_right_distribution(eta):
    noise = PictureNoise(3, range(400))
    x = noise((1, 4, 4)).double()
    out = last(ddim(ideal, x, SCHEDULE.times(200), SCHEDULE, eta=eta, noise=noise))
    assert abs(out.mean().item() - MEAN) < 0.02 and abs(out.std().item() - STD) < 0.02


def test_ddpm_step_is_the_posterior_of_ho_et_al():
    t, before = 500, 400
    a, a_next = SCHEDULE.alpha_bar[t].item(), SCHEDULE.alpha_bar[before].item()
    beta = 1 - a / a_next
    x, x0 = torch.randn(2, 1, 2, 2, dtype=torch.float64), torch.randn(2, 1, 2, 2, dtype=torch.float64)
    draw = torch.randn(2, 1, 2, 2, dtype=torch.float64)
    step = next(ddpm(lambda *_: x0, x, torch.tensor([t, before]), SCHEDULE, lambda shape: draw))
    mean = math.sqrt(a_next) * beta / (1 - a) * x0 + math.sqrt(a / a_next) * (1 - a_next) / (1 - a) * x
    torch.testing.assert_close(step.x, mean + math.sqrt((1 - a_next) / (1 - a) * beta) * draw)


@pytest.mark.parametrize(("refine", "bound"), [(0, 0.15), (4, 0.01)])
def test_inversion_round_trip(refine, bound):
    x0 = MEAN + STD * torch.randn(16, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    times = SCHEDULE.times(50)
    up = last(invert(ideal, x0, times, SCHEDULE, refine=refine))
    assert (last(ddim(ideal, up, times, SCHEDULE)) - x0).abs().max() < bound


def test_refined_inversion_is_the_exact_inverse_of_one_ddim_step():
    grid = torch.tensor([20, 10])
    x0 = MEAN + STD * torch.randn(4, 1, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    up = list(invert(ideal, x0, grid, SCHEDULE, refine=60))
    assert [step.index for step in up] == [0, 1] and up[0].total == 2
    torch.testing.assert_close(last(ddim(ideal, up[-1].x, grid, SCHEDULE)), x0, atol=1e-8, rtol=0)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_every_sampler_ends_clean(name, steps):
    """With a perfect denoiser the picture itself comes out, however few the steps; and the input is left alone."""
    x0 = torch.rand(2, 3, 4, 4)
    noise = PictureNoise(0, range(2))
    x = noise((3, 4, 4))
    kept = x.clone()
    arguments = (lambda *_: x0, x, SCHEDULE.times(steps), SCHEDULE)
    walk = list(SAMPLERS[name](*arguments, noise) if name == "ddpm" else SAMPLERS[name](*arguments))
    assert len(walk) == steps and [step.index for step in walk] == list(range(steps))
    torch.testing.assert_close(walk[-1].x, x0)
    assert torch.equal(x, kept)


def test_repeated_times_change_nothing():
    """A grid longer than the schedule visits some times twice."""
    schedule = NoiseSchedule(steps=4)
    x0 = torch.rand(1, 3, 4, 4)
    for name in ("ddim", "dpm++"):
        out = last(SAMPLERS[name](lambda *_: x0, torch.randn(1, 3, 4, 4), schedule.times(9), schedule))
        torch.testing.assert_close(out, x0)


def test_picture_noise_depends_on_seed_and_picture_alone():
    together, alone = PictureNoise(7, range(4)), PictureNoise(7, [2])
    for _ in range(3):
        assert torch.equal(together((3, 8, 8))[2], alone((3, 8, 8))[0])
    draws = [PictureNoise(seed, [i], stage)((64,)) for seed in (0, 1) for i in (0, 1) for stage in ("", "decoder")]
    assert all(not torch.equal(a, b) for n, a in enumerate(draws) for b in draws[:n])


def test_guided_samplers_in_float32_stay_close_to_float64():
    def network(x, t):
        return 0.1 * x

    denoise = make_denoiser(network, SCHEDULE, "v", clip=1.0)
    x = torch.randn(2, 3, 4, 4)
    single = last(ddim(denoise, x, SCHEDULE.times(30), SCHEDULE))
    double = last(ddim(denoise, x.double(), SCHEDULE.times(30), SCHEDULE))
    assert (single - double).abs().max() < 1e-4
