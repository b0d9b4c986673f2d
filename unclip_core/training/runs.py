"""Finished (or unfinished) runs: their averaged weights as networks, and all of them together as a pack.

``python -m unclip_core pack --runs runs --out assets/packs/pocket``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from unclip_core.clip import Clip
from unclip_core.configs import config_from_dict
from unclip_core.errors import UnclipError
from unclip_core.latents import PCA
from unclip_core.loading import STAGES, build_stage
from unclip_core.packs import find_pack, read_pack, write_pack

LICENCE = "Apache-2.0 (weights); trained on art under Apache-2.0, MIT and CC BY 4.0, see attribution"


def averaged(runs: Path, stage: str) -> tuple[dict, dict[str, Tensor]]:
    """(config, averaged weights) of a run's last checkpoint. Raises UnclipError where there is none."""
    path = Path(runs) / stage / "last.pt"
    if not path.exists():
        raise UnclipError(
            f"There is no trained {stage} at {path}. Train it first: python -m unclip_core train --stage {stage}."
        )
    state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    return state["configs"][stage], state["ema"]


def first(source: str, stage: str) -> tuple[dict, dict[str, Tensor]]:
    """(config, weights) that a stage starts from: the averaged ones of a folder of runs, or those of a pack."""
    if (Path(source) / stage / "last.pt").exists():
        return averaged(Path(source), stage)
    pack = read_pack(find_pack(source))
    return pack.config(stage), pack.tensors(stage)


def load_stage(runs: Path, stage: str, pack: str | None = None) -> nn.Module:
    """A stage with its averaged weights from `runs`, or where it has none, from the pack."""
    if pack and not (Path(runs) / stage / "last.pt").exists():
        return build_stage(read_pack(find_pack(pack)), stage)
    config, weights = averaged(runs, stage)
    config_class, module_class = STAGES[stage]
    extra = {"vocabulary": weights["vocabulary"]} if stage == "clip" else {}
    network = module_class(config_from_dict(config_class, config, stage), **extra)
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


def load_clip(runs: Path, pack: str | None = None) -> Clip:
    """The frozen CLIP that later stages train on."""
    return load_stage(runs, "clip", pack).to(memory_format=torch.channels_last)


def make_pack(runs: Path, data: Path, out: Path, base: str | None = None, defaults: dict | None = None) -> Path:
    """Writes a pack of every stage that `runs` has (others from the pack `base`), with the PCA of the training
    pictures' embeddings and the corpus's attribution."""
    from unclip_core.training.data import load_split
    from unclip_core.training.stages import encode_pictures

    old = read_pack(find_pack(base)) if base else None
    stages = {}
    for stage in STAGES:
        if (runs / stage / "last.pt").exists():
            stages[stage] = averaged(runs, stage)
        elif old and old.has(stage):
            stages[stage] = (old.config(stage), old.tensors(stage))
    if "clip" in stages and (runs / "clip" / "last.pt").exists():
        pca = PCA.fit(encode_pictures(load_clip(runs), load_split(data, 64)))
        stages["pca"] = ({}, {"mean": pca.mean, "components": pca.components, "explained": pca.explained})
    elif old:
        stages["pca"] = ({}, old.tensors("pca"))
    rows = json.loads((data / "corpus.json").read_text(encoding="utf-8"))["attribution"]
    credit = "; ".join(
        f"{r['name']} by {r['author']} ({r['licence']}, {r['package']})"
        for r in rows
        if r["used_for"] != "evaluation only"
    )
    return write_pack(
        out,
        name=out.name,
        licence=LICENCE,
        attribution=credit,
        stages=stages,
        defaults=defaults or (old.defaults if old else {}),
    )


def main(arguments: list[str] | None = None) -> None:
    """The command line: ``python -m unclip_core pack``."""
    parser = argparse.ArgumentParser(prog="python -m unclip_core pack", description="Make a pack of trained stages.")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, default=Path("data/corpus"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", help="a pack to take the stages from that RUNS lacks")
    parser.add_argument("--defaults", type=Path, help="a JSON file: steps, guidance and sampler for each stage")
    options = parser.parse_args(arguments)
    defaults = json.loads(options.defaults.read_text()) if options.defaults else None
    print(make_pack(options.runs, options.data, options.out, options.base, defaults))
