"""Published unCLIP networks in our terms: their settings as our configs, and which of their weights fill which of ours.

The `config.json` files and the weights' names are diffusers' and transformers'. What would change the numbers and is
not supported is refused by name; nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unclip_core.errors import PackError
from unclip_core.prior_diffusion import DiffusionPriorConfig
from unclip_core.unet import UNetConfig


@dataclass(frozen=True)
class Source:
    """Their tensors for one of ours, joined along the first axis; `transpose`: they keep it the other way round."""

    keys: tuple[str, ...]
    transpose: bool = False


KeyMap = dict[str, Source]
Settings = Mapping[str, Any]


def demand(settings: Settings, where: str, wanted: Mapping[str, tuple[Any, ...]]) -> None:
    """Raises PackError for the first setting that is given and is none of the values we support."""
    for name, supported in wanted.items():
        value = settings.get(name, supported[0])
        if value not in supported:
            raise PackError(f"{where}, its settings: {name} = {value!r} is not supported (only {supported[0]!r}).")


def _pair(ours: str, *theirs: str) -> KeyMap:
    """Weight and bias of one layer of ours from one or more of theirs."""
    return {f"{ours}.{part}": Source(tuple(f"{name}.{part}" for name in theirs)) for part in ("weight", "bias")}


# ---- prior ----


def prior_config(
    settings: Settings, clip: float | None, train_steps: int, where: str = "prior"
) -> DiffusionPriorConfig:
    """PriorTransformer's settings -> ours. clip and train_steps come from the prior's scheduler."""
    from unclip_core.schedule import NoiseSchedule

    demand(settings, where, {
        "additional_embeddings": (4,), "time_embed_act_fn": ("silu",), "norm_in_type": (None,),
        "embedding_proj_norm_type": (None,), "encoder_hid_proj_type": ("linear",), "added_emb_type": ("prd",),
    })  # fmt: skip
    embed_dim = settings.get("embedding_dim", 768)
    for name in ("embedding_proj_dim", "clip_embed_dim"):
        demand({name: settings.get(name) or embed_dim}, where, {name: (embed_dim,)})
    heads = settings.get("num_attention_heads", 32)
    width = heads * settings.get("attention_head_dim", 64)
    return DiffusionPriorConfig(
        embed_dim=embed_dim,
        text_width=embed_dim,
        context_length=settings.get("num_embeddings", 77),
        width=width,
        layers=settings.get("num_layers", 20),
        heads=heads,
        time_hidden=settings.get("time_embed_dim") or width,
        unit=False,
        null="empty",
        clip=clip,
        schedule=NoiseSchedule("cosine", train_steps),
    )


def prior_keys(config: DiffusionPriorConfig) -> KeyMap:
    keys = {
        **_pair("text_in", "encoder_hidden_states_proj"),
        **_pair("pooled_in", "embedding_proj"),
        **_pair("image_in", "proj_in"),
        **_pair("time.linear_1", "time_embedding.linear_1"),
        **_pair("time.linear_2", "time_embedding.linear_2"),
        **_pair("norm", "norm_out"),
        **_pair("image_out", "proj_to_clip_embeddings"),
        "position": Source(("positional_embedding",)),
        "final": Source(("prd_embedding",)),
        "clip_mean": Source(("clip_mean",)),
        "clip_std": Source(("clip_std",)),
    }
    for i in range(config.layers):
        ours, theirs = f"blocks.{i}", f"transformer_blocks.{i}"
        keys |= _pair(f"{ours}.norm_1", f"{theirs}.norm1")
        keys |= _pair(f"{ours}.qkv", *(f"{theirs}.attn1.to_{part}" for part in "qkv"))
        keys |= _pair(f"{ours}.out", f"{theirs}.attn1.to_out.0")
        keys |= _pair(f"{ours}.norm_2", f"{theirs}.norm3")
        keys |= _pair(f"{ours}.mlp_in", f"{theirs}.ff.net.0.proj")
        keys |= _pair(f"{ours}.mlp_out", f"{theirs}.ff.net.2")
    return keys


# ---- UNets ----

_DOWN = {"ResnetDownsampleBlock2D": False, "SimpleCrossAttnDownBlock2D": True}  # type of a level -> has attention
_UP = {"ResnetUpsampleBlock2D": False, "SimpleCrossAttnUpBlock2D": True}
_BOTH = {
    "center_input_sample": (False,), "flip_sin_to_cos": (True,), "freq_shift": (0,), "act_fn": ("silu", "swish"),
    "mid_block_scale_factor": (1, 1.0), "time_embedding_type": ("positional",),
}  # fmt: skip
_DECODER = {
    "class_embed_type": ("identity",), "mid_block_type": ("UNetMidBlock2DSimpleCrossAttn",),
    "only_cross_attention": (False,), "mid_block_only_cross_attention": (None, False), "conv_in_kernel": (3,),
    "conv_out_kernel": (3,), "encoder_hid_dim": (None,), "addition_embed_type": (None,), "num_class_embeds": (None,),
    "resnet_skip_time_act": (False,), "resnet_out_scale_factor": (1, 1.0), "time_embedding_act_fn": (None,),
    "timestep_post_act": (None,), "time_cond_proj_dim": (None,), "cross_attention_norm": (None,),
    "class_embeddings_concat": (False,),
}  # fmt: skip
_UPSAMPLER = {
    "class_embed_type": (None,), "num_class_embeds": (None,), "mid_block_type": ("UNetMidBlock2D",),
    "attn_norm_num_groups": (None,),
}  # fmt: skip


def _kinds(settings: Settings, name: str, known: Mapping[str, bool], where: str) -> tuple[bool, ...]:
    """Which levels have attention, from the names of their types."""
    types = settings.get(name)
    if not isinstance(types, list) or not types:
        raise PackError(f"{where}/config.json: {name} should list the type of every level.")
    for kind in types:
        if kind not in known:
            raise PackError(f"{where}/config.json: {kind!r} in {name} is not supported (only {', '.join(known)}).")
    return tuple(known[kind] for kind in types)


def _unet_config(settings: Settings, where: str, **rest: Any) -> UNetConfig:
    """What both kinds of UNet share."""
    demand(settings, where, _BOTH)
    scale_shift = settings.get("resnet_time_scale_shift", "default")
    demand({"resnet_time_scale_shift": scale_shift}, where, {"resnet_time_scale_shift": ("default", "scale_shift")})
    widths = tuple(settings["block_out_channels"])
    if len(widths) != len(settings["down_block_types"]) or len(widths) != len(settings["up_block_types"]):
        raise PackError(f"{where}/config.json: {len(widths)} widths do not fit the levels it lists.")
    blocks = settings.get("layers_per_block", 2)
    return UNetConfig(
        in_channels=settings.get("in_channels", 3),
        out_channels=settings.get("out_channels", 3),
        widths=widths,
        blocks=tuple(blocks) if isinstance(blocks, list) else blocks,
        attention=_kinds(settings, "down_block_types", _DOWN, where),
        attention_up=tuple(reversed(_kinds(settings, "up_block_types", _UP, where))),
        scale_shift=scale_shift == "scale_shift",
        groups=settings.get("norm_num_groups", 32),
        eps=settings.get("norm_eps", 1e-5),
        **rest,
    )


def decoder_unet_config(settings: Settings, where: str = "decoder") -> UNetConfig:
    """UNet2DConditionModel's settings -> ours."""
    demand(settings, where, _DECODER)
    head_width = settings.get("attention_head_dim", 8)
    levels = len(settings["block_out_channels"])
    head_width = tuple(head_width) if isinstance(head_width, list) else (head_width,) * levels
    context_width = settings.get("cross_attention_dim", 1280)
    if isinstance(context_width, list):
        demand({"cross_attention_dim": len(set(context_width))}, where, {"cross_attention_dim": (1,)})
        context_width = context_width[0]
    return _unet_config(
        settings,
        where,
        mid_attention=True,
        head_width=head_width,
        # As their software reads the list: the way up takes it in the same order, from the coarsest level on.
        head_width_up=tuple(reversed(head_width)),
        context_width=context_width,
        time_width=settings.get("time_embedding_dim") or 4 * settings["block_out_channels"][0],
    )


def upsampler_unet_config(settings: Settings, where: str) -> UNetConfig:
    """UNet2DModel's settings -> ours. Attention, if any, is in the middle only and over the pixels alone."""
    demand(settings, where, _UPSAMPLER)
    mid_attention = settings.get("add_attention", True)
    if mid_attention and settings.get("resnet_time_scale_shift", "default") != "default":
        raise PackError(f"{where}/config.json: attention without a norm (scale_shift) is not supported.")
    config = _unet_config(
        settings,
        where,
        mid_attention=mid_attention,
        head_width=settings.get("attention_head_dim", 8) or settings["block_out_channels"][-1],
        time_width=settings.get("time_embedding_dim") or 4 * settings["block_out_channels"][0],
        attention_eps=settings.get("norm_eps", 1e-5),
    )
    if any(config.attention) or any(config.attention_up):
        raise PackError(f"{where}/config.json: an upsampler's levels should have no attention.")
    return config


def _block_keys(ours: str, theirs: str, skip: bool) -> KeyMap:
    keys = {
        **_pair(f"{ours}.norm_1", f"{theirs}.norm1"),
        **_pair(f"{ours}.conv_1", f"{theirs}.conv1"),
        **_pair(f"{ours}.time", f"{theirs}.time_emb_proj"),
        **_pair(f"{ours}.norm_2", f"{theirs}.norm2"),
        **_pair(f"{ours}.conv_2", f"{theirs}.conv2"),
    }
    return keys | _pair(f"{ours}.skip", f"{theirs}.conv_shortcut") if skip else keys


def _attention_keys(ours: str, theirs: str, context: bool) -> KeyMap:
    keys = {
        **_pair(f"{ours}.norm", f"{theirs}.group_norm"),
        **_pair(f"{ours}.qkv", *(f"{theirs}.to_{part}" for part in "qkv")),
        **_pair(f"{ours}.out", f"{theirs}.to_out.0"),
    }
    if context:
        keys |= _pair(f"{ours}.context_kv", f"{theirs}.add_k_proj", f"{theirs}.add_v_proj")
    return keys


def unet_keys(config: UNetConfig, ours: str = "") -> KeyMap:
    """`ours` is put before our names, for a UNet inside another module."""
    top, context = len(config.widths) - 1, config.context_width is not None
    keys = {
        **_pair("time.linear_1", "time_embedding.linear_1"),
        **_pair("time.linear_2", "time_embedding.linear_2"),
        **_pair("conv_in", "conv_in"),
        **_pair("norm_out", "conv_norm_out"),
        **_pair("conv_out", "conv_out"),
        **_block_keys("mid.0.block", "mid_block.resnets.0", False),
        **_block_keys("mid.1.block", "mid_block.resnets.1", False),
    }
    if config.mid_attention:
        keys |= _attention_keys("mid.0.attention", "mid_block.attentions.0", context)
    channels = config.widths[0]
    for level, width in enumerate(config.widths):
        theirs = f"down_blocks.{level}"
        for i in range(config.blocks[level]):
            keys |= _block_keys(f"down.{level}.{i}.block", f"{theirs}.resnets.{i}", channels != width)
            channels = width
            if config.attention[level]:
                keys |= _attention_keys(f"down.{level}.{i}.attention", f"{theirs}.attentions.{i}", context)
        if level < top:
            keys |= _block_keys(f"down.{level}.{config.blocks[level]}", f"{theirs}.downsamplers.0", False)
    for n, level in enumerate(reversed(range(top + 1))):
        theirs = f"up_blocks.{n}"
        for i in range(config.blocks[level] + 1):  # each takes a skip as well, so its width always changes
            keys |= _block_keys(f"up.{n}.{i}.block", f"{theirs}.resnets.{i}", True)
            if config.attention_up[level]:
                keys |= _attention_keys(f"up.{n}.{i}.attention", f"{theirs}.attentions.{i}", context)
        if level > 0:
            keys |= _block_keys(f"up.{n}.{config.blocks[level] + 1}", f"{theirs}.upsamplers.0", False)
    return {ours + name: source for name, source in keys.items()}


CONDITIONING_KEYS: KeyMap = {
    **_pair("pooled_to_time", "embedding_proj"),
    **_pair("image_to_time", "clip_image_embeddings_project_to_time_embeddings"),
    **_pair("image_to_tokens", "clip_extra_context_tokens_proj"),
    **_pair("text_to_context", "encoder_hidden_states_proj"),
    **_pair("text_norm", "text_encoder_hidden_states_norm"),
    "null_image": Source(("learned_classifier_free_guidance_embeddings",)),
}


# ---- CLIP ----


def clip_text_keys(layers: int) -> KeyMap:
    """open_clip's text tower from CLIPTextModelWithProjection."""
    keys = {
        "token_embedding.weight": Source(("text_model.embeddings.token_embedding.weight",)),
        "positional_embedding": Source(("text_model.embeddings.position_embedding.weight",)),
        **_pair("ln_final", "text_model.final_layer_norm"),
        "text_projection": Source(("text_projection.weight",), transpose=True),
    }
    return keys | _tower_keys("transformer", "text_model.encoder", layers)


def clip_image_keys(layers: int) -> KeyMap:
    """open_clip's image tower (`visual.`) from CLIPVisionModelWithProjection."""
    theirs = "vision_model"
    keys = {
        "class_embedding": Source((f"{theirs}.embeddings.class_embedding",)),
        "conv1.weight": Source((f"{theirs}.embeddings.patch_embedding.weight",)),
        "positional_embedding": Source((f"{theirs}.embeddings.position_embedding.weight",)),
        **_pair("ln_pre", f"{theirs}.pre_layrnorm"),
        **_pair("ln_post", f"{theirs}.post_layernorm"),
        "proj": Source(("visual_projection.weight",), transpose=True),
    }
    return keys | _tower_keys("transformer", f"{theirs}.encoder", layers)


def _tower_keys(ours: str, theirs: str, layers: int) -> KeyMap:
    keys: KeyMap = {}
    for i in range(layers):
        block, layer = f"{ours}.resblocks.{i}", f"{theirs}.layers.{i}"
        for part in ("weight", "bias"):
            joined = tuple(f"{layer}.self_attn.{p}_proj.{part}" for p in "qkv")
            keys[f"{block}.attn.in_proj_{part}"] = Source(joined)
        keys |= _pair(f"{block}.attn.out_proj", f"{layer}.self_attn.out_proj")
        keys |= _pair(f"{block}.ln_1", f"{layer}.layer_norm1") | _pair(f"{block}.ln_2", f"{layer}.layer_norm2")
        keys |= _pair(f"{block}.mlp.c_fc", f"{layer}.mlp.fc1") | _pair(f"{block}.mlp.c_proj", f"{layer}.mlp.fc2")
    return keys
