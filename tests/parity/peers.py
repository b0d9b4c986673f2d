"""A published-format folder with random weights, made by diffusers and transformers themselves, and their pipelines."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel
from diffusers.pipelines.deprecated.unclip.pipeline_unclip import UnCLIPPipeline
from diffusers.pipelines.deprecated.unclip.pipeline_unclip_image_variation import UnCLIPImageVariationPipeline
from diffusers.pipelines.deprecated.unclip.text_proj import UnCLIPTextProjModel
from diffusers.schedulers.scheduling_unclip import UnCLIPScheduler
from open_clip.tokenizer import bytes_to_unicode
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

MERGES = [("a", "p"), ("r", "e"), ("re", "d</w>"), ("ap", "p"), ("l", "e</w>"), ("app", "le</w>"), ("o", "n</w>")]


@dataclass
class Shape:
    """One random configuration; the defaults are the least that has every kind of layer."""

    embed_dim: int = 32
    positions: int = 16
    text: dict = field(default_factory=dict)
    image: dict = field(default_factory=dict)
    prior: dict = field(default_factory=dict)
    decoder: dict = field(default_factory=dict)
    upsampler: dict = field(default_factory=dict)
    prior_scheduler: dict = field(default_factory=dict)
    decoder_scheduler: dict = field(default_factory=dict)
    super_res_scheduler: dict = field(default_factory=dict)
    image_tokens: int = 4
    pad: str = "!"
    image_encoder: bool = True


SHAPES = {
    "least": Shape(),
    "three levels, another head everywhere": Shape(
        embed_dim=24,
        positions=21,
        text={
            "num_attention_heads": 3,
            "intermediate_size": 37,
            "hidden_act": "gelu",
            "num_hidden_layers": 3,
            "max_position_embeddings": 23,  # more than captions take
            "layer_norm_eps": 1e-4,
        },
        image={"hidden_size": 48, "num_attention_heads": 6, "patch_size": 4, "layer_norm_eps": 1e-6},
        prior={"num_attention_heads": 3, "attention_head_dim": 12, "num_layers": 3, "time_embed_dim": 20},
        decoder={
            "block_out_channels": (32, 64, 96),
            "layers_per_block": (1, 2, 1),
            "down_block_types": ("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
            "up_block_types": ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D"),
            "attention_head_dim": (8, 16, 32),
            "cross_attention_dim": 40,
            "norm_num_groups": 16,
            "norm_eps": 1e-6,
            "sample_size": 8,
        },
        upsampler={
            "block_out_channels": (32, 32, 64),
            "down_block_types": ("ResnetDownsampleBlock2D",) * 3,
            "up_block_types": ("ResnetUpsampleBlock2D",) * 3,
            "layers_per_block": 2,
            "sample_size": 24,
            "add_attention": False,
            "time_embedding_dim": 20,
        },
        prior_scheduler={"num_train_timesteps": 50, "clip_sample_range": 3.0},
        decoder_scheduler={"num_train_timesteps": 200, "clip_sample": False, "variance_type": "learned_range"},
        image_tokens=3,
        pad="<|endoftext|>",
    ),
    "no learned variance, scale and shift in the upsampler": Shape(
        decoder={"out_channels": 3, "resnet_time_scale_shift": "default"},
        decoder_scheduler={"variance_type": "fixed_small_log", "prediction_type": "sample"},
        upsampler={"resnet_time_scale_shift": "scale_shift", "add_attention": False},
        image_encoder=False,
    ),
}


def write_tokenizer(folder: Path, shape: Shape) -> CLIPTokenizer:
    letters = list(bytes_to_unicode().values())
    vocabulary = letters + [letter + "</w>" for letter in letters] + ["".join(pair) for pair in MERGES]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(pair) for pair in MERGES) + "\n")
    return CLIPTokenizer.from_pretrained(folder, model_max_length=shape.positions, pad_token=shape.pad)


def randomised(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Zero-initialised parameters too, or half of each network would go untested."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        base = 1.0 if name.endswith("norm.weight") or ("norm" in name and name.endswith("weight")) else 0.0
        spread = 0.1 if parameter.ndim < 2 else min(0.3, 1.2 / parameter[0].numel() ** 0.5)
        parameter.data = base + spread * torch.randn(parameter.shape, generator=generator)
        if name == "clip_std":
            parameter.data = parameter.data.abs() + 0.5
    return module.eval()


def modules(shape: Shape) -> dict[str, torch.nn.Module]:
    """The peers' networks of a shape, randomised."""
    eos = 512 + len(MERGES) + 1
    text = {
        "vocab_size": eos + 1, "hidden_size": shape.embed_dim, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": shape.positions, "projection_dim": shape.embed_dim,
        "eos_token_id": eos, "bos_token_id": eos - 1, "pad_token_id": 0, **shape.text,
    }  # fmt: skip
    image = {
        "hidden_size": 32, "intermediate_size": 37, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 32,
        "patch_size": 8, "projection_dim": shape.embed_dim, **shape.image,
    }  # fmt: skip
    prior = {
        "num_attention_heads": 2, "attention_head_dim": 12, "embedding_dim": shape.embed_dim, "num_layers": 2,
        "num_embeddings": shape.positions, **shape.prior,
    }  # fmt: skip
    decoder = {
        "sample_size": 16, "in_channels": 3, "out_channels": 6,
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "mid_block_type": "UNetMidBlock2DSimpleCrossAttn", "block_out_channels": (32, 64), "layers_per_block": 1,
        "cross_attention_dim": 36, "attention_head_dim": 8, "resnet_time_scale_shift": "scale_shift",
        "class_embed_type": "identity", **shape.decoder,
    }  # fmt: skip
    upsampler = {
        "sample_size": 32, "layers_per_block": 1, "down_block_types": ("ResnetDownsampleBlock2D",) * 2,
        "up_block_types": ("ResnetUpsampleBlock2D",) * 2, "block_out_channels": (32, 64), "in_channels": 6,
        "out_channels": 3, **shape.upsampler,
    }  # fmt: skip
    made = {
        "text_encoder": CLIPTextModelWithProjection(CLIPTextConfig(**text)),
        "image_encoder": CLIPVisionModelWithProjection(CLIPVisionConfig(**image)),
        "prior": PriorTransformer(**prior),
        "text_proj": UnCLIPTextProjModel(
            clip_extra_context_tokens=shape.image_tokens,
            clip_embeddings_dim=shape.embed_dim,
            time_embed_dim=4 * decoder["block_out_channels"][0],
            cross_attention_dim=decoder["cross_attention_dim"],
        ),
        "decoder": UNet2DConditionModel(**decoder),
        "super_res_first": UNet2DModel(**upsampler),
        "super_res_last": UNet2DModel(**upsampler),
    }
    return {name: randomised(module, seed) for seed, (name, module) in enumerate(made.items())}


def schedulers(shape: Shape) -> dict[str, UnCLIPScheduler]:
    prior = {"prediction_type": "sample", "clip_sample_range": 5.0, **shape.prior_scheduler}
    return {
        "prior_scheduler": UnCLIPScheduler(**prior),
        "decoder_scheduler": UnCLIPScheduler(**{"variance_type": "learned_range", **shape.decoder_scheduler}),
        "super_res_scheduler": UnCLIPScheduler(**shape.super_res_scheduler),
    }


def write_folder(folder: Path, shape: Shape) -> UnCLIPPipeline:
    """The folder as `save_pretrained` leaves it, and the pipeline that wrote it."""
    parts = {**modules(shape), **schedulers(shape)}
    tokenizer = write_tokenizer(folder.with_name(folder.name + "-tokenizer"), shape)
    image_encoder = parts.pop("image_encoder")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pipeline = UnCLIPPipeline(tokenizer=tokenizer, **parts)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder)
    if shape.image_encoder:
        image_encoder.save_pretrained(folder / "image_encoder")
        feature_extractor(image_encoder).save_pretrained(folder / "feature_extractor")
    return pipeline


def feature_extractor(image_encoder: CLIPVisionModelWithProjection) -> CLIPImageProcessor:
    size = image_encoder.config.image_size
    return CLIPImageProcessor(size={"shortest_edge": size}, crop_size={"height": size, "width": size})


def variation_pipeline(pipeline: UnCLIPPipeline, shape: Shape) -> UnCLIPImageVariationPipeline:
    """The peer's image-variation pipeline on the same weights."""
    image_encoder = modules(shape)["image_encoder"]
    names = ("decoder", "text_encoder", "tokenizer", "text_proj", "super_res_first", "super_res_last")
    parts = {name: getattr(pipeline, name) for name in (*names, "decoder_scheduler", "super_res_scheduler")}
    made = UnCLIPImageVariationPipeline(
        image_encoder=image_encoder, feature_extractor=feature_extractor(image_encoder), **parts
    )
    made.set_progress_bar_config(disable=True)
    return made
