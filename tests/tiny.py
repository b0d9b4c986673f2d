"""A pack of every stage with random weights, small enough to load in a moment."""

from pathlib import Path

import torch

from unclip_core.clip import START, Clip, ClipConfig
from unclip_core.decoder import Decoder, DecoderConfig
from unclip_core.latents import PCA
from unclip_core.packs import write_pack
from unclip_core.prior_ar import ARPrior, ARPriorConfig
from unclip_core.prior_diffusion import DiffusionPrior, DiffusionPriorConfig
from unclip_core.unet import UNetConfig
from unclip_core.upsampler import Upsampler, UpsamplerConfig

WIDTH, TEXT_WIDTH, CONTEXT = 32, 32, 16


def tiny_unet(**changes) -> UNetConfig:
    """Two levels of the least width that still has every kind of layer."""
    plain = {"patch": 4, "widths": (16, 32), "blocks": 1, "head_width": 16, "time_width": 32, "groups": 8}
    return UNetConfig(**{**plain, **changes})


def tiny_configs() -> dict:
    up = {"in_channels": 6, "attention": (False, False), "mid_attention": False}
    return {
        "clip": ClipConfig(
            embed_dim=WIDTH,
            vision={"layers": 1, "width": 32, "head_width": 16, "image_size": 32, "patch_size": 8},
            text={"context_length": CONTEXT, "width": TEXT_WIDTH, "heads": 2, "layers": 1},
        ),
        "prior": DiffusionPriorConfig(
            embed_dim=WIDTH, text_width=TEXT_WIDTH, context_length=CONTEXT, width=32, layers=1, heads=2
        ),
        "prior_ar": ARPriorConfig(
            embed_dim=WIDTH, text_width=TEXT_WIDTH, context_length=CONTEXT, n_codes=8, width=32, layers=1, heads=2
        ),
        "decoder": DecoderConfig(tiny_unet(context_width=32), WIDTH, TEXT_WIDTH),
        "upsampler_256": UpsamplerConfig(tiny_unet(**up)),
        "upsampler_1024": UpsamplerConfig(tiny_unet(**up, patch=8), 256, 1024, "bsr"),
    }


def tiny_stages() -> dict[str, torch.nn.Module]:
    """Every stage with weights from a fixed seed; zero-initialised ones too, so that every path matters."""
    vocabulary = torch.tensor([*range(512), START, START + 1], dtype=torch.int32)  # bytes alone spell any text
    classes = {
        "clip": lambda config: Clip(config, vocabulary),
        "prior": DiffusionPrior,
        "prior_ar": ARPrior,
        "decoder": Decoder,
        "upsampler_256": Upsampler,
        "upsampler_1024": Upsampler,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stages = {name: classes[name](config) for name, config in tiny_configs().items()}
        for stage in stages.values():
            for parameter in stage.parameters():
                if not parameter.any():
                    torch.nn.init.normal_(parameter, std=0.05)
    return stages


def write_tiny_pack(folder: Path, **changes) -> Path:
    """The pack in a folder; changes: arguments of write_pack in place of its own."""
    configs = tiny_configs()
    generator = torch.Generator().manual_seed(0)
    z_i = torch.nn.functional.normalize(torch.randn(200, WIDTH, generator=generator), dim=-1)
    pca = PCA.fit(z_i)
    stages = {name: (configs[name], module.state_dict()) for name, module in tiny_stages().items()}
    stages["pca"] = ({}, {"mean": pca.mean, "components": pca.components, "explained": pca.explained})
    arguments = {
        "name": "tiny",
        "licence": "Apache-2.0",
        "attribution": "Random numbers.",
        "stages": stages,
        "defaults": {
            "prior": {"steps": 3, "guidance": 2.0, "candidates": 2},
            "decoder": {"steps": 3, "guidance": 2.0, "sampler": "dpm++"},
            "upsampler_256": {"steps": 2},
            "upsampler_1024": {"steps": 2},
            "invert": {"steps": 4, "refine": 2},
        },
    }
    return write_pack(folder, **{**arguments, **changes})
