import math

import pytest
import torch

from unclip_core.errors import PackError
from unclip_core.schedule import NoiseSchedule


def test_cosine_follows_its_formula():
    alpha_bar = NoiseSchedule("cosine", 1000).alpha_bar
    f = [math.cos((t / 1000 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(1001)]
    expected = torch.tensor(f[1:], dtype=torch.float64) / f[0]
    torch.testing.assert_close(alpha_bar[:-1], expected[:-1], atol=1e-12, rtol=1e-9)
    assert alpha_bar.dtype == torch.float64 and alpha_bar[-1] == pytest.approx(alpha_bar[-2].item() * 1e-3)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [4, 50, 1000])
def test_alpha_bar_falls_and_keeps_the_variance_at_one(kind, steps):
    schedule = NoiseSchedule(kind, steps)
    alpha_bar = schedule.alpha_bar
    assert (alpha_bar.diff() < 0).all() and 0 < alpha_bar[-1] and alpha_bar[0] < 1
    torch.testing.assert_close(torch.cumprod(1 - schedule.betas, 0), alpha_bar)
    signal, sigma = schedule.signal_and_noise(torch.arange(steps), torch.zeros(steps, 1, dtype=torch.float64))
    torch.testing.assert_close(signal**2 + sigma**2, torch.ones(steps, 1, dtype=torch.float64))


@pytest.mark.parametrize(
    ("n", "grid"), [(1, [999]), (2, [999, 0]), (5, [999, 749, 500, 250, 0]), (7, [999, 832, 666, 500, 333, 166, 0])]
)
def test_times(n, grid):
    assert NoiseSchedule().times(n).tolist() == grid
    assert NoiseSchedule().levels(NoiseSchedule().times(n))[-1] == 1.0


def test_shift_moves_times_towards_noise_and_leaves_the_ends():
    assert NoiseSchedule(shift=3.0).times(5).tolist() == [999, 899, 749, 500, 0]
    assert NoiseSchedule(shift=3.0).times(1).tolist() == [999]
    assert NoiseSchedule(shift=3.0).times(5, even=True).tolist() == [999, 749, 500, 250, 0]
    assert torch.equal(NoiseSchedule(shift=3.0).alpha_bar, NoiseSchedule().alpha_bar)


def test_add_noise():
    schedule = NoiseSchedule()
    x0, noise, t = torch.ones(2, 3, 4, 4), torch.full((2, 3, 4, 4), 2.0), torch.tensor([0, 700])
    expected = schedule.alpha_bar[700].sqrt() + 2 * (1 - schedule.alpha_bar[700]).sqrt()
    assert schedule.add_noise(x0, noise, t)[1, 0, 0, 0].item() == pytest.approx(expected.item(), rel=1e-6)


def test_mistakes_are_named():
    with pytest.raises(PackError, match="Unknown noise schedule 'sine'"):
        NoiseSchedule("sine")
    with pytest.raises(PackError, match="at least one training step"):
        NoiseSchedule(steps=0)
    for shift in (0, -1.0, float("nan"), "2"):
        with pytest.raises(PackError, match="shift is a number above 0"):
            NoiseSchedule(shift=shift)
    with pytest.raises(ValueError, match="at least one step"):
        NoiseSchedule().times(0)
