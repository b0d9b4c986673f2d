"""The one UNet (ADM / GLIDE): pocket decoder and upsamplers, and Karlo's, all differ by configuration alone.

Letters: B pictures, C channels, H x W pixels, L context tokens. A level is one resolution; `widths[i]` its channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unclip_core.cpu import Conv2d, GroupNorm
from unclip_core.errors import PackError
from unclip_core.layers import KeysValues, ResBlock, SpatialAttention, TimeEmbedding, resampled, zeroed


@dataclass(frozen=True)
class UNetConfig:
    """Everything that shapes a UNet. Per-level fields run from the finest level to the coarsest.

    patch: pixel-unshuffle factor, so that a 64 px picture with patch 4 is 16 x 16 with 16 times the channels.
    blocks: residual blocks a level (one number for all levels, or one each); the way up has one more.
    attention / attention_up: levels with attention on the way down / up (up: the same unless given).
    head_width / head_width_up: width of an attention head there.
    context_width: width of the context tokens that attention looks at too; None for none.
    time_width: width of the time embedding that `time_extra` is added to.
    scale_shift: time scales and shifts the second norm of a block, instead of being added before it.
    resblock_updown: change resolution inside a residual block (ADM), not by a plain convolution.
    """

    in_channels: int = 3
    out_channels: int = 3
    patch: int = 1
    widths: tuple[int, ...] = (128, 256)
    blocks: int | tuple[int, ...] = 2
    attention: tuple[bool, ...] = (False, True)
    attention_up: tuple[bool, ...] | None = None
    mid_attention: bool = True
    head_width: int | tuple[int, ...] = 64
    head_width_up: tuple[int, ...] | None = None
    context_width: int | None = None
    time_width: int = 512
    scale_shift: bool = True
    resblock_updown: bool = True
    groups: int = 32
    eps: float = 1e-5
    attention_eps: float = 1e-5

    def __post_init__(self) -> None:
        levels = len(self.widths)
        per_level = {
            "widths": self.widths,
            "blocks": self.blocks,
            "attention": self.attention,
            "attention_up": self.attention if self.attention_up is None else self.attention_up,
            "head_width": self.head_width,
            "head_width_up": self.head_width if self.head_width_up is None else self.head_width_up,
        }
        for name, value in per_level.items():
            value = tuple(value) if isinstance(value, (list, tuple)) else (value,) * levels
            if len(value) != levels:
                raise PackError(f"UNet config: {name} has {len(value)} entries for {levels} levels.")
            object.__setattr__(self, name, value)  # JSON gives lists and single numbers; keep tuples
        if any(width % self.groups for width in self.widths):
            raise PackError(f"UNet config: every width in {self.widths} must be a multiple of groups = {self.groups}.")


class Context(NamedTuple):
    """A context made ready for the UNet: keys and values for each attention, and the tokens' mask."""

    keys_values: tuple[KeysValues, ...]
    mask: Tensor | None  # bool [B, L], True = real token

    def index(self, rows: Tensor) -> Context:
        """The context of the pictures `rows` (indices or bools), for instance of a batch with some guided twice."""
        picked = tuple((k[rows], v[rows]) for k, v in self.keys_values)
        return Context(picked, None if self.mask is None else self.mask[rows])


class Stage(nn.Module):
    """A residual block and the attention that may follow it."""

    def __init__(self, block: ResBlock, attention: SpatialAttention | None = None) -> None:
        super().__init__()
        self.block = block
        self.attention = attention


class Resample(nn.Module):
    """Plain change of resolution: 2x2 mean or nearest neighbour, then (down) or before it (up) a 3x3 convolution."""

    def __init__(self, channels: int, way: str) -> None:
        super().__init__()
        self.way = way
        self.conv = Conv2d(channels, channels, 3, stride=2 if way == "down" else 1, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H/2, W/2] or [B, C, 2H, 2W]; the time is for the residual kind of resampling."""
        return self.conv(resampled(x, "up") if self.way == "up" else x)


class UNet(nn.Module):
    """x_t [B, in, H, W] and t [B] -> [B, out, H, W]. Fastest with `.to(memory_format=torch.channels_last)`."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        widths, top = config.widths, len(config.widths) - 1
        self.time = TimeEmbedding(widths[0], config.time_width, config.time_width)
        self.conv_in = Conv2d(config.in_channels * config.patch**2, widths[0], 3, padding=1)

        self.down = nn.ModuleList()  # one list a level: stages, then the resampling (all levels but the last)
        channels, skips = widths[0], [widths[0]]
        for level, width in enumerate(widths):
            modules = nn.ModuleList()
            for _ in range(config.blocks[level]):
                modules.append(
                    self._stage(channels, width, config.head_width[level] if config.attention[level] else None)
                )
                channels = width
                skips.append(channels)
            if level < top:
                modules.append(self._resample(channels, "down"))
                skips.append(channels)
            self.down.append(modules)

        self.mid = nn.ModuleList(
            [
                self._stage(channels, channels, config.head_width[top] if config.mid_attention else None),
                self._stage(channels, channels, None),
            ]
        )

        self.up = nn.ModuleList()  # from the coarsest level to the finest
        for level in reversed(range(len(widths))):
            modules = nn.ModuleList()
            for _ in range(config.blocks[level] + 1):
                head_width = config.head_width_up[level] if config.attention_up[level] else None
                modules.append(self._stage(channels + skips.pop(), widths[level], head_width))
                channels = widths[level]
            if level > 0:
                modules.append(self._resample(channels, "up"))
            self.up.append(modules)

        self.norm_out = GroupNorm(config.groups, widths[0], eps=config.eps)
        self.conv_out = zeroed(Conv2d(widths[0], config.out_channels * config.patch**2, 3, padding=1))
        self.attentions = [module for module in self.modules() if isinstance(module, SpatialAttention)]

    def _block(self, channels: int, width: int, resample: str | None = None) -> ResBlock:
        c = self.config
        return ResBlock(
            channels, width, c.time_width, scale_shift=c.scale_shift, resample=resample, groups=c.groups, eps=c.eps
        )

    def _stage(self, channels: int, width: int, head_width: int | None) -> Stage:
        """head_width None: without attention."""
        c, attention = self.config, None
        if head_width is not None:
            attention = SpatialAttention(width, head_width, c.context_width, c.groups, c.attention_eps)
        return Stage(self._block(channels, width), attention)

    def _resample(self, channels: int, way: str) -> nn.Module:
        return self._block(channels, channels, way) if self.config.resblock_updown else Resample(channels, way)

    def prepare_context(self, context: Tensor, mask: Tensor | None = None) -> Context:
        """Keys and values of the context for every attention: once a picture, not once a step.

        context [B, L, context_width]; mask [B, L] bool, True where the token is real (at least the picture itself is
        always open to attention, so a row may be all False).
        """
        return Context(tuple(attention.context_keys_values(context) for attention in self.attentions), mask)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        time_extra: Tensor | None = None,
        context: Tensor | Context | None = None,
        context_mask: Tensor | None = None,
    ) -> Tensor:
        """x [B, in, H, W], t [B] -> [B, out, H, W].

        time_extra [B, time_width] is added to the time embedding. context is [B, L, context_width] with context_mask
        [B, L] (True = real token), or what `prepare_context` made of them.
        """
        if isinstance(context, Tensor):
            context = self.prepare_context(context, context_mask)
        if x.dtype != self.conv_in.weight.dtype:
            x = x.to(self.conv_in.weight.dtype)
        time = self.time(t)
        if time_extra is not None:
            time = time + time_extra
        time = F.silu(time)  # [B, time_width], shared by all blocks
        keys_values = iter(() if context is None else context.keys_values)
        masks: dict[int, Tensor] = {}  # number of pixels -> mask over [context; pixels]

        def attended(h: Tensor, attention: SpatialAttention) -> Tensor:
            if context is None or context.mask is None:
                return attention(h, next(keys_values, None))
            pixels = h.shape[2] * h.shape[3]
            if pixels not in masks:
                masks[pixels] = F.pad(context.mask, (0, pixels), value=True)[:, None, None, :]
            return attention(h, next(keys_values), masks[pixels])

        def through(h: Tensor, module: nn.Module) -> Tensor:
            if not isinstance(module, Stage):
                return module(h, time)
            h = module.block(h, time)
            return h if module.attention is None else attended(h, module.attention)

        h = self.conv_in(F.pixel_unshuffle(x, self.config.patch).contiguous(memory_format=torch.channels_last))
        skips = [h]
        for level in self.down:
            for module in level:
                h = through(h, module)
                skips.append(h)
        for module in self.mid:
            h = through(h, module)
        for level in self.up:
            for module in level:
                if isinstance(module, Stage):
                    h = torch.cat([h, skips.pop()], dim=1)
                h = through(h, module)
        h = self.conv_out(self.norm_out(h))
        return F.pixel_shuffle(h, self.config.patch)
