"""The hand-written layers against PyTorch's own, values and gradients."""

import pytest
import torch
import torch.nn.functional as F

from unclip_core.layers import GroupNorm, TransformerBlock, attend, timestep_embedding


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
