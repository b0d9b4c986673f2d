"""The UNet's shapes, contracts, masks, and that every configuration in use runs."""

import pytest
import torch

from unclip_core.errors import PackError
from unclip_core.unet import UNet, UNetConfig

DECODER = UNetConfig(patch=4, widths=(32, 64), context_width=24, time_width=48, head_width=16, groups=8)


def randomised(config, dtype=torch.float32):
    torch.manual_seed(0)
    unet = UNet(config).to(dtype)
    for parameter in unet.parameters():
        parameter.data.normal_(std=0.05)
    return unet.eval().to(memory_format=torch.channels_last)


CONFIGS = {
    "pocket decoder": DECODER,
    "pocket upsampler": UNetConfig(
        in_channels=6, patch=4, widths=(32, 32), blocks=1, attention=(False, False), mid_attention=False, groups=8,
        time_width=32, resblock_updown=False,
    ),
    "karlo decoder": UNetConfig(
        out_channels=6, widths=(16, 32, 48), blocks=(1, 2, 1), attention=(False, True, True), head_width=8, groups=8,
        context_width=20, time_width=64,
    ),
    "karlo upsampler": UNetConfig(
        in_channels=6, widths=(16, 32), attention=(False, False), mid_attention=False, groups=8, time_width=64,
        scale_shift=False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
def test_shapes_and_gradients(name):
    config = CONFIGS[name]
    unet = randomised(config)
    x, t = torch.randn(2, config.in_channels, 16, 32), torch.tensor([3, 900])
    context = torch.randn(2, 5, config.context_width) if config.context_width else None
    out = unet(x, t, torch.randn(2, config.time_width), context)
    assert out.shape == (2, config.out_channels, 16, 32)
    out.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in unet.parameters())


def test_starts_at_zero_output():
    assert UNet(DECODER)(torch.randn(1, 3, 64, 64), torch.tensor([5])).abs().max() == 0


def test_prepared_context_equals_context_and_picks_rows():
    unet = randomised(DECODER, torch.float64)
    x, t = torch.randn(3, 3, 32, 32, dtype=torch.float64), torch.tensor([1, 2, 3])
    context, mask = torch.randn(3, 6, 24, dtype=torch.float64), torch.rand(3, 6) > 0.4
    prepared = unet.prepare_context(context, mask)
    direct = unet(x, t, None, context, mask)
    torch.testing.assert_close(unet(x, t, None, prepared), direct)
    rows = torch.tensor([2, 0])
    torch.testing.assert_close(unet(x[rows], t[rows], None, prepared.index(rows)), direct[rows])


def test_masked_tokens_do_not_leak():
    unet = randomised(DECODER, torch.float64)
    x, t = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.tensor([10, 500])
    context = torch.randn(2, 6, 24, dtype=torch.float64)
    mask = torch.tensor([[True] * 4 + [False] * 2, [False] * 6])
    kept = unet(x, t, None, context, mask)
    context[~mask] = 1e3
    torch.testing.assert_close(unet(x, t, None, context, mask), kept)
    torch.testing.assert_close(unet(x[:1], t[:1], None, context[:1, :4]), kept[:1])
    torch.testing.assert_close(unet(x[1:], t[1:]), kept[1:])


def test_training_pass_equals_inference_pass():
    unet = randomised(DECODER, torch.float64)
    arguments = torch.randn(2, 3, 32, 32, dtype=torch.float64), torch.tensor([10, 500]), None
    context = torch.randn(2, 6, 24, dtype=torch.float64)
    with torch.no_grad():
        fused = unet(*arguments, context)
    torch.testing.assert_close(unet(*arguments, context), fused)


@pytest.mark.parametrize("way", ["autocast", "converted"])
def test_bfloat16_stays_close(way):
    unet = randomised(DECODER)
    x, t, context = torch.randn(2, 3, 64, 64), torch.tensor([10, 500]), torch.randn(2, 6, 24)
    with torch.no_grad():
        exact = unet(x, t, None, context)
        if way == "converted":
            out = unet.to(torch.bfloat16)(x, t, None, context.bfloat16())
        else:
            with torch.autocast("cpu", torch.bfloat16):
                out = unet(x, t, None, context)
    assert out.dtype == torch.bfloat16
    assert (out.float() - exact).norm() / exact.norm() < 0.05


def test_lists_from_json_become_tuples_and_mistakes_are_named():
    assert UNetConfig(widths=[64, 64], blocks=[1, 2]).blocks == (1, 2)
    with pytest.raises(PackError, match="attention has 3 entries for 2 levels"):
        UNetConfig(attention=[True] * 3)
    with pytest.raises(PackError, match="multiple of groups"):
        UNetConfig(widths=(100, 200))
