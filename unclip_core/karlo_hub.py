"""Finding the published Karlo weights on this machine, or fetching them from the Hub once, at a pinned revision.

The first fetch asks the Hub which commit its main branch is at and writes that down; from then on that commit, by its
40 hex digits, is the only one read, unless another is asked for: "karlo@<40 hex digits>". Nothing but safetensors, JSON
and the tokenizer's merges is fetched, nothing is converted, and no code of theirs runs.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

from unclip_core.errors import PackError

NAME = "karlo"
TEXT_TO_IMAGE = "kakaobrain/karlo-v1-alpha"
VARIATIONS = "kakaobrain/karlo-v1-alpha-image-variations"  # has the image encoder, which the other lacks
NETWORKS = {  # what is taken from each repository
    TEXT_TO_IMAGE: ("text_encoder", "prior", "text_proj", "decoder", "super_res_first", "super_res_last"),
    VARIATIONS: ("image_encoder",),
}
_FILES = ("config.json", "model.safetensors", "diffusion_pytorch_model.safetensors")
_BESIDE = {
    TEXT_TO_IMAGE: (
        "model_index.json",
        "tokenizer/*.json",
        "tokenizer/merges.txt",
        "*_scheduler/scheduler_config.json",
    ),
    VARIATIONS: ("feature_extractor/*.json",),
}
PATTERNS = {
    repository: [*_BESIDE[repository], *(f"{network}/{file}" for network in networks for file in _FILES)]
    for repository, networks in NETWORKS.items()
}
GIGABYTES = 15  # about: 3,700 million float32 numbers, image encoder included


def is_name(pack: str | Path) -> bool:
    """ "karlo", or "karlo@" and a commit."""
    return str(pack) == NAME or str(pack).startswith(NAME + "@")


def find(pack: str, shipped: Path) -> tuple[Path, Path | None]:
    """The name -> (text-to-image folder, folder with the image encoder or None), fetched if need be.

    shipped: where packs put by hand stand. Raises PackError that says what to download, where it was looked for, and
    how to go on without a network.
    """
    revision = str(pack).partition("@")[2] or None
    if revision is not None and not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise PackError("After 'karlo@' comes a commit of the weights' repository: its 40 hex digits, in full.")
    by_hand = shipped / NAME
    if revision is None and (by_hand / "decoder").is_dir():
        return by_hand, None
    folders = {}
    for repository, wanted in ((TEXT_TO_IMAGE, revision), (VARIATIONS, None)):
        folders[repository] = _snapshot(repository, wanted)
    if folders[TEXT_TO_IMAGE] is None:
        raise PackError(_how_to(by_hand), "karlo_missing")
    return folders[TEXT_TO_IMAGE], folders[VARIATIONS]


def _how_to(by_hand: Path) -> str:
    cache = _cache() / ("models--" + TEXT_TO_IMAGE.replace("/", "--"))
    return (
        f"The Karlo weights are not on this machine and could not be fetched. What is needed: the repository "
        f"{TEXT_TO_IMAGE} of the Hugging Face Hub (about {GIGABYTES} GB) and, to read pictures, the folders "
        f"image_encoder and feature_extractor of {VARIATIONS}. Looked for: {by_hand} (put the repository's folders "
        f"there by hand), then {cache}. With a network, start again with '--pack karlo' and without HF_HUB_OFFLINE. "
        f"To go on offline: '--pack pocket', which needs no download, or '--pack FOLDER' with the weights' folder."
    )


def _cache() -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def _pins_file() -> Path:
    return _cache() / "unclip-explorer-pins.json"


def _pins() -> dict[str, str]:
    try:
        pins = json.loads(_pins_file().read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    good = isinstance(pins, dict) and all(re.fullmatch(r"[0-9a-f]{40}", str(pin)) for pin in pins.values())
    return pins if good else {}


def _pin(repository: str, revision: str) -> None:
    """Write down the commit. Where nothing can be written, the next start asks again."""
    path = _pins_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(_pins() | {repository: revision}, indent=1), "utf-8")
        partial.replace(path)
    except OSError:
        return


def _is_whole(folder: Path, repository: str) -> bool:
    """Whether a fetch came to its end: every network has its config and its weights."""
    return all(
        (folder / network / "config.json").is_file() and any((folder / network).glob("*.safetensors"))
        for network in NETWORKS[repository]
    )


def _snapshot(repository: str, revision: str | None) -> Path | None:
    """The repository's folder at the revision given, the pinned one, or the one now pinned to; None if not had."""
    import huggingface_hub as hub

    asked, revision = revision, revision or _pins().get(repository)
    options = {"repo_id": repository, "allow_patterns": PATTERNS[repository]}

    def had(folder: Path) -> Path:
        if asked is None:
            _pin(repository, revision or folder.name)
        return folder

    try:  # what is here already needs no network
        folder = Path(hub.snapshot_download(**options, revision=revision or "main", local_files_only=True))
        if _is_whole(folder, repository):
            return had(folder)
    except Exception:  # not here; the Hub's client raises many kinds
        pass
    try:
        revision = revision or hub.HfApi().model_info(repository).sha
        return had(Path(hub.snapshot_download(**options, revision=revision)))
    except Exception:  # no network, or no such repository any more
        return None
