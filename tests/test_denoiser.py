import pytest
import torch

from unclip_core.denoiser import guided, guided_batch, make_denoiser, training_target
from unclip_core.errors import PackError
from unclip_core.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule()
X0 = torch.rand(3, 2, 4, 4, dtype=torch.float64) * 2 - 1
NOISE = torch.randn(3, 2, 4, 4, dtype=torch.float64)
T = torch.tensor([0, 400, 999])


@pytest.mark.parametrize("predicts", ["eps", "v", "x0"])
def test_a_perfect_network_gives_x0_back(predicts):
    target = training_target(X0, NOISE, T, SCHEDULE, predicts)
    denoise = make_denoiser(lambda x, t: target, SCHEDULE, predicts)
    torch.testing.assert_close(denoise(SCHEDULE.add_noise(X0, NOISE, T), T), X0, atol=1e-9, rtol=0)


@pytest.mark.parametrize("predicts", ["eps", "v", "x0"])
def test_guidance_is_the_same_on_raw_outputs_and_on_x0(predicts):
    a, b = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    times = T.clamp(max=900)
    x = SCHEDULE.add_noise(X0, NOISE, times)
    raw = make_denoiser(guided(lambda *_: a, lambda *_: b, 3.0), SCHEDULE, predicts)(x, times)
    wrapped = [make_denoiser(lambda *_, out=out: out, SCHEDULE, predicts) for out in (a, b)]
    torch.testing.assert_close(raw, guided(*wrapped, 3.0)(x, times))
    batched = make_denoiser(guided_batch(lambda x, t: torch.cat([a, b]), 3.0), SCHEDULE, predicts)(x, times)
    torch.testing.assert_close(raw, batched)


def test_scale_one_never_runs_the_unconditional_pass():
    def never(x, t):
        raise AssertionError

    assert guided(lambda x, t: x, never, 1)(X0, T) is X0


def test_guided_batch_doubles_rows_and_times():
    seen = []

    def both(x, t):
        seen.append((x.shape, t.tolist()))
        return x

    guided_batch(both, 2.0)(X0, T)
    assert seen == [((6, 2, 4, 4), [0, 400, 999, 0, 400, 999])]


def test_clipping_and_dtype():
    denoise = make_denoiser(lambda x, t: torch.full_like(x, 7.0).bfloat16(), SCHEDULE, "x0", clip=1.0)
    out = denoise(X0.float(), T)
    assert out.dtype == torch.float32 and out.max() == 1.0


def test_unknown_prediction_type_is_named():
    with pytest.raises(PackError, match="Unknown prediction type 'score'"):
        make_denoiser(lambda x, t: x, SCHEDULE, "score")
