"""Model packs: a folder of `pack.json` and safetensors shards (never pickle), read with every check, written whole.

pack.json: schema, name, licence, attribution, defaults (steps and guidance a stage), stages (each its config and its
files) and files (bytes and SHA-256 of each). A flipped bit loads silently otherwise, so every hash is checked.
"""

import hashlib
import json
import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from unclip_core.configs import config_to_dict
from unclip_core.errors import PackError

SCHEMA = 1
INDEX = "pack.json"
STAGES = ("clip", "prior", "prior_ar", "decoder", "upsampler_256", "upsampler_1024")
EXTRAS = ("pca",)  # tensors without a network
SHARD_BYTES = 9_400_000  # hosts of app repositories ask for large-file storage above 10 MB; the contract says 9.5
INDEX_BYTES = 4_000_000
SMALL = 1 << 14  # tensors up to this many elements (biases, norms, statistics) keep float32
SHIPPED = Path(__file__).resolve().parent.parent / "assets" / "packs"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_KEYS = {"schema", "name", "licence", "attribution", "defaults", "stages", "files"}


@dataclass(frozen=True)
class Pack:
    """A pack whose files have all been checked. Tensors are read when asked for."""

    folder: Path
    name: str
    licence: str
    attribution: str
    defaults: dict[str, dict[str, Any]]
    stages: dict[str, dict[str, Any]]  # stage -> {"config": {...}, "files": [...]}
    hash: str  # of pack.json, which holds the hash of every other file: 16 hex digits

    def has(self, stage: str) -> bool:
        return stage in self.stages

    def config(self, stage: str) -> dict[str, Any]:
        return self.stages[stage]["config"]

    def tensors(self, stage: str) -> dict[str, Tensor]:
        """All tensors of a stage, as stored (bfloat16 or float32, CPU). Raises PackError on a non-finite weight."""
        found: dict[str, Tensor] = {}
        for file in self.stages[stage]["files"]:
            found.update(_read_shard(self.folder / file))
        return found

    @cached_property
    def bytes(self) -> int:
        return sum((self.folder / file).stat().st_size for stage in self.stages.values() for file in stage["files"])


# ---- reading ----


def find_pack(name_or_folder: str | Path) -> Path:
    """A shipped pack's name, or a folder -> the folder. Raises PackError that says where it looked."""
    text = str(name_or_folder)
    if not text.strip() or "\0" in text or len(text) > 4096:
        raise PackError("The pack's name is empty or not a name: give a pack's name, or the path of its folder.")
    if Path(text).is_dir():
        return Path(text)
    if _NAME.fullmatch(text) and (SHIPPED / text).is_dir():
        return SHIPPED / text
    shipped = sorted(p.parent.name for p in SHIPPED.glob(f"*/{INDEX}"))
    known = f" Shipped here: {', '.join(shipped)}." if shipped else ""
    raise PackError(f"There is no pack {_short(text)!r}: it is neither a folder nor the name of a shipped pack.{known}")


def read_pack(folder: str | Path) -> Pack:
    """Read and check a pack: index, names, sizes, hashes. Raises PackError that names the file and the fault."""
    folder = Path(folder)
    raw = _read_index(folder)
    index = _parse_index(raw)
    listed = _check_files(index)
    _check_stages(index["stages"], listed)
    _check_defaults(index["defaults"])
    for file, facts in listed.items():
        _check_file(folder / file, facts)
    texts = {key: index[key] for key in ("name", "licence", "attribution", "defaults", "stages")}
    return Pack(folder=folder, hash=hashlib.sha256(raw).hexdigest()[:16], **texts)


def _read_index(folder: Path) -> bytes:
    path = folder / INDEX
    try:
        if path.stat().st_size > INDEX_BYTES:
            raise PackError(f"{path}: too large for a pack's index.")
        return path.read_bytes()
    except FileNotFoundError:
        raise PackError(f"{path}: missing, so {folder.name or folder} is not a model pack.") from None
    except OSError as fault:
        raise PackError(f"{path}: cannot be read ({fault.strerror}).") from fault


def _parse_index(raw: bytes) -> dict[str, Any]:
    try:
        index = json.loads(raw)
    except (ValueError, RecursionError) as fault:
        raise PackError(f"{INDEX}: not valid JSON ({_short(str(fault))}). Fetch the pack again.") from fault
    if not isinstance(index, dict):
        raise PackError(f"{INDEX}: should hold a JSON object.")
    schema = index.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool):
        raise PackError(f"{INDEX}: the schema number is missing.")
    if schema > SCHEMA:
        raise PackError(f"{INDEX}: written for a newer program (schema {schema}, this one reads {SCHEMA}). Update it.")
    if schema < 1:
        raise PackError(f"{INDEX}: schema {schema} does not exist.")
    if missing := sorted(_KEYS - set(index)):
        raise PackError(f"{INDEX}: lacks {missing[0]!r}.")
    if unknown := sorted(set(index) - _KEYS):
        raise PackError(f"{INDEX}: unknown key {_short(unknown[0])!r}.")
    for key in ("name", "licence", "attribution"):
        if not isinstance(index[key], str) or len(index[key]) > 100_000:
            raise PackError(f"{INDEX}: {key!r} should be text.")
    if not _NAME.fullmatch(index["name"]):
        raise PackError(f"{INDEX}: the name may hold letters, digits, '.', '_' and '-' only.")
    return index


def _check_files(index: dict[str, Any]) -> dict[str, dict[str, Any]]:
    files = index["files"]
    if not isinstance(files, dict) or len(files) > 1000:
        raise PackError(f"{INDEX}: 'files' should name each file with its bytes and SHA-256.")
    for name, facts in files.items():
        # One plain name: no folders, so nothing outside the pack can be named.
        if not _NAME.fullmatch(name) or not name.endswith(".safetensors"):
            raise PackError(f"{INDEX}: {_short(name)!r} is not allowed as a file name: plain *.safetensors names only.")
        good = isinstance(facts, dict) and set(facts) == {"bytes", "sha256"}
        if not good or type(facts["bytes"]) is not int or not re.fullmatch(r"[0-9a-f]{64}", str(facts["sha256"])):
            raise PackError(f"{INDEX}: {name} needs its size in bytes and its SHA-256.")
    return files


def _check_stages(stages: Any, listed: Mapping[str, Any]) -> None:
    if not isinstance(stages, dict):
        raise PackError(f"{INDEX}: 'stages' should be a JSON object.")
    for stage, facts in stages.items():
        if stage not in STAGES + EXTRAS:
            raise PackError(f"{INDEX}: unknown stage {_short(stage)!r}; this version knows {', '.join(STAGES)}.")
        good = isinstance(facts, dict) and set(facts) == {"config", "files"}
        if not good or not isinstance(facts["config"], dict) or not isinstance(facts["files"], list):
            raise PackError(f"{INDEX}: stage {stage} needs a config and a list of files, and nothing else.")
        for file in facts["files"]:
            if not isinstance(file, str) or file not in listed:
                raise PackError(f"{INDEX}: stage {stage} names {_short(str(file))!r}, which 'files' does not list.")


def _check_defaults(defaults: Any) -> None:
    if not isinstance(defaults, dict) or not all(isinstance(d, dict) for d in defaults.values()):
        raise PackError(f"{INDEX}: 'defaults' should hold a JSON object for each stage.")
    for stage, values in defaults.items():
        for key, value in values.items():
            good = isinstance(value, str) or (isinstance(value, (int, float)) and math.isfinite(value))
            if not good:
                raise PackError(f"{INDEX}: the default {_short(stage)}.{_short(key)} should be a number or a name.")


def _check_file(path: Path, facts: dict[str, Any]) -> None:
    try:
        size = path.stat().st_size
        if size != facts["bytes"]:
            what = "cut short" if size < facts["bytes"] else "longer than it should be"
            raise PackError(f"{path.name}: {what} ({size:,} bytes of {facts['bytes']:,}). Fetch the pack again.")
        data = path.read_bytes()
    except FileNotFoundError:
        raise PackError(f"{path.name}: missing from {path.parent}. Fetch the pack again.") from None
    except OSError as fault:
        raise PackError(f"{path.name}: cannot be read ({fault.strerror}).") from fault
    _refuse_pickle(path.name, data[:4])
    if hashlib.sha256(data).hexdigest() != facts["sha256"]:
        raise PackError(f"{path.name}: damaged, its SHA-256 is not the one in {INDEX}. Fetch the pack again.")


def _refuse_pickle(name: str, head: bytes) -> None:
    if head[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05") or head[:4] == b"PK\x03\x04":
        raise PackError(f"{name}: a Python pickle under another name. Pickles can run code and are never opened.")


def _read_shard(path: Path) -> dict[str, Tensor]:
    try:
        tensors = safetensors.torch.load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as fault:
        raise PackError(f"{path.name}: not a safetensors file ({_short(str(fault))}). Fetch the pack again.") from fault
    for key, tensor in tensors.items():
        # A sum is finite only if its terms are, and is much faster than looking at each.
        if tensor.is_floating_point() and not math.isfinite(tensor.sum(dtype=torch.float64)):
            raise PackError(f"{path.name}: {key} holds weights that are not finite numbers. Fetch the pack again.")
    return tensors


def fill(module: torch.nn.Module, tensors: Mapping[str, Tensor], where: str) -> None:
    """Give a module its weights in place, whatever the dtype stored. Raises PackError on a wrong key or shape."""
    wanted = module.state_dict()
    check_shapes(wanted, tensors, where)
    module.load_state_dict(dict(tensors))


def check_shapes(wanted: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Raises PackError that names the first missing, unknown or misshapen tensor."""
    if missing := sorted(set(wanted) - set(tensors)):
        raise PackError(f"{where}: {len(missing)} weights are missing, the first is {missing[0]!r}.")
    if unknown := sorted(set(tensors) - set(wanted)):
        raise PackError(f"{where}: {len(unknown)} weights do not belong to it, the first is {_short(unknown[0])!r}.")
    for key, tensor in tensors.items():
        if tensor.shape != wanted[key].shape:
            have, want = tuple(tensor.shape), tuple(wanted[key].shape)
            raise PackError(f"{where}: {key!r} has the shape {have}, but its config asks for {want}.")


# ---- writing ----


def write_pack(
    folder: str | Path,
    *,
    name: str,
    licence: str,
    attribution: str,
    stages: Mapping[str, tuple[Any, Mapping[str, Tensor]]],
    defaults: Mapping[str, Mapping[str, Any]],
) -> Path:
    """Write a pack whole: beside the target first, then in its place, so that a crash leaves the old one.

    stages: name -> (config: dataclass or dict, state dict). The extra stage "pca" has the config {} and the tensors
    mean [D], components [D, D], explained [D].
    """
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    listed, described = {}, {}
    for stage, (config, state) in stages.items():
        names = []
        for number, shard in enumerate(_shards(stage, state)):
            file = partial / f"{stage}-{number:03d}.safetensors"
            safetensors.torch.save_file(shard, file)
            file.chmod(0o644)  # safetensors writes for the owner alone
            digest = hashlib.sha256(file.read_bytes()).hexdigest()
            listed[file.name] = {"bytes": file.stat().st_size, "sha256": digest}
            names.append(file.name)
        plain = config_to_dict(config) if is_dataclass(config) else dict(config)
        described[stage] = {"config": plain, "files": names}
    index = {
        "schema": SCHEMA,
        "name": name,
        "licence": licence,
        "attribution": attribution,
        "defaults": {stage: dict(values) for stage, values in defaults.items()},
        "stages": described,
        "files": listed,
    }
    (partial / INDEX).write_text(json.dumps(index, indent=1, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    read_pack(partial)  # never put in place what could not be read back
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def update_pack(
    folder: str | Path,
    stages: Mapping[str, tuple[Any, Mapping[str, Tensor]]],
    defaults: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Put new stages into a pack, or in place of old ones; everything else stays as it was."""
    pack = read_pack(folder)
    kept = {stage: (pack.config(stage), pack.tensors(stage)) for stage in pack.stages if stage not in stages}
    return write_pack(
        folder,
        name=pack.name,
        licence=pack.licence,
        attribution=pack.attribution,
        stages={**kept, **stages},
        defaults={**pack.defaults, **(defaults or {})},
    )


def _shards(stage: str, state: Mapping[str, Tensor]) -> list[dict[str, Tensor]]:
    """Tensors as they are stored, in as many dictionaries as the size of a file asks for."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key in sorted(state):
        tensor = _stored(state[key])
        if not bool(torch.isfinite(tensor).all()):
            raise PackError(f"{stage}: {key} holds numbers that are not finite, so it cannot be packed.")
        weight = tensor.numel() * tensor.element_size() + 200  # 200: its line in the file's header
        if weight > SHARD_BYTES:
            raise PackError(f"{stage}: {key} alone is larger than a pack's file may be ({weight:,} bytes).")
        if size + weight > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][key] = tensor
        size += weight
    return shards


def _stored(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    if tensor.is_floating_point():
        tensor = tensor.to(torch.bfloat16 if tensor.numel() > SMALL else torch.float32)
    return tensor.contiguous().clone()


def _short(text: str) -> str:
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 80 else text[:77] + "..."
