"""Shared building blocks: timestep embedding, attention, Transformer block, residual block.

Letters in the shape comments: B pictures, N tokens, L context tokens, C channels, H x W pixels, W width of a token
(where no pixels are about), h heads, d width of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip_core.cpu import Conv2d, GroupNorm, Linear

KeysValues = tuple[Tensor, Tensor]  # each [B, h, N, d]
LARGE = 1 << 18  # scores in one head's matrix from which the heads are taken one by one


def timestep_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding of diffusion times: t [B] (int or float) -> [B, width] float32, cosines first (ADM).

    Always float32, whatever the network's dtype: frequencies times t = 999 need the mantissa.
    """
    half = width // 2
    exponent = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half
    angles = t.float()[:, None] * torch.exp(exponent)[None, :]  # [B, width/2]
    embedding = torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)
    return F.pad(embedding, (0, width % 2))


class TimeEmbedding(nn.Module):
    """Timestep t [B] -> [B, out_width]: sinusoids, then linear, SiLU, linear."""

    def __init__(self, in_width: int, hidden_width: int, out_width: int) -> None:
        super().__init__()
        self.in_width = in_width
        self.linear_1 = Linear(in_width, hidden_width)
        self.linear_2 = Linear(hidden_width, out_width)

    def forward(self, t: Tensor) -> Tensor:
        embedding = timestep_embedding(t, self.in_width).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(embedding)))


def split_heads(x: Tensor, head_width: int) -> Tensor:
    """[B, N, h*d] -> [B, h, N, d], a view."""
    return x.unflatten(-1, (-1, head_width)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention: q [B, h, N, d], k, v [B, h, M, d], mask broadcast to [B, h, N, M] -> [B, N, h*d].

    `mask` is boolean, True = may look; every query must see at least one key.
    """
    if q.device.type == "cpu" and (q.requires_grad or q.dtype == torch.bfloat16):
        out = _attend_in_steps(q, k, v, mask)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [B, h, N, d]
    return out.transpose(1, 2).flatten(2)


def _attend_in_steps(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same, written out: on a CPU faster than the fused kernel, backward 2.3 times, in bfloat16 1.7 times."""
    q = q * q.shape[-1] ** -0.5
    bias = None
    if mask is not None:
        bias = torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, torch.finfo(q.dtype).min)
    if q.requires_grad or q.shape[2] * k.shape[2] < LARGE:
        return _weighted(q, k, v, bias)
    bias = None if bias is None else bias.expand(*q.shape[:2], -1, -1)
    out = torch.empty_like(q)
    for b in range(len(q)):  # head by head, so that one matrix of scores at a time stays in the processor's cache
        for h in range(q.shape[1]):
            out[b, h] = _weighted(q[b, h], k[b, h], v[b, h], None if bias is None else bias[b, h])
    return out


def _weighted(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    """softmax(q k^T + bias) v over the last two axes, q already scaled."""
    scores = torch.matmul(q, k.transpose(-1, -2))  # [.., N, M]
    if bias is not None:
        scores = scores + bias
    return torch.matmul(scores.softmax(dim=-1), v)


def zeroed(module: nn.Module) -> nn.Module:
    """Zero a layer's parameters, so that its residual branch starts as the identity (ADM)."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


class TransformerBlock(nn.Module):
    """Pre-norm Transformer block with a key/value prefix: x + attention(norm(x)), then x + mlp(norm(x)).

    `past` holds the keys and values of earlier positions that these tokens look back on; what is returned beside the
    output are the keys and values with this call's positions appended.
    """

    def __init__(self, width: int, head_width: int, mlp_width: int | None = None) -> None:
        super().__init__()
        self.head_width = head_width
        mlp_width = mlp_width or 4 * width
        self.norm_1 = nn.LayerNorm(width)
        self.qkv = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp_in = Linear(width, mlp_width)
        self.mlp_out = Linear(mlp_width, width)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, past: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """x [B, N, W], mask bool broadcast to [B, h, N, M] with M = past + N -> ([B, N, W], keys and values)."""
        q, k, v = (split_heads(part, self.head_width) for part in self.qkv(self.norm_1(x)).chunk(3, dim=-1))
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        x = x + self.out(attend(q, k, v, mask))
        x = x + self.mlp_out(F.gelu(self.mlp_in(self.norm_2(x))))
        return x, (k, v)


class SpatialAttention(nn.Module):
    """Residual attention over the pixels of a feature map and, where there is a context, over its tokens as well.

    One softmax runs over [context keys; self keys], as in GLIDE's decoder. The context's keys and values do not depend
    on the picture or on the time: `context_keys_values` computes them once a picture.
    """

    def __init__(self, channels: int, head_width: int, context_width: int | None, groups: int, eps: float) -> None:
        super().__init__()
        self.head_width = head_width
        self.norm = GroupNorm(groups, channels, eps=eps)
        self.qkv = Linear(channels, 3 * channels)
        self.context_kv = Linear(context_width, 2 * channels) if context_width else None
        self.out = zeroed(Linear(channels, channels))

    def context_keys_values(self, context: Tensor) -> KeysValues:
        """context [B, L, context_width] -> keys and values [B, h, L, d]."""
        k, v = (split_heads(part, self.head_width) for part in self.context_kv(context).chunk(2, dim=-1))
        return k, v

    def forward(self, x: Tensor, context: KeysValues | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], context keys and values [B, h, L, d], mask bool [B, 1, 1, L + H*W] -> [B, C, H, W]."""
        height = x.shape[2]
        tokens = (
            self.norm(x, silu=False).permute(0, 2, 3, 1).flatten(1, 2)
        )  # [B, H*W, C]: no copy where x is channels-last
        q, k, v = (split_heads(part, self.head_width) for part in self.qkv(tokens).chunk(3, dim=-1))
        if context is not None:
            k, v = torch.cat([context[0], k], dim=2), torch.cat([context[1], v], dim=2)  # [B, h, L + H*W, d]
        out = self.out(attend(q, k, v, mask))  # [B, H*W, C]
        return x + out.unflatten(1, (height, -1)).permute(0, 3, 1, 2)


class ResBlock(nn.Module):
    """ADM residual block: norm, SiLU, (resample), conv; time conditioning; norm, SiLU, conv; plus the skip.

    `resample` is "up" (nearest, twice the size), "down" (mean of 2x2) or None. The time embedding scales and shifts the
    second normalisation (`scale_shift`) or is added before it.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        time_width: int,
        *,
        scale_shift: bool = True,
        resample: str | None = None,
        groups: int = 32,
        eps: float = 1e-5,
    ) -> None:
        super().__init__()
        self.scale_shift, self.resample = scale_shift, resample
        self.norm_1 = GroupNorm(groups, channels, eps=eps)
        self.conv_1 = Conv2d(channels, out_channels, 3, padding=1)
        self.time = Linear(time_width, 2 * out_channels if scale_shift else out_channels)
        self.norm_2 = GroupNorm(groups, out_channels, eps=eps)
        self.conv_2 = zeroed(Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = Conv2d(channels, out_channels, 1) if channels != out_channels else None

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x [B, C, H, W], time [B, time_width] (already through its SiLU) -> [B, out_channels, H', W']."""
        h = self.norm_1(x)
        if self.resample is not None:
            h, x = resampled(h, self.resample), resampled(x, self.resample)
        h = self.conv_1(h)
        time = self.time(time)  # [B, C' or 2C']
        if self.scale_shift:
            h = self.norm_2(h, *time.chunk(2, dim=1))
        else:
            h = self.norm_2(h + time.to(h.dtype)[:, :, None, None])
        h = self.conv_2(h)
        return h + (x if self.skip is None else self.skip(x))


def resampled(x: Tensor, way: str) -> Tensor:
    """[B, C, H, W] -> twice ("up") or half ("down") the height and width."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest") if way == "up" else F.avg_pool2d(x, 2)
