"""Linear layers, convolutions and group normalisation, faster on a CPU than PyTorch's own; elsewhere PyTorch's.

Feature maps are [B, C, H, W] in memory order B, H, W, C ("channels last"). N = H x W pixels, G groups.
"""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip_core import winograd

# PyTorch's entries to oneDNN for frozen weights, as its compiler calls them; where they are missing nothing packs.
_ONEDNN = torch.ops.mkldnn
_NAMES = ("_reorder_convolution_weight", "_convolution_pointwise", "_reorder_linear_weight", "_linear_pointwise")
_ABLE = torch.backends.mkldnn.is_available() and all(hasattr(_ONEDNN, name) for name in _NAMES)

LARGE, BLOCK = 1 << 22, 1 << 17  # feature maps of more numbers than LARGE are normalised BLOCK by BLOCK


@cache
def packable(dtype: torch.dtype) -> bool:
    """Whether oneDNN takes weights of this dtype on this processor: bfloat16 only where it has the instructions, and
    asking it elsewhere raises."""
    if dtype == torch.bfloat16:
        return _ABLE and getattr(_ONEDNN, "_is_mkldnn_bf16_supported", lambda: False)()
    return _ABLE and dtype == torch.float32


class _Packing(nn.Module):
    """A layer that can keep its frozen weight in the layout the CPU's kernel wants (see `pack_weights`).

    PyTorch otherwise rearranges a convolution's weight at every call, which takes longer than the convolution itself
    where the picture is small and the channels many, and multiplies float32 matrices by a library that is slow on some
    processors: measured, 2 to 5 times the time of the packed layer.
    """

    packs = False
    packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        fits = x.device.type == "cpu" and x.dtype == self.weight.dtype and packable(x.dtype)
        if not (fits and self.packs) or torch.is_grad_enabled():
            self.unpack()
            return super().forward(x)
        if self.packed is None:
            with torch.inference_mode(False):
                self.packed = self._pack(x)
                self.weight = nn.Parameter(self.weight.new_empty(0), self.weight.requires_grad)
        return self._run(x)

    def unpack(self) -> None:
        """Put the weight back as it was. Whatever copies, moves, saves or loads the module does so first."""
        if self.packed is not None:
            with torch.inference_mode(False):
                self.weight = nn.Parameter(self.packed.to_dense(), self.weight.requires_grad)
            self.packed = None

    def _apply(self, *args, **kwargs):
        self.unpack()
        return super()._apply(*args, **kwargs)

    def _save_to_state_dict(self, *args, **kwargs):
        self.unpack()
        return super()._save_to_state_dict(*args, **kwargs)

    def _load_from_state_dict(self, *args, **kwargs):
        self.unpack()
        return super()._load_from_state_dict(*args, **kwargs)

    def __getstate__(self):
        self.unpack()
        return self.__dict__


class Linear(_Packing, nn.Linear):
    """nn.Linear: [.., C] -> [.., C']."""

    def _pack(self, x: Tensor) -> Tensor:
        return _ONEDNN._reorder_linear_weight(self.weight.detach())

    def _run(self, x: Tensor) -> Tensor:
        return _ONEDNN._linear_pointwise(x, self.packed, self.bias, "none", [], "")


class Conv2d(_Packing, nn.Conv2d):
    """nn.Conv2d: [B, C, H, W] -> [B, C', H', W']."""

    def forward(self, x: Tensor) -> Tensor:
        if winograd.fits(x, self.weight, self.stride, self.padding):
            return winograd.convolve(x, self.weight, self.bias)
        return super().forward(x)

    def _pack(self, x: Tensor) -> Tensor:
        return _ONEDNN._reorder_convolution_weight(self.weight.detach(), *self._geometry(), list(x.shape))

    def _run(self, x: Tensor) -> Tensor:
        return _ONEDNN._convolution_pointwise(x, self.packed, self.bias, *self._geometry(), "none", [], "")

    def _geometry(self) -> tuple:
        return self.padding, self.stride, self.dilation, self.groups


def pack_weights(module: nn.Module) -> nn.Module:
    """Let every layer in a frozen module pack its weight at its first use without gradients.

    Results stay the same to rounding. Not for modules whose weights change in place (training, averages of weights).
    """
    for part in module.modules():
        if isinstance(part, _Packing):
            part.packs = True
    return module


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
            if x.numel() > LARGE and not torch.is_grad_enabled():
                return _norm_in_blocks(x, gain, offset, self.num_groups, self.eps, silu)
            return _ChannelsLastNorm.apply(x, gain, offset, self.num_groups, self.eps, silu)
        with torch.autocast(x.device.type, enabled=False):  # which would make all that follows float32
            x = F.group_norm(x, self.num_groups, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)
        if scale is not None:
            x = torch.addcmul(shift.to(x.dtype)[:, :, None, None], x, 1 + scale.to(x.dtype)[:, :, None, None])
        return F.silu(x) if silu else x


def _norm_in_blocks(x: Tensor, gain: Tensor, offset: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
    """`_ChannelsLastNorm`'s forward for large maps, block by block, so that all but x and y stays in the cache."""
    b, c, height, _ = x.shape
    wide, rows = _wide(x), max(1, BLOCK // c)
    tokens = x.permute(0, 2, 3, 1).flatten(1, 2)  # [B, N, C]
    y = torch.empty_like(tokens)
    sums, squares = (torch.zeros(b, c, dtype=wide) for _ in range(2))
    for i in range(b):
        for block in tokens[i].split(rows):
            block = block.to(wide)
            sums[i] += block.sum(0)
            squares[i] += (block * block).sum(0)
    mean, rstd = _moments(sums, squares, tokens.shape[1], groups, eps)
    factor = rstd * gain.to(wide)
    constant = offset.to(wide) - mean * factor  # [B, C]
    for i in range(b):
        for block, out in zip(tokens[i].split(rows), y[i].split(rows)):
            block = torch.addcmul(constant[i], block.to(wide), factor[i])
            out.copy_(F.silu(block, inplace=True) if silu else block)
    return y.unflatten(1, (height, -1)).permute(0, 3, 1, 2)


def _moments(sums: Tensor, squares: Tensor, pixels: int, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Sums over the pixels [B, C] -> each channel's group's mean and 1 / std, [B, C]."""
    share = sums.shape[1] // groups
    mean, squares = (part.view(len(sums), groups, share).sum(-1) / (pixels * share) for part in (sums, squares))
    rstd = torch.rsqrt((squares - mean * mean).clamp_(min=0) + eps)  # [B, G]
    return mean.repeat_interleave(share, dim=1), rstd.repeat_interleave(share, dim=1)


class _ChannelsLastNorm(torch.autograd.Function):
    """y = silu(gain * (x - mean) / std + offset) over groups of channels, with few vector passes over [B, N, C].

    Sums are float32 (float64 for float64): channels first over the N pixels, then over the C/G channels of a group.
    """

    @staticmethod
    def forward(ctx, x: Tensor, gain: Tensor, offset: Tensor, groups: int, eps: float, silu: bool) -> Tensor:
        b, c, height, _ = x.shape
        wide = _wide(x)
        tokens = x.permute(0, 2, 3, 1).flatten(1, 2).to(wide)  # [B, N, C]
        gain = gain.to(wide).expand(b, c)
        mean, rstd = _moments(tokens.sum(1), (tokens * tokens).sum(1), tokens.shape[1], groups, eps)
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
