"""The shared training objective: noise levels, targets, weights."""

import pytest
import torch

from unclip_core.objective import WEIGHTINGS, diffusion_loss, draw_times
from unclip_core.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule("cosine")


def test_times_are_stratified_and_shuffled():
    t = draw_times(64, SCHEDULE, torch.Generator().manual_seed(0), torch.device("cpu"))
    strata = (t.sort().values.double() / 1000 * 64).floor()
    assert (strata - torch.arange(64)).abs().max() <= 1
    assert not torch.equal(t, t.sort().values)


def test_every_level_is_equally_likely():
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([draw_times(10, NoiseSchedule(steps=20), generator, torch.device("cpu")) for _ in range(2000)])
    counts = drawn.bincount(minlength=20)
    assert len(counts) == 20 and counts.min() > 900 and counts.max() < 1100


def test_shift_crowds_times_towards_noise():
    drawn = draw_times(4000, NoiseSchedule(shift=4.0), torch.Generator().manual_seed(0), torch.device("cpu"))
    assert abs((drawn >= 800).float().mean() - 0.5) < 0.01  # 4 x 0.5 / (1 + 3 x 0.5) = 0.8
    assert drawn.min() < 5 and drawn.max() >= 999


@pytest.mark.parametrize("predicts", ["v", "eps", "x0"])
def test_a_network_that_knows_the_picture_has_no_loss(predicts):
    x0 = torch.rand(16, 3, 8, 8) * 2 - 1

    def network(x, t):
        signal, sigma = SCHEDULE.signal_and_noise(t, x)
        noise = (x - signal * x0) / sigma
        return {"v": signal * noise - sigma * x0, "eps": noise, "x0": x0}[predicts]

    generator = torch.Generator().manual_seed(0)
    for weighting in WEIGHTINGS if predicts == "v" else ["flat"]:
        assert diffusion_loss(network, x0, SCHEDULE, predicts, generator, weighting) < 1e-3


def test_the_loss_is_repeatable_and_in_float32():
    x0 = torch.rand(4, 3, 8, 8)
    one, two = (
        diffusion_loss(lambda x, t: x.bfloat16(), x0, SCHEDULE, "v", torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert one == two and one.dtype == torch.float32


@pytest.mark.parametrize("weighting", WEIGHTINGS)
def test_weights_are_finite_positive_and_near_one_on_average(weighting):
    alpha_bar = SCHEDULE.alpha_bar.float()
    weights = WEIGHTINGS[weighting](alpha_bar / (1 - alpha_bar))
    assert torch.isfinite(weights).all() and (weights >= 0).all()
    assert 0.3 < weights.mean() < (2 if weighting != "x0_as_v" else 10)  # that one is for another error


def test_detail_weighs_low_noise_more_than_high():
    weights = WEIGHTINGS["detail"](torch.tensor([0.01, 3.0]))
    assert weights[1] > 2 * weights[0]
