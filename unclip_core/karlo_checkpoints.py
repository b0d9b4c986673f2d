"""Karlo's original checkpoints (one .ckpt a network), read tensors-only and given the names of the published folders.

The files say nothing of their configs, so these are read off the tensors' shapes; only the width of an attention head
(64) cannot be. CLIP's own original file is a TorchScript program, which is never opened: `text_encoder` and `tokenizer`
folders stand beside the checkpoints instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unclip_core.errors import PackError
from unclip_core.karlo_files import Weights, load_checkpoint

HEAD_WIDTH = 64
FILES = {"prior": "prior-ckpt*.ckpt", "decoder": "decoder-ckpt*.ckpt", "super_res": "improved-sr-ckpt*.ckpt"}
STATISTICS = "ViT-L-14_stats.th"

Read = dict[str, Callable[[], Tensor]]  # published name -> how to get it from the original tensors
Component = tuple[dict[str, Any], Weights]


def is_original(folder: Path) -> bool:
    return any(folder.glob(FILES["decoder"]))


def original_components(folder: Path) -> dict[str, Component]:
    """Checkpoints in a folder -> (settings, weights) of prior, text_proj, decoder, super_res_first and super_res_last.

    Raises PackError.
    """
    found: dict[str, Component] = {}
    if path := _only(folder, FILES["prior"]):
        statistics = _statistics(folder / STATISTICS)
        found["prior"] = _prior(_part(load_checkpoint(path), "model."), statistics, path)
    if path := _only(folder, FILES["decoder"]):
        tensors = _part(load_checkpoint(path), "model.")
        found["text_proj"], found["decoder"] = _conditioning(tensors, path), _unet(tensors, path, 64)
    if path := _only(folder, FILES["super_res"]):
        tensors = load_checkpoint(path)
        for name, prefix in (("super_res_first", "model_first_steps."), ("super_res_last", "model_last_step.")):
            found[name] = _unet(_part(tensors, prefix), path, 256)
    return found


def _only(folder: Path, pattern: str) -> Path | None:
    paths = sorted(folder.glob(pattern))
    if len(paths) > 1:
        raise PackError(f"{folder}: holds {len(paths)} files {pattern}; leave the one to be used.")
    return paths[0] if paths else None


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of one network, without the prefix."""
    part = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    if not part:
        raise PackError(f"The checkpoint holds no weights that begin with {prefix!r}.")
    return part


def _statistics(path: Path) -> tuple[Tensor, Tensor]:
    try:
        mean, std = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise PackError(f"{path}: missing; the prior's output cannot be scaled without it.") from None
    except Exception as fault:
        raise PackError(f"{path}: cannot be read safely, as two tensors ({type(fault).__name__}).") from fault
    return mean, std


def _weights(read: Read, used: set[str], tensors: Mapping[str, Tensor], path: Path, ignored: str = "") -> Weights:
    """Raises PackError unless every original tensor has been given a name (except those that match `ignored`)."""
    unknown = sorted(name for name in set(tensors) - used if not (ignored and re.match(ignored, name)))
    if unknown:
        raise PackError(f"{path.name}: {len(unknown)} weights are not known, the first is {unknown[0]!r}.")
    shapes = {name: tuple(get().shape) for name, get in read.items()}
    return Weights(path.name, shapes, lambda name: read[name](), f"{path.name} {path.stat().st_size}")


class _Renaming:
    """Collects published names for a checkpoint's tensors, and which have been used."""

    def __init__(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        self.tensors, self.path = tensors, path
        self.read: Read = {}
        self.used: set[str] = set()

    def get(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise PackError(f"{self.path.name}: the weight {name!r} is missing.")
        self.used.add(name)
        return self.tensors[name]

    def one(self, published: str, original: str) -> None:
        tensor = self.get(original)
        self.read[published] = lambda: tensor

    def layer(self, published: str, original: str) -> None:
        for part in ("weight", "bias"):
            self.one(f"{published}.{part}", f"{original}.{part}")

    def heads(self, published: tuple[str, ...], original: str) -> None:
        """One joint projection, laid out head by head, as several."""
        for part in ("weight", "bias"):
            tensor = self.get(f"{original}.{part}")
            for i, name in enumerate(published):
                self.read[f"{name}.{part}"] = lambda t=tensor, i=i: t.view(
                    -1, len(published), HEAD_WIDTH, *t.shape[1:2]
                )[:, i].flatten(0, 1)


def _prior(tensors: Mapping[str, Tensor], statistics: tuple[Tensor, Tensor], path: Path) -> Component:
    names = _Renaming(tensors, path)
    for published, original in {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "proj_in": "clip_img_proj", "embedding_proj": "text_emb_proj", "encoder_hidden_states_proj": "text_enc_proj",
        "norm_out": "final_ln", "proj_to_clip_embeddings": "out_proj",
    }.items():  # fmt: skip
        names.layer(published, original)
    names.one("positional_embedding", "positional_embedding")
    names.one("prd_embedding", "prd_emb")
    layers = _count(tensors, r"transformer\.resblocks\.(\d+)\.")
    for i in range(layers):
        block, theirs = f"transformer_blocks.{i}", f"transformer.resblocks.{i}"
        names.heads(tuple(f"{block}.attn1.to_{part}" for part in "qkv"), f"{theirs}.attn.c_qkv")
        names.layer(f"{block}.attn1.to_out.0", f"{theirs}.attn.c_proj")
        names.layer(f"{block}.norm1", f"{theirs}.ln_1")
        names.layer(f"{block}.norm3", f"{theirs}.ln_2")
        names.layer(f"{block}.ff.net.0.proj", f"{theirs}.mlp.c_fc")
        names.layer(f"{block}.ff.net.2", f"{theirs}.mlp.c_proj")
    mean, std = statistics
    names.read |= {"clip_mean": lambda: mean, "clip_std": lambda: std}
    width, embed_dim = names.get("clip_img_proj.weight").shape
    settings = {
        "num_attention_heads": width // HEAD_WIDTH, "attention_head_dim": HEAD_WIDTH, "num_layers": layers,
        "embedding_dim": embed_dim, "num_embeddings": names.get("positional_embedding").shape[1] - 4,
        "time_embed_dim": names.get("time_embed.0.weight").shape[0],
    }  # fmt: skip
    return settings, _weights(names.read, names.used, tensors, path)


_CONDITIONING = {
    "encoder_hidden_states_proj": "text_seq_proj.0", "text_encoder_hidden_states_norm": "text_seq_proj.1",
    "clip_extra_context_tokens_proj": "clip_tok_proj", "embedding_proj": "text_feat_proj",
    "clip_image_embeddings_project_to_time_embeddings": "clip_emb",
}  # fmt: skip
_CONDITIONING_NAMES = r"(text_seq_proj|clip_tok_proj|text_feat_proj|clip_emb|cf_param)"


def _conditioning(tensors: Mapping[str, Tensor], path: Path) -> Component:
    names = _Renaming(tensors, path)
    for published, original in _CONDITIONING.items():
        names.layer(published, original)
    names.one("learned_classifier_free_guidance_embeddings", "cf_param")
    context_width, embed_dim = names.get("text_seq_proj.0.weight").shape
    settings = {
        "clip_extra_context_tokens": names.get("clip_tok_proj.weight").shape[0] // context_width,
        "clip_embeddings_dim": embed_dim,
        "time_embed_dim": names.get("clip_emb.weight").shape[0],
        "cross_attention_dim": context_width,
    }
    return settings, _weights(names.read, names.used, tensors, path, ignored=rf"(?!{_CONDITIONING_NAMES})")


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers there are in names that begin with the pattern."""
    return 1 + max((int(match[1]) for name in tensors if (match := re.match(pattern, name))), default=-1)


def _unet(tensors: Mapping[str, Tensor], path: Path, size: int) -> Component:
    """The flat lists input_blocks and output_blocks as levels of published blocks."""
    names = _Renaming(tensors, path)
    ins, outs = (_count(tensors, rf"{way}_blocks\.(\d+)\.") for way in ("input", "output"))
    levels = 1 + sum(1 for i in range(outs) if _resampler(tensors, i))
    blocks = outs // max(levels, 1) - 1
    if blocks < 1 or ins != levels * (blocks + 1) or outs != levels * (blocks + 1):
        raise PackError(f"{path.name}: {ins} and {outs} blocks are not a UNet that is known.")
    for published, original in {
        "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    }.items():  # fmt: skip
        names.layer(published, original)

    widths, attention = [], []
    for level in range(levels):
        for i in range(blocks):
            at = f"input_blocks.{1 + level * (blocks + 1) + i}"
            _stage(names, f"down_blocks.{level}", i, at)
        widths.append(names.get(f"{at}.0.in_layers.2.weight").shape[0])
        attention.append(f"{at}.1.qkv.weight" in tensors)
        if level + 1 < levels:
            _block(names, f"down_blocks.{level}.downsamplers.0", f"input_blocks.{(level + 1) * (blocks + 1)}.0")
    for n in range(levels):
        for i in range(blocks + 1):
            at = n * (blocks + 1) + i
            _stage(names, f"up_blocks.{n}", i, f"output_blocks.{at}")
            if resampler := _resampler(tensors, at):
                _block(names, f"up_blocks.{n}.upsamplers.0", resampler)
    mid_attention = "middle_block.1.qkv.weight" in tensors
    _block(names, "mid_block.resnets.0", "middle_block.0")
    _block(names, "mid_block.resnets.1", f"middle_block.{2 if mid_attention else 1}")
    if mid_attention:
        _attention(names, "mid_block.attentions.0", "middle_block.1")

    first = names.get("input_blocks.1.0.emb_layers.1.weight").shape[0]
    kinds = {
        False: ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"),
        True: ("SimpleCrossAttnDownBlock2D", "SimpleCrossAttnUpBlock2D"),
    }
    settings = {
        "sample_size": size, "block_out_channels": widths, "layers_per_block": blocks,
        "in_channels": names.get("input_blocks.0.0.weight").shape[1],
        "out_channels": names.get("out.2.weight").shape[0], "attention_head_dim": HEAD_WIDTH,
        "down_block_types": [kinds[has][0] for has in attention],
        "up_block_types": [kinds[has][1] for has in reversed(attention)],
        "resnet_time_scale_shift": "scale_shift" if first == 2 * widths[0] else "default",
    }  # fmt: skip
    if mid_attention:
        width = names.get("middle_block.1.encoder_kv.weight").shape[1]
        settings |= {"mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "class_embed_type": "identity"}
        settings["cross_attention_dim"] = width
    else:
        settings["add_attention"] = False
    return settings, _weights(names.read, names.used, tensors, path, ignored=_CONDITIONING_NAMES)


def _resampler(tensors: Mapping[str, Tensor], i: int) -> str | None:
    """Where output block i ends in an upsampling residual block."""
    return next((at for j in (1, 2) if f"{(at := f'output_blocks.{i}.{j}')}.in_layers.0.weight" in tensors), None)


def _stage(names: _Renaming, level: str, i: int, original: str) -> None:
    _block(names, f"{level}.resnets.{i}", f"{original}.0")
    if f"{original}.1.qkv.weight" in names.tensors:
        _attention(names, f"{level}.attentions.{i}", f"{original}.1")


def _block(names: _Renaming, published: str, original: str) -> None:
    for ours, theirs in {
        "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
        "conv2": "out_layers.3",
    }.items():  # fmt: skip
        names.layer(f"{published}.{ours}", f"{original}.{theirs}")
    if f"{original}.skip_connection.weight" in names.tensors:
        names.layer(f"{published}.conv_shortcut", f"{original}.skip_connection")


def _attention(names: _Renaming, published: str, original: str) -> None:
    names.layer(f"{published}.group_norm", f"{original}.norm")
    names.heads(tuple(f"{published}.to_{part}" for part in "qkv"), f"{original}.qkv")
    names.heads((f"{published}.add_k_proj", f"{published}.add_v_proj"), f"{original}.encoder_kv")
    names.layer(f"{published}.to_out.0", f"{original}.proj_out")
