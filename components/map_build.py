"""Makes the map of a pack's CLIP space: `python -m components.map_build --pack pocket --data data/corpus`.

Needs umap-learn and scikit-learn. Skin tones are left out, and so is the held-out style, whose licence is share-alike.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save_file
from tqdm import tqdm

from components.map_data import FULL, SCHEMA, SHIPPED, fingerprint, linear_layout, unit
from unclip_core import UnCLIP
from unclip_core.corpus.captions import STYLE_NAMES
from unclip_core.corpus.shards import decode_picture, read_shards
from unclip_core.corpus.sources import HELD_OUT_STYLE
from unclip_core.latents import PCA

SIDE, COLUMNS = 56, 32  # a small picture, and how many stand in a row of a sheet (as many rows)
LAYOUTS = ("umap2", "tsne2", "pca2", "umap3", "tsne3", "pca3")


def read_pictures(data: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """Single drawings of the training set in an order drawn once, so that any first part of them is a fair sample."""
    rows = [row for row in read_shards(data / "train" / "singles") if not row["tone"]]
    rows = [row for row in rows if row["style"] != HELD_OUT_STYLE.style]
    np.random.default_rng(0).shuffle(rows)
    return rows[:limit]


def encode(model: UnCLIP, rows: list[dict[str, Any]], batch: int = 64) -> np.ndarray:
    """The pictures' embeddings [N, D] float32."""
    parts = []
    for start in tqdm(range(0, len(rows), batch), desc="encoding", disable=None):
        pictures = [Image.fromarray(decode_picture(row["picture"], 128)) for row in rows[start : start + batch]]
        with torch.inference_mode():
            parts.append(model.encode_image(pictures).cpu().float().numpy())
    return np.concatenate(parts)


def lay_out(name: str, z: np.ndarray, pca: PCA) -> tuple[np.ndarray, dict[str, Any]]:
    """One layout of z [N, D] -> (places [N, d] within [-1, 1], what `MapData` must know to place more)."""
    method, dims = name[:-1], int(name[-1])
    if method == "pca":
        made = linear_layout(z, pca.mean.cpu().numpy(), pca.components[:dims].cpu().numpy())
        facts = {key: getattr(made, key).tolist() for key in ("mean", "basis", "centre")}
        return made.place(z), {**facts, "radius": made.radius}
    reduced = (unit(z) - unit(z).mean(0)) @ pca.components[:50].cpu().numpy().T
    if method == "tsne":
        from sklearn.manifold import TSNE

        places = TSNE(dims, metric="cosine", init="pca", perplexity=30, random_state=0).fit_transform(reduced)
    else:
        from umap import UMAP

        places = UMAP(n_components=dims, metric="cosine", n_neighbors=15, min_dist=0.15, random_state=0).fit_transform(
            reduced
        )
    return _scaled(places.astype(np.float64)), {}


def _scaled(places: np.ndarray) -> np.ndarray:
    """Centred and scaled alike in every direction to [-1, 1]; the few farthest strays are drawn in to the rim."""
    low, high = np.quantile(places, 0.001, axis=0), np.quantile(places, 0.999, axis=0)
    return ((places - (low + high) / 2) / ((high - low).max() / 2)).clip(-1, 1)


def names_of(rows: list[dict[str, Any]]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Concepts, groups and styles, each told once, and every picture's number in those lists."""
    concepts, styles = {}, {}
    groups = sorted({row["group"] for row in rows})
    for row in rows:
        concept = {"en": row["label"], "ko": row["label_ko"], "group": groups.index(row["group"])}
        concepts.setdefault(row["concept"], concept)
        english, korean = STYLE_NAMES[row["style"]]
        styles.setdefault(row["style"], {"en": english, "ko": korean})
    codes, hands = list(concepts), list(styles)
    numbers = {
        "concept": np.array([codes.index(row["concept"]) for row in rows], np.uint16),
        "style": np.array([hands.index(row["style"]) for row in rows], np.uint8),
    }
    return {"concepts": list(concepts.values()), "styles": list(styles.values()), "groups": groups}, numbers


def write_sheets(out: Path, rows: list[dict[str, Any]]) -> int:
    """Small pictures in reading order on sheets of COLUMNS x COLUMNS; returns the number of sheets."""
    per_sheet = COLUMNS**2
    for start in range(0, len(rows), per_sheet):
        sheet = Image.new("RGB", (COLUMNS * SIDE, COLUMNS * SIDE), "white")
        for i, row in enumerate(rows[start : start + per_sheet]):
            place = (i % COLUMNS * SIDE, i // COLUMNS * SIDE)
            sheet.paste(Image.fromarray(decode_picture(row["picture"], SIDE)), place)
        sheet.save(out / f"thumbs-{start // per_sheet}.webp", "WEBP", quality=62, method=6)
    return -(-len(rows) // per_sheet)


def write_map(
    out: Path, z: np.ndarray, probe: np.ndarray, layouts: dict[str, tuple[np.ndarray, dict]], names: dict[str, Any],
    numbers: dict[str, np.ndarray], sheets: int = 0,
) -> None:  # fmt: skip
    """Everything but the sheets, into the folder `out`."""
    scale = (np.abs(z).max(0) / 127).clip(1e-12).astype(np.float32)
    places = {name: (made[0] * FULL).clip(-FULL, FULL).round().astype(np.int16) for name, made in layouts.items()}
    save_file({**places, **numbers}, out / "points.safetensors")
    embeddings = {
        "values": (z / scale).round().astype(np.int8),
        "scale": scale,
        "fingerprint": probe.astype(np.float32),
    }
    save_file(embeddings, out / "embeddings.safetensors")
    facts = {
        "schema": SCHEMA, "count": len(z), "side": SIDE, "columns": COLUMNS, "sheets": sheets,
        "layouts": {name: made[1] for name, made in layouts.items()}, **names,
    }  # fmt: skip
    (out / "map.json").write_text(json.dumps(facts, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")


def build(pack: str, data: Path, out: Path, layouts: tuple[str, ...] = LAYOUTS, limit: int | None = None) -> None:
    """The whole map, made beside `out` and then put in its place. Raises UnclipError."""
    model = UnCLIP.load(pack)
    rows = read_pictures(data, limit)
    z = encode(model, rows)
    pca = model.pca if model.has("pca") else PCA.fit(torch.from_numpy(z))
    made = {name: lay_out(name, z, pca) for name in tqdm(layouts, desc="laying out", disable=None)}
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    names, numbers = names_of(rows)
    write_map(partial, z, fingerprint(model), made, names, numbers, write_sheets(partial, rows))
    for path in partial.iterdir():
        path.chmod(0o644)
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m components.map_build", description="Make the map of CLIP space.")
    parser.add_argument("--pack", default="pocket", help="a pack's name or folder")
    parser.add_argument("--data", type=Path, default=Path("data/corpus"), help="the corpus's folder")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--layouts", nargs="+", choices=LAYOUTS, default=LAYOUTS)
    parser.add_argument("--limit", type=int, help="only so many pictures")
    options = parser.parse_args()
    build(options.pack, options.data, options.out, tuple(options.layouts), options.limit)


if __name__ == "__main__":
    main()
