"""The hand-written layers against PyTorch's own, values and gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F

from unclip_core import cpu, layers, winograd
from unclip_core.cpu import Conv2d, GroupNorm, Linear, pack_weights
from unclip_core.layers import TransformerBlock, attend, timestep_embedding

NEEDS_BFLOAT16 = pytest.mark.skipif(
    not cpu.packable(torch.bfloat16), reason="this processor has no bfloat16 instructions"
)
PACKED = [torch.float32, pytest.param(torch.bfloat16, marks=NEEDS_BFLOAT16)]


def channels_last(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype).to(memory_format=torch.channels_last)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("conditioned", [True, False])
def test_group_norm_matches_pytorch_with_gradients(silu, conditioned):
    torch.manual_seed(0)
    norm = GroupNorm(4, 12).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (3 + 2 * channels_last(2, 12, 5, 3)).requires_grad_()
    condition = torch.randn(2, 24, dtype=torch.float64, requires_grad=True)
    scale, shift = condition.chunk(2, dim=1) if conditioned else (None, None)

    def reference():
        y = F.group_norm(x, 4, norm.weight, norm.bias, norm.eps)
        y = y * (1 + scale[:, :, None, None]) + shift[:, :, None, None] if conditioned else y
        return F.silu(y) if silu else y

    leaves = [x, norm.weight, norm.bias] + ([condition] if conditioned else [])
    weights = channels_last(2, 12, 5, 3)
    ours, theirs = norm(x, scale, shift, silu=silu), reference()
    torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=0)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    expected = torch.autograd.grad(theirs, leaves, weights, retain_graph=True)
    for a, b in zip(torch.autograd.grad(ours, leaves, weights, retain_graph=True), expected):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("silu", [True, False])
def test_group_norm_in_blocks_is_the_same(monkeypatch, silu):
    norm, x = GroupNorm(4, 12).double(), 1 + channels_last(2, 12, 7, 5)
    scale, shift = torch.randn(2, 2, 12, dtype=torch.float64)
    whole = norm(x, scale, shift, silu=silu)
    monkeypatch.setattr(cpu, "LARGE", 1)
    monkeypatch.setattr(cpu, "BLOCK", 40)
    with torch.no_grad():
        blocks = norm(x, scale, shift, silu=silu)
    torch.testing.assert_close(blocks, whole)
    assert blocks.is_contiguous(memory_format=torch.channels_last)


def test_group_norm_falls_back_where_the_layout_is_not_channels_last():
    norm, x = GroupNorm(2, 8), torch.randn(2, 8, 4, 4)
    scale, shift = torch.randn(2, 8), torch.randn(2, 8)
    fast = norm(x.to(memory_format=torch.channels_last), scale, shift)
    torch.testing.assert_close(norm(x, scale, shift), fast, atol=1e-5, rtol=1e-5)


def test_group_norm_in_bfloat16_keeps_its_statistics_in_float32():
    norm = GroupNorm(4, 32)
    x = 20 + channels_last(2, 32, 16, 16, dtype=torch.float32)  # a large mean: bfloat16 sums would lose the spread
    x = x.bfloat16().float()
    narrow = norm(x.bfloat16(), silu=False)
    assert narrow.dtype == torch.bfloat16
    assert (narrow.float() - norm(x, silu=False)).abs().max() < 0.02


@pytest.mark.parametrize("masked", [True, False])
def test_written_out_attention_matches_the_fused_one(masked):
    q, k, v = (torch.randn(2, 3, n, 8, dtype=torch.float64) for n in (4, 6, 6))
    mask = torch.rand(2, 1, 4, 6) > 0.4
    mask[..., 0] = True
    mask = mask if masked else None
    fused = attend(q, k, v, mask)
    stepped = attend(q.requires_grad_(), k, v, mask)
    assert fused.shape == (2, 4, 24)
    torch.testing.assert_close(fused, stepped)


def test_transformer_block_with_a_prefix_equals_the_whole_sequence():
    torch.manual_seed(0)
    block = TransformerBlock(16, 8).double()
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    causal = torch.ones(7, 7).tril().bool()
    whole, (k, _) = block(x, causal)
    assert k.shape == (2, 2, 7, 8)
    first, past = block(x[:, :4], causal[:4, :4])
    rest, _ = block(x[:, 4:], causal[4:], past)
    torch.testing.assert_close(torch.cat([first, rest], dim=1), whole)


def test_timestep_embedding_is_cosines_then_sines():
    embedding = timestep_embedding(torch.tensor([0, 999]), 7)
    assert embedding.shape == (2, 7) and embedding.dtype == torch.float32
    torch.testing.assert_close(embedding[0], torch.tensor([1.0, 1, 1, 0, 0, 0, 0]))
    torch.testing.assert_close(embedding[1, [0, 3]], torch.tensor([999.0, 999.0]).cos() * 0 + embedding[1, [0, 3]])
    assert abs(embedding[1, 0] - torch.tensor(999.0).cos()) < 1e-4


@pytest.mark.parametrize("masked", [True, False])
def test_attention_head_by_head_matches(monkeypatch, masked):
    q, k, v = (torch.randn(2, 3, n, 8).bfloat16() for n in (4, 6, 6))
    mask = torch.rand(2, 1, 4, 6) > 0.4
    mask[..., 0] = True
    mask = mask if masked else None
    together = attend(q, k, v, mask)
    monkeypatch.setattr(layers, "LARGE", 1)
    torch.testing.assert_close(attend(q, k, v, mask), together, atol=0.02, rtol=0.02)
    exact = attend(q.double(), k.double(), v.double(), mask)
    torch.testing.assert_close(together.double(), exact, atol=0.03, rtol=0.03)


@pytest.mark.parametrize("dtype", PACKED)
@pytest.mark.parametrize("size", [1, 3])
def test_packed_convolution_is_the_same_convolution(dtype, size):
    conv = pack_weights(Conv2d(16, 32, size, padding=size // 2).to(dtype).requires_grad_(False))
    kept = {name: tensor.clone() for name, tensor in conv.state_dict().items()}
    for batch in (2, 1, 3):
        x = channels_last(batch, 16, 8, 8, dtype=torch.float32).to(dtype)
        expected = F.conv2d(x, kept["weight"], kept["bias"], padding=size // 2)
        with torch.inference_mode():
            out = conv(x)
        assert conv.packed is not None and out.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(out, expected, atol=0.05 if dtype == torch.bfloat16 else 1e-5, rtol=0.02)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in conv.state_dict().items())
    assert conv.packed is None


def test_a_packed_convolution_can_be_copied_moved_loaded_and_trained():
    conv = pack_weights(Conv2d(4, 4, 3, padding=1).requires_grad_(False))
    x = channels_last(1, 4, 8, 8, dtype=torch.float32)
    with torch.no_grad():
        expected = conv(x)
        assert conv.packed is not None
        torch.testing.assert_close(copy.deepcopy(conv)(x), expected)
        conv(x)
        assert conv.double().weight.shape == (4, 4, 3, 3)
        conv.float()(x)
        conv.load_state_dict({"weight": torch.zeros(4, 4, 3, 3), "bias": torch.ones(4)})
        assert (conv(x) == 1).all()
    conv.requires_grad_(True)(x).sum().backward()
    assert conv.weight.grad.shape == (4, 4, 3, 3)


@pytest.mark.parametrize("dtype", PACKED)
def test_packed_linear_is_the_same_layer(dtype):
    linear = pack_weights(Linear(16, 24).to(dtype).requires_grad_(False))
    weight, bias = linear.weight.clone(), linear.bias.clone()
    for shape in ((3, 16), (2, 5, 16), (5, 2, 16)):
        x = torch.randn(shape).to(dtype).transpose(0, -2)
        with torch.inference_mode():
            out = linear(x)
        assert linear.packed is not None
        expected = F.linear(x, weight, bias)
        torch.testing.assert_close(out, expected, atol=0.05 if dtype == torch.bfloat16 else 1e-5, rtol=0.02)
    assert torch.equal(copy.deepcopy(linear).weight, weight)


class NoBfloat16:
    """oneDNN on a processor without bfloat16 instructions: it says so, and raises where it is asked all the same."""

    def _is_mkldnn_bf16_supported(self):
        return False

    def __getattr__(self, name):
        def call(x, *rest):
            assert x.dtype == torch.float32, f"{name} with {x.dtype}"
            return getattr(torch.ops.mkldnn, name)(x, *rest)

        return call


@pytest.mark.parametrize(
    "layer", [Linear(16, 24), Conv2d(16, 24, 3, padding=1)], ids=lambda layer: type(layer).__name__
)
def test_bfloat16_is_not_packed_where_the_processor_cannot_multiply_it(layer, monkeypatch):
    monkeypatch.setattr(cpu, "_ONEDNN", NoBfloat16())
    monkeypatch.setattr(cpu, "packable", cpu.packable.__wrapped__)  # what it remembers holds for this processor
    x = torch.randn(16, 16) if isinstance(layer, Linear) else channels_last(2, 16, 8, 8, dtype=torch.float32)
    layer = pack_weights(layer.requires_grad_(False))
    with torch.inference_mode():
        wide = layer(x)
        assert layer.packed is not None
        narrow = layer.to(torch.bfloat16)(x.bfloat16())
    assert layer.packed is None and narrow.dtype == torch.bfloat16
    torch.testing.assert_close(narrow.float(), wide, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("shape", [(4, 32, 16, 8, 48), (1, 40, 24, 24, 32)])
def test_winograd_is_the_convolution_with_its_gradients(shape, monkeypatch):
    torch.manual_seed(0)
    batch, channels, height, width, out = shape
    conv = Conv2d(channels, out, 3, padding=1)
    x = channels_last(batch, channels, height, width, dtype=torch.float32).requires_grad_()
    weights = torch.randn(batch, out, height, width)
    calls = []
    real = winograd.convolve
    monkeypatch.setattr(winograd, "convolve", lambda *given: calls.append(given) or real(*given))
    y = conv(x)
    assert len(calls) == 1 and y.is_contiguous(memory_format=torch.channels_last)
    found = [y, *torch.autograd.grad((y * weights).sum(), [x, conv.weight, conv.bias])]
    wide = [v.detach().double().requires_grad_() for v in (x, conv.weight, conv.bias)]
    expected = F.conv2d(*wide, padding=1)
    expected = [expected, *torch.autograd.grad((expected * weights).sum(), wide)]
    for one, two in zip(found, expected, strict=True):
        assert (one - two).abs().max() < 5e-5 * two.abs().max()


def test_winograd_is_for_training_in_float32_alone():
    x, weight = torch.zeros(8, 32, 8, 8), torch.zeros(32, 32, 3, 3, requires_grad=True)
    assert winograd.fits(x, weight, (1, 1), (1, 1))
    assert not winograd.fits(x, weight, (2, 2), (1, 1))
    assert not winograd.fits(x, weight, (1, 1), (0, 0))
    assert not winograd.fits(x[:, :, :7], weight, (1, 1), (1, 1))
    assert not winograd.fits(x[:2], weight, (1, 1), (1, 1))  # too small to gain
    assert not winograd.fits(x.double(), weight.double(), (1, 1), (1, 1))
    assert not winograd.fits(x, weight.detach(), (1, 1), (1, 1))
    with torch.no_grad():
        assert not winograd.fits(x, weight, (1, 1), (1, 1))
    with torch.autocast("cpu", torch.bfloat16):
        assert not winograd.fits(x, weight, (1, 1), (1, 1))
