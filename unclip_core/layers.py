"""Shared building blocks: timestep embedding, attention, Transformer block, residual block.

Letters in the shape comments: B pictures, N tokens, L context tokens, C channels, H x W pixels, W width of a token
(where no pixels are about), h heads, d width of a head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]  # each [B, h, N, d]


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
        self.linear_1 = nn.Linear(in_width, hidden_width)
        self.linear_2 = nn.Linear(hidden_width, out_width)

    def forward(self, t: Tensor) -> Tensor:
        embedding = timestep_embedding(t, self.in_width).to(self.linear_1.weight.dtype)
        return self.linear_2(F.silu(self.linear_1(embedding)))


def split_heads(x: Tensor, head_width: int) -> Tensor:
    """[B, N, h*d] -> [B, h, N, d], a view."""
    return x.unflatten(-1, (-1, head_width)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention: q [B, h, N, d], k and v [B, h, M, d], mask broadcast to [B, h, N, M] -> [B, N, h*d].

    `mask` is boolean, True = may look; every query must see at least one key.
    """
    if q.requires_grad and q.device.type == "cpu":
        out = _attend_in_steps(q, k, v, mask)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # [B, h, N, d]
    return out.transpose(1, 2).flatten(2)


def _attend_in_steps(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The same, written out: at training's sizes its backward pass is 2.3 times as fast as the fused one on a CPU."""
    scores = torch.matmul(q * q.shape[-1] ** -0.5, k.transpose(-1, -2))  # [B, h, N, M]
    if mask is not None:
        closed = torch.finfo(scores.dtype).min
        scores = scores + torch.zeros_like(mask, dtype=scores.dtype).masked_fill_(~mask, closed)
    weights = scores.to(_wide(scores)).softmax(dim=-1).to(v.dtype)
    return torch.matmul(weights, v)


def _wide(x: Tensor) -> torch.dtype:
    """The dtype to sum and normalise in: float32 for half-width numbers, x's own otherwise."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


class GroupNorm(nn.GroupNorm):
    """Group normalisation [B, C, H, W], with what follows it in a UNet done in the same pass: (1 + scale), shift, SiLU.

    PyTorch's kernel for channels-last bfloat16 on a CPU took a fifth of a training step; `_ChannelsLastNorm` takes a
    tenth of its time. Everywhere else PyTorch's own is used.
    """

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, silu: bool = True) -> Tensor:
        """scale and shift [B, C], both or neither -> silu(norm(x) * (1 + scale) + shift), like x."""
        if x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last):
            gain, offset = self.weight[None], self.bias[None]  # [1, C]
            if scale is not None:
                gain = gain * (1 + scale)  # [B, C]
                offset = offset * (1 + scale) + shift
            return _ChannelsLastNorm.apply(x, gain, offset, self.num_groups, self.eps, silu)
        x = F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        if scale is not None:
            x = torch.addcmul(shift.to(x.dtype)[:, :, None, None], x, 1 + scale.to(x.dtype)[:, :, None, None])
        return F.silu(x) if silu else x


class _ChannelsLastNorm(torch.autograd.Function):
    """y = silu(gain * (x - mean) / std + offset) over groups of channels, as few vector passes over [B, N, C] as we can.

    Sums are float32 (float64 for float64): channels first over the N pixels, then over the C/G channels of a group.
    """

    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor, offset: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        b, c, height, _ = x.shape
        wide = _wide(x)
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2).to(wide)  # [B, N, C]
        gain = gain.to(wide).expand(b, c)
        count = tokens.shape[1] * (c // groups)
        total = tokens.sum(1).view(b, groups, -1).sum(-1)  # [B, G]
        squares = (tokens * tokens).sum(1).view(b, groups, -1).sum(-1)
        mean = total / count
        rstd = torch.rsqrt((squares / count - mean * mean).clamp_(min=0) + eps)
        mean, rstd = (part.repeat_interleave(c // groups, dim=1) for part in (mean, rstd))  # [B, C]
        factor = rstd * gain
        constant = offset.to(wide) - mean * factor
        y = torch.addcmul(constant[:, None], tokens, factor[:, None])
        if silu:
            F.silu(y, inplace=True)
        ctx.save_for_backward(x, gain, mean, rstd, constant)
        ctx.groups, ctx.silu = groups, silu
        return y.to(x.dtype).unflatten(1, (height, -1)).permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, gain, mean, rstd, constant = ctx.saved_tensors
        b, c, height, _ = x.shape
        factor = rstd * gain
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2).to(gain.dtype)  # [B, N, C]
        grad = grad.permute(0, 2, 3, 1).flatten(1, 2).to(gain.dtype)
        if ctx.silu:
            inner = torch.addcmul(constant[:, None], tokens, factor[:, None])
            grad = torch.ops.aten.silu_backward(grad, inner)
        offset_grad = grad.sum(1)  # [B, C]
        gain_grad = rstd * ((grad * tokens).sum(1) - mean * offset_grad)
        count = tokens.shape[1] * (c // ctx.groups)

        def group_mean(per_channel: Tensor) -> Tensor:
            sums = per_channel.view(b, ctx.groups, -1).sum(-1) / count
            return sums.repeat_interleave(c // ctx.groups, dim=1)

        slope = -rstd * rstd * group_mean(gain * gain_grad)  # d x = factor * grad + slope * x + level
        level = -rstd * group_mean(gain * offset_grad) - mean * slope
        x_grad = torch.addcmul(level[:, None], tokens, slope[:, None]).addcmul_(grad, factor[:, None])
        x_grad = x_grad.to(x.dtype).unflatten(1, (height, -1)).permute(0, 3, 1, 2)
        return x_grad, gain_grad, offset_grad, None, None, None


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
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, mlp_width)
        self.mlp_out = nn.Linear(mlp_width, width)

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
        self.qkv = nn.Linear(channels, 3 * channels)
        self.context_kv = nn.Linear(context_width, 2 * channels) if context_width else None
        self.out = zeroed(nn.Linear(channels, channels))

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
        self.conv_1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.time = nn.Linear(time_width, 2 * out_channels if scale_shift else out_channels)
        self.norm_2 = GroupNorm(groups, out_channels, eps=eps)
        self.conv_2 = zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else None

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
