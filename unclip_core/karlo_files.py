"""Reading published weights: configs and tensors of a component's folder, memory-mapped, put into modules of ours.

Modules are made on the meta device, so nothing is stored twice: a tensor that needs no change of dtype or joining stays
where it is, in the mapped file, and is paged in when the network first uses it.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from unclip_core.cpu import pack_weights
from unclip_core.errors import PackError
from unclip_core.karlo_keys import KeyMap

STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")  # diffusers' and transformers' names, old and new
# Constants that older versions stored among the weights.
NOT_WEIGHTS = ("position_ids", "causal_attention_mask")


def read_json(path: Path) -> dict[str, Any]:
    """Raises PackError that names the file and the fault."""
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise PackError(f"{path}: missing. Fetch the model's folder again, whole.") from None
    except (OSError, ValueError, RecursionError) as fault:
        raise PackError(f"{path}: cannot be read as JSON ({fault}).") from fault
    if not isinstance(data, dict):
        raise PackError(f"{path}: should hold a JSON object.")
    return data


class Weights(Mapping[str, Tensor]):
    """The tensors of one component, by name; read (memory-mapped) when asked for."""

    def __init__(
        self, where: str, shapes: dict[str, tuple[int, ...]], read: Callable[[str], Tensor], facts: str
    ) -> None:
        self.where, self.shapes, self.facts = where, shapes, facts
        self._read = read

    def __getitem__(self, name: str) -> Tensor:
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    @classmethod
    def of(cls, where: str, tensors: Mapping[str, Tensor], facts: str = "") -> Weights:
        """Weights that are in memory already."""
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        return cls(where, shapes, tensors.__getitem__, facts)


def read_weights(folder: Path) -> Weights:
    """The weights in a component's folder: one safetensors file, several with an index, or a .bin read weights-only.

    Raises PackError if there are none or they cannot be read.
    """
    for stem in STEMS:
        if (index := folder / f"{stem}.safetensors.index.json").is_file():
            names = sorted(set(read_json(index).get("weight_map", {}).values()))
            if not names or any(Path(str(name)).name != name for name in names):
                raise PackError(f"{index}: should name plain files beside it.")
            return _mapped(folder, [folder / name for name in names])
        if (path := folder / f"{stem}.safetensors").is_file():
            return _mapped(folder, [path])
    for stem in STEMS:
        if (path := folder / f"{stem}.bin").is_file():
            return Weights.of(folder.name, load_checkpoint(path), f"{path.name} {path.stat().st_size}")
    raise PackError(f"{folder}: holds no weights ({', '.join(f'{stem}.safetensors' for stem in STEMS[:2])}).")


def _mapped(folder: Path, paths: list[Path]) -> Weights:
    handles, shapes, facts = {}, {}, []
    for path in paths:
        try:
            handle = safe_open(path, framework="pt")
            for name in handle.keys():
                handles[name] = handle
                shapes[name] = tuple(handle.get_slice(name).get_shape())
        except (SafetensorError, OSError, ValueError) as fault:
            raise PackError(f"{path}: not a whole safetensors file ({fault}). Fetch it again.") from fault
        with path.open("rb") as file:
            header = file.read(8 + int.from_bytes(file.read(8), "little"))
        facts.append(f"{path.name} {path.stat().st_size} {hashlib.sha256(header).hexdigest()}")
    return Weights(folder.name, shapes, lambda name: handles[name].get_tensor(name), "\n".join(facts))


def load_checkpoint(path: Path) -> dict[str, Tensor]:
    """A PyTorch checkpoint, tensors only: anything else in it is refused, so that no code of it can run."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as fault:  # torch raises many kinds, and old files cannot be mapped
        if "mmap" not in str(fault):
            raise PackError(f"{path}: cannot be read safely, as tensors only ({type(fault).__name__}).") from fault
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as inner:
            raise PackError(f"{path}: cannot be read safely, as tensors only ({type(inner).__name__}).") from inner
    found = found.get("state_dict", found) if isinstance(found, dict) else found
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise PackError(f"{path}: should hold named tensors and nothing else.")
    return found


def check_keys(module: nn.Module, keys: KeyMap, weights: Weights) -> None:
    """Every parameter of ours filled, every tensor of theirs used once, all shapes fitting. Raises PackError."""
    where, wanted = weights.where, {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    if unfilled := sorted(set(wanted) - set(keys)):
        raise PackError(f"{where}: nothing would fill {unfilled[0]!r} ({len(unfilled)} such).")
    used = [key for source in keys.values() for key in source.keys]
    if missing := sorted(set(used) - set(weights)):
        raise PackError(f"{where}: {len(missing)} weights are missing, the first is {missing[0]!r}.")
    unknown = sorted(name for name in set(weights) - set(used) if not name.endswith(NOT_WEIGHTS))
    if unknown:
        raise PackError(f"{where}: {len(unknown)} weights do not belong to it, the first is {unknown[0]!r}.")
    for name, source in keys.items():
        shapes = [_tight(weights.shapes[key]) for key in source.keys]
        shapes = [shape[::-1] for shape in shapes] if source.transpose else shapes
        joined = (sum(shape[0] for shape in shapes), *shapes[0][1:]) if len(shapes) > 1 else shapes[0]
        if joined != _tight(wanted[name]):
            raise PackError(f"{where}: {source.keys[0]!r} has the shape {joined}, its config asks for {wanted[name]}.")


def _tight(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Without the axes of length one, which the two sides place differently."""
    return tuple(size for size in shape if size != 1)


def fill(
    module: nn.Module,
    keys: KeyMap,
    weights: Weights,
    device: torch.device,
    dtype: Callable[[str], torch.dtype],
) -> nn.Module:
    """Put the weights into a module made on the meta device; `dtype` says which, by our name. Raises PackError."""
    check_keys(module, keys, weights)
    shapes = {name: tensor.shape for name, tensor in module.state_dict().items()}
    filled = {}
    for name, source in keys.items():
        parts = [weights[key] for key in source.keys]
        parts = [part.T for part in parts] if source.transpose else parts
        tensor = parts[0] if len(parts) == 1 else torch.cat(parts)
        if not math.isfinite(tensor.sum(dtype=torch.float64)):
            raise PackError(f"{weights.where}: {source.keys[0]!r} holds weights that are not finite numbers.")
        filled[name] = tensor.reshape(shapes[name]).to(device=device, dtype=dtype(name))
    module.load_state_dict(filled, assign=True)
    return pack_weights(module.eval().requires_grad_(False))
