"""From a folder of published unCLIP weights to stages: which component fills which, when it is read, what is kept."""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from unclip_core.errors import PackError
from unclip_core.karlo_checkpoints import is_original, original_components
from unclip_core.karlo_clip import load_clip
from unclip_core.karlo_extras import from_statistics, read_pca
from unclip_core.karlo_files import Weights, check_keys, fill, read_json, read_weights
from unclip_core.karlo_keys import (
    CONDITIONING_KEYS,
    KeyMap,
    decoder_unet_config,
    demand,
    prior_config,
    prior_keys,
    unet_keys,
    upsampler_unet_config,
)
from unclip_core.karlo_stages import (
    KarloDecoder,
    KarloDecoderConfig,
    KarloPrior,
    KarloUpsampler,
    KarloUpsamplerConfig,
    ReferenceSchedule,
)
from unclip_core.latents import PCA
from unclip_core.unet import UNet

NETWORKS = ("text_encoder", "image_encoder", "prior", "text_proj", "decoder", "super_res_first", "super_res_last")
UPSAMPLER = ("super_res_first", "super_res_last")

# UnCLIPScheduler's own values, and what Karlo's original checkpoints (which carry no schedulers) were trained with.
_SCHEDULER = {
    "num_train_timesteps": 1000, "variance_type": "fixed_small_log", "clip_sample": True, "clip_sample_range": 1.0,
    "prediction_type": "epsilon",
}  # fmt: skip
SCHEDULERS: dict[str, dict[str, Any]] = {
    "prior": {**_SCHEDULER, "prediction_type": "sample", "clip_sample_range": 5.0},
    "decoder": {**_SCHEDULER, "variance_type": "learned_range"},
    "super_res": _SCHEDULER,
}
SCHEDULER_CHOICES = {
    "variance_type": ("fixed_small_log", "learned_range"), "prediction_type": ("epsilon", "sample"),
    "beta_schedule": ("squaredcos_cap_v2",),
}  # fmt: skip


class Component(NamedTuple):
    """One network as published: its config.json (or what it would say) and its weights."""

    settings: dict[str, Any]
    weights: Weights


class Stages(Mapping[str, nn.Module]):
    """Stages by name. With low_memory one at a time is in memory beside CLIP, read again when it is needed again."""

    def __init__(self, makers: Mapping[str, Callable[[], nn.Module]], low_memory: bool) -> None:
        self._makers, self._low_memory = dict(makers), low_memory
        self._ready: dict[str, nn.Module] = {} if low_memory else {name: make() for name, make in makers.items()}

    def __getitem__(self, name: str) -> nn.Module:
        if name not in self._ready:
            if self._low_memory and name != "clip":
                self._ready = {kept: stage for kept, stage in self._ready.items() if kept == "clip"}
                gc.collect()
            self._ready[name] = self._makers[name]()
        return self._ready[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)

    def add(self, name: str, make: Callable[[], nn.Module]) -> None:
        """A further stage, for instance a stand-in for one the pack lacks."""
        self._makers[name] = make


class Maker:
    """Makes each stage of a folder from its components, as often as asked."""

    def __init__(
        self, folder: Path, beside: Path | None, device: torch.device, dtype: torch.dtype, low_memory: bool
    ) -> None:
        self.folder, self.beside = folder, beside
        self.device, self.dtype, self.low_memory = device, dtype, low_memory
        self.wide = torch.float64 if dtype == torch.float64 else torch.float32  # of CLIP and the conditioning
        self.components = _components(folder, beside)
        for name in ("text_encoder", "text_proj", "decoder"):
            if name not in self.components:
                raise PackError(f"{folder}: has no {name}, without which nothing can be drawn.")
        facts = {name: [part.settings, part.weights.facts] for name, part in sorted(self.components.items())}
        self.hash = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
        self._clip: nn.Module | None = None

    def makers(self) -> dict[str, Callable[[], nn.Module]]:
        """A function for each stage there is. CLIP is made now: the empty caption is needed by prior and decoder."""
        self._clip = self._make_clip()
        self.empty = self._clip.encode_text([""])
        makers: dict[str, Callable[[], nn.Module]] = {"clip": lambda: self._clip}
        if "prior" in self.components:
            makers["prior"] = self._prior
        makers["decoder"] = self._decoder
        if set(UPSAMPLER) <= set(self.components):
            makers["upsampler_256"] = self._upsampler
        if self.low_memory:
            self._check()
        return makers

    def _make_clip(self) -> nn.Module:
        image = _folder("image_encoder", self.folder, self.beside)
        weights = {name: part.weights for name, part in self.components.items() if name.endswith("_encoder")}
        text, words = self.folder / "text_encoder", self.folder / "tokenizer"
        return load_clip(text, words, image, weights, self.device, self.wide)

    def _prior(self, check: bool = False) -> nn.Module:
        settings, weights = self.components["prior"]
        schedule = self._schedule("prior")
        with torch.device("meta"):
            prior = KarloPrior(prior_config(settings, schedule.clip, schedule.steps), schedule)
        if prior.config.context_length != self._clip.context_length:
            raise PackError(
                f"prior: reads captions of {prior.config.context_length} tokens, but the tokenizer makes "
                f"{self._clip.context_length}."
            )
        self._fill(prior, prior_keys(prior.config), weights, check, ("clip_mean", "clip_std"))
        prior.empty = self.empty
        return prior

    def _decoder(self, check: bool = False) -> nn.Module:
        (settings, weights), (text_settings, text_weights) = (self.components[n] for n in ("decoder", "text_proj"))
        config = KarloDecoderConfig(
            unet=decoder_unet_config(settings),
            embed_dim=text_settings.get("clip_embeddings_dim", 768),
            image_tokens=text_settings.get("clip_extra_context_tokens", 4),
            image_size=settings.get("sample_size") or 64,
            schedule=self._schedule("decoder"),
        )
        with torch.device("meta"):
            decoder = KarloDecoder(config)
        unet, decoder.unet = decoder.unet, None  # two components fill one stage
        self._fill(decoder, CONDITIONING_KEYS, text_weights, check, keep=tuple(CONDITIONING_KEYS))
        self._fill(unet, unet_keys(config.unet), weights, check)
        decoder.unet, decoder.empty = unet, self.empty
        return decoder

    def _upsampler(self, check: bool = False) -> nn.Module:
        settings = self.components["super_res_first"].settings
        config = KarloUpsamplerConfig(
            unet=upsampler_unet_config(settings, "super_res_first"),
            image_size=settings.get("sample_size") or 256,
            schedule=self._schedule("super_res"),
        )
        if check or not self.low_memory:
            pair = nn.ModuleDict({name: self._upsampler_network(name, check) for name in UPSAMPLER})
        else:
            makers = {name: lambda name=name: self._upsampler_network(name) for name in UPSAMPLER}
            pair = Stages(makers, low_memory=True)
        return KarloUpsampler(config, pair)

    def _upsampler_network(self, name: str, check: bool = False) -> nn.Module:
        settings, weights = self.components[name]
        config = upsampler_unet_config(settings, name)
        with torch.device("meta"):
            network = UNet(config)
        self._fill(network, unet_keys(config), weights, check)
        return network

    def _fill(self, module: nn.Module, keys: KeyMap, weights: Weights, check: bool, keep: tuple[str, ...] = ()) -> None:
        """keep: names that stay wide. check: only look whether it would work."""
        if check:
            check_keys(module, keys, weights)
        else:
            fill(module, keys, weights, self.device, lambda name: self.wide if name in keep else self.dtype)

    def _check(self) -> None:
        """Find missing or misshapen weights now, from names and shapes alone, not in the middle of a request."""
        self._decoder(check=True)
        if "prior" in self.components:
            self._prior(check=True)
        if set(UPSAMPLER) <= set(self.components):
            self._upsampler(check=True)

    def _schedule(self, stage: str) -> ReferenceSchedule:
        path = self.folder / f"{stage}_scheduler" / "scheduler_config.json"
        settings = {**_SCHEDULER, **read_json(path)} if path.is_file() else SCHEDULERS[stage]
        demand(settings, path.parent.name, SCHEDULER_CHOICES)
        return ReferenceSchedule(
            steps=settings["num_train_timesteps"],
            predicts={"epsilon": "eps", "sample": "x0"}[settings["prediction_type"]],
            clip=float(settings["clip_sample_range"]) if settings["clip_sample"] else None,
            learned_range=settings["variance_type"] == "learned_range",
        )

    def pca(self) -> PCA | None:
        """The basis in pca.safetensors beside the weights (`karlo_extras.fit_pca` writes it), else one from the mean
        and spread published with the prior."""
        width = self._clip.embed_dim
        if (path := self.folder / "pca.safetensors").is_file():
            return read_pca(path, width, self.device)
        if "prior" not in self.components:
            return None
        weights = self.components["prior"].weights
        return from_statistics(*(weights[f"clip_{part}"].reshape(-1).to(self.device) for part in ("mean", "std")))


def _folder(name: str, folder: Path, beside: Path | None) -> Path | None:
    for place in (folder, beside):
        if place is not None and (place / name / "config.json").is_file():
            return place / name
    return None


def _components(folder: Path, beside: Path | None) -> dict[str, Component]:
    found = {}
    for name in NETWORKS:
        if (place := _folder(name, folder, beside)) is not None:
            found[name] = Component(read_json(place / "config.json"), read_weights(place))
    if is_original(folder):
        found |= {name: Component(*parts) for name, parts in original_components(folder).items()}
        if "text_encoder" not in found:
            raise PackError(
                f"{folder}: beside Karlo's checkpoints the folders text_encoder and tokenizer of the published "
                "diffusers format are needed; ViT-L-14.pt itself is a program and is never opened."
            )
    return found
