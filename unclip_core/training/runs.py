"""Finished (or unfinished) runs: their averaged weights as networks, and all of them together as a pack.

``python -m unclip_core pack --runs runs --out assets/packs/pocket``
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from unclip_core.clip import Clip
from unclip_core.configs import config_from_dict
from unclip_core.errors import UnclipError
from unclip_core.latents import PCA
from unclip_core.loading import STAGES, build_stage
from unclip_core.packs import find_pack, read_pack, write_pack

if TYPE_CHECKING:
    from unclip_core.training.data import ImageText

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


def make_pack(
    runs: Path,
    data: Path,
    out: Path,
    base: str | None = None,
    defaults: dict | None = None,
    pull: float | None = None,
) -> Path:
    """Writes a pack of every stage that `runs` has (others from the pack `base`), with the PCA of the training
    pictures' embeddings and the corpus's attribution, or where nothing was trained the base's. pull: see `knowing`."""
    from unclip_core.training.data import load_split
    from unclip_core.training.stages import encode_pictures

    old = read_pack(find_pack(base)) if base else None
    stages, trained = {}, [stage for stage in STAGES if (runs / stage / "last.pt").exists()]
    for stage in STAGES:
        if stage in trained:
            stages[stage] = averaged(runs, stage)
        elif old and old.has(stage):
            stages[stage] = (old.config(stage), old.tensors(stage))
    if "clip" in trained:
        pca = PCA.fit(encode_pictures(load_clip(runs), load_split(data, 64)))
        stages["pca"] = ({}, {"mean": pca.mean, "components": pca.components, "explained": pca.explained})
    elif old:
        stages["pca"] = ({}, old.tensors("pca"))
    if "decoder" in stages:
        config, weights = stages["decoder"]
        learned_anew = bool({"clip", "decoder"} & set(trained))  # so what it knows is no longer what it learned on
        if pull is not None or (learned_anew and config.get("pull")):
            stages["decoder"] = knowing(config, weights, load_clip(runs, base), load_split(data, 64), pull)
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
        attribution=credit if trained or old is None else old.attribution,
        stages=stages,
        defaults=defaults or (old.defaults if old else {}),
    )


def knowing(
    config: dict, weights: dict[str, Tensor], clip: Clip, data: ImageText, pull: float | None
) -> tuple[dict, dict[str, Tensor]]:
    """A decoder's (config, weights) that keep the embeddings of the pictures it learned on and pull z_i towards them
    (None: as far as before; 0: not at all, and they are left out). Raises UnclipError for a pull that is no share."""
    from unclip_core.training.stages import encode_pictures

    pull = config["pull"] if pull is None else pull
    if not 0 <= pull <= 1:
        raise UnclipError(f"--pull is a share from 0 to 1, not {pull}.")
    weights = {name: value for name, value in weights.items() if name != "z_i_known"}
    if not pull:
        return {**config, "known": 0, "pull": 0.0}, weights
    z_i = encode_pictures(clip, data, torch.tensor(worth_knowing(data.fields)))
    return {**config, "known": len(z_i), "pull": pull}, {**weights, "z_i_known": z_i}


def worth_knowing(fields: list[dict], most: int = 16_384) -> list[int]:
    """Rows of the pictures whose embeddings a decoder keeps: plain drawings first, then composed pictures, evenly."""
    plain = [i for i, row in enumerate(fields) if row.get("kind", "single") == "single"][:most]
    composed = [i for i, row in enumerate(fields) if row.get("kind", "single") != "single"]
    room = min(most - len(plain), len(composed))
    return plain + [composed[i * len(composed) // room] for i in range(room)]


def main(arguments: list[str] | None = None) -> None:
    """The command line: ``python -m unclip_core pack``."""
    parser = argparse.ArgumentParser(prog="python -m unclip_core pack", description="Make a pack of trained stages.")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--data", type=Path, default=Path("data/corpus"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--base", help="a pack to take the stages from that RUNS lacks")
    parser.add_argument("--defaults", type=Path, help="a JSON file: steps, guidance and sampler for each stage")
    parser.add_argument(
        "--pull",
        type=float,
        help="let the decoder keep embeddings of training pictures and move z_i so far towards them, from 0 to 1",
    )
    options = parser.parse_args(arguments)
    defaults = json.loads(options.defaults.read_text()) if options.defaults else None
    print(make_pack(options.runs, options.data, options.out, options.base, defaults, options.pull))
