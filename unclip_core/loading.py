"""From a pack's files to networks with weights, on the device and in the dtype that serve best."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from unclip_core.clip import Clip, ClipConfig
from unclip_core.configs import config_from_dict
from unclip_core.cpu import pack_weights
from unclip_core.decoder import Decoder, DecoderConfig
from unclip_core.errors import PackError, RequestError
from unclip_core.latents import PCA
from unclip_core.packs import Pack, check_shapes, find_pack, read_pack
from unclip_core.prior_ar import ARPrior, ARPriorConfig
from unclip_core.prior_diffusion import DiffusionPrior, DiffusionPriorConfig
from unclip_core.request import checked
from unclip_core.upsampler import Upsampler, UpsamplerConfig

# Adding a stage is one row here.
STAGES: dict[str, tuple[type, type[nn.Module]]] = {
    "clip": (ClipConfig, Clip),
    "prior": (DiffusionPriorConfig, DiffusionPrior),
    "prior_ar": (ARPriorConfig, ARPrior),
    "decoder": (DecoderConfig, Decoder),
    "upsampler_256": (UpsamplerConfig, Upsampler),
    "upsampler_1024": (UpsamplerConfig, Upsampler),
}

# What a pack does not say. A pack's own defaults go over these.
DEFAULTS: dict[str, dict[str, Any]] = {
    "prior": {"steps": 25, "guidance": 2.0, "candidates": 2},
    "prior_ar": {"guidance": 2.0, "temperature": 1.0},
    "decoder": {"steps": 16, "guidance": 3.0, "sampler": "dpm++"},
    "upsampler_256": {"steps": 6, "sampler": "ddim"},
    "upsampler_1024": {"steps": 4, "sampler": "ddim"},
    "invert": {"steps": 25, "refine": 2},
}
_CHECKED_AS = {"prior_ar.guidance": "prior_guidance", "prior.candidates": "candidates", "invert.refine": "refine"}


def load_pack(name_or_folder: str | Path, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Read a pack and build its stages -> the keyword arguments of UnCLIP. Raises PackError."""
    pack = read_pack(find_pack(name_or_folder))
    defaults = _defaults(pack)
    stages = {name: _placed(build_stage(pack, name), device, dtype) for name in STAGES if pack.has(name)}
    if "clip" not in stages:
        raise PackError(f"{pack.name}: the pack has no CLIP, and nothing works without it.")
    return {
        "stages": stages,
        "name": pack.name,
        "licence": pack.licence,
        "attribution": pack.attribution,
        "hash": pack.hash,
        "defaults": defaults,
        "pca": _pca(pack, stages["clip"].embed_dim, device),
    }


def build_stage(pack: Pack, name: str) -> nn.Module:
    """One stage of a pack with its weights, float32 on the CPU, ready to run or to train on."""
    config_class, module_class = STAGES[name]
    config = config_from_dict(config_class, pack.config(name), name)
    tensors = pack.tensors(name)
    extra = {}
    if name == "clip":
        extra["vocabulary"] = _vocabulary(tensors)
    try:
        module = module_class(config, **extra)
    except PackError:
        raise
    except (ValueError, TypeError, KeyError, ZeroDivisionError, AssertionError, RuntimeError, MemoryError) as fault:
        raise PackError(f"{name}: its config does not describe a network ({fault}).") from fault
    check_shapes(module.state_dict(), tensors, name)
    module.load_state_dict(tensors)
    return module.eval().requires_grad_(False)


def _vocabulary(tensors: dict[str, Tensor]) -> Tensor:
    vocabulary = tensors.get("vocabulary")
    if vocabulary is None or vocabulary.ndim != 1 or vocabulary.is_floating_point():
        raise PackError("clip: the tensor 'vocabulary' is missing or is not a list of token numbers.")
    return vocabulary


def _placed(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Everything float32 except the UNets, which do nearly all of the work: those in `dtype`, channels last."""
    module = module.to(device)
    if hasattr(module, "unet"):
        module.unet.to(dtype=dtype, memory_format=torch.channels_last)
    return pack_weights(module)


def _pca(pack: Pack, width: int, device: torch.device) -> PCA | None:
    if not pack.has("pca"):
        return None
    tensors = {name: tensor.float() for name, tensor in pack.tensors("pca").items()}
    wanted = {"mean": torch.empty(width), "components": torch.empty(width, width), "explained": torch.empty(width)}
    check_shapes(wanted, tensors, "pca")
    return PCA(**{name: tensor.to(device) for name, tensor in tensors.items()})


def _defaults(pack: Pack) -> dict[str, dict[str, Any]]:
    """The pack's defaults over ours, each value checked as a request's would be."""
    merged = {stage: dict(values) for stage, values in DEFAULTS.items()}
    for stage, values in pack.defaults.items():
        for key, value in values.items():
            if key not in merged.get(stage, {}):
                raise PackError(f"pack.json: there is no default {stage}.{key}.")
            field = _CHECKED_AS.get(f"{stage}.{key}", key if key in ("sampler", "temperature") else f"{stage}_{key}")
            try:
                merged[stage][key] = checked(field, value)
            except RequestError as fault:
                raise PackError(f"pack.json: the default {stage}.{key} is unusable. {fault}") from fault
    return merged


def pick_device(device: str) -> torch.device:
    """ "auto" takes a GPU where there is one. Raises RequestError for a device that is not there."""
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, TypeError) as fault:
        raise RequestError(f"There is no device {device!r} here: use auto, cpu, cuda or mps.", "device") from fault
    return place


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """ "auto": bfloat16 where the hardware multiplies it, else float32. float64 is for comparisons with others."""
    named = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32, "float64": torch.float64}
    if dtype in named:
        return named[dtype]
    if dtype != "auto":
        raise RequestError(f"There is no dtype {dtype!r}: use auto, {', '.join(named)}.", "dtype")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _cpu_multiplies_bfloat16() else torch.float32


def mixed_precision(enabled: bool = True) -> torch.autocast:
    """Autocast to bfloat16 on PyTorch's default device, which is the one trained on, where the hardware multiplies it;
    elsewhere all stays as it is."""
    device = torch.get_default_device()
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled and pick_dtype("auto", device) == torch.bfloat16)


def peak_memory(device: torch.device) -> int:
    """The most memory this process has held so far, in bytes: the GPU's there, else all of it, mapped weights too."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_told(device: torch.device) -> str:
    return f"Memory at most: {peak_memory(device) / 1e9:.2f} GB on {device.type}."


def _cpu_multiplies_bfloat16() -> bool:
    """Without such instructions bfloat16 is emulated, several times slower than float32."""
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported", "_is_arm_bf16_supported")
    return any(getattr(torch.cpu, check, lambda: False)() for check in checks)
