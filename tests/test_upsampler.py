"""The upsamplers: convolutions only, so any size; and the corruptions they are trained against."""

import pytest
import torch
from tiny import tiny_stages

from unclip_core.layers import SpatialAttention
from unclip_core.unet import UNetConfig
from unclip_core.upsampler import (
    Upsampler,
    UpsamplerConfig,
    corrupt_blur,
    corrupt_bsr,
    enlarge,
    gaussian_blur,
    jpeg_like,
)


@pytest.fixture(scope="module")
def upsamplers():
    stages = tiny_stages()
    return [stages["upsampler_256"].requires_grad_(False), stages["upsampler_1024"].requires_grad_(False)]


def smooth(n, size):
    """Soft pictures [n, 3, size, size] in [-1, 1]."""
    noise = torch.randn(n, 3, size // 8, size // 8, generator=torch.Generator().manual_seed(0))
    return enlarge(noise * 0.5, (size, size))


def test_crops_and_whole_pictures_go_through_one_network(upsamplers):
    for upsampler in upsamplers:
        assert not any(isinstance(module, SpatialAttention) for module in upsampler.modules())
        for low in (16, 32):
            high = low * upsampler.factor
            x = torch.randn(1, 3, high, high)
            assert upsampler(x, torch.tensor([10]), torch.zeros(1, 3, low, low)).shape == x.shape


def test_the_small_picture_matters(upsamplers):
    x, t = torch.randn(1, 3, 64, 64), torch.tensor([500])
    one, other = (upsamplers[0](x, t, low) for low in (torch.zeros(1, 3, 16, 16), torch.ones(1, 3, 16, 16)))
    assert (one - other).abs().mean() > 1e-3


def test_six_channels_in_three_out():
    with pytest.raises(ValueError, match="6 channels"):
        Upsampler(UpsamplerConfig(UNetConfig(attention=(False, False), mid_attention=False)))


def test_a_new_residual_upsampler_is_the_resized_picture():
    unet = UNetConfig(6, 3, patch=4, widths=(32, 32), blocks=1, attention=(False, False), mid_attention=False)
    upsampler = Upsampler(UpsamplerConfig(unet, predicts="x0", residual=True)).requires_grad_(False)
    low = smooth(1, 16)
    for step in upsampler.sample_steps(low, torch.randn(1, 3, 64, 64), steps=2):
        pass
    torch.testing.assert_close(step.x, enlarge(low, (64, 64)), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="residual"):
        Upsampler(UpsamplerConfig(unet, predicts="v", residual=True))


def test_loss_is_finite_and_repeatable(upsamplers):
    crops = smooth(4, 64)
    for upsampler in upsamplers:
        losses = [upsampler.loss(crops, torch.Generator().manual_seed(seed)).item() for seed in (0, 0, 1)]
        assert losses[0] == losses[1] != losses[2]
        assert all(0 < loss < 100 for loss in losses)


def test_blur_is_the_gaussian_it_says():
    point = torch.zeros(2, 1, 9, 9)
    point[:, :, 4, 4] = 1
    blurred = gaussian_blur(point, torch.tensor([0.6, 0.0]), radius=1)
    offsets = torch.tensor([-1.0, 0.0, 1.0])
    kernel = torch.exp(-0.5 * (offsets / 0.6) ** 2)
    kernel = kernel / kernel.sum()
    torch.testing.assert_close(blurred[0, 0, 3:6, 3:6], kernel[:, None] * kernel[None])
    torch.testing.assert_close(blurred[1], point[1])
    flat = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(gaussian_blur(flat, torch.tensor([1.0]), radius=3), flat)


def test_jpeg_like_is_near_at_high_quality_and_blocky_at_low():
    x = smooth(2, 64)
    fine, coarse = (jpeg_like(x, torch.full((2,), quality)) for quality in (95.0, 10.0))
    error_fine, error_coarse = (fine - x).abs().mean(), (coarse - x).abs().mean()
    assert error_fine < 0.01 < error_coarse
    mean = x.reshape(2, 3, 8, 8, 8, 8).mean((3, 5)) - jpeg_like(x, torch.full((2,), 99.0)).reshape(
        2, 3, 8, 8, 8, 8
    ).mean((3, 5))
    assert mean.abs().max() < 0.02


def test_jpeg_like_agrees_with_a_jpeg():
    import io

    import numpy as np
    from PIL import Image

    x = smooth(1, 64).mean(1, keepdim=True)
    values = ((x[0, 0] + 1) * 127.5).round().clamp(0, 255).byte().numpy()
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "JPEG", quality=50)
    theirs = torch.from_numpy(np.asarray(Image.open(buffer)).copy()).float() / 127.5 - 1
    ours = jpeg_like(torch.from_numpy(values).float()[None, None] / 127.5 - 1, torch.tensor([50.0]))[0, 0]
    assert (ours - theirs).abs().mean() < 0.01  # theirs rounds its table and shifts by half a level


@pytest.mark.parametrize("corrupt", [corrupt_blur, corrupt_bsr])
def test_corruption_keeps_shape_and_range_and_follows_its_generator(corrupt):
    x = smooth(8, 32)
    one, again, other = (corrupt(x, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert one.shape == x.shape and one.abs().max() <= 1.05
    assert torch.equal(one, again) and not torch.equal(one, other)
    changed = (one - x).abs().mean((1, 2, 3))
    assert changed.max() > 1e-3 and changed.max() < 0.2
    if corrupt is corrupt_bsr:
        assert (changed < 1e-6).any() or (corrupt(x, torch.Generator().manual_seed(2)) - x).abs().mean(
            (1, 2, 3)
        ).min() < 1e-6


def test_the_resized_picture_stays_in_range():
    checker = torch.tensor([[1.0, -1.0] * 8, [-1.0, 1.0] * 8] * 8)[None, None].expand(1, 3, -1, -1)
    assert enlarge(checker, (64, 64)).abs().max() <= 1
