"""The map of CLIP space as it ships in assets/map: where corpus pictures lie, what they are, and their embeddings.

Letters: N pictures of the corpus, D embedding width, B embeddings asked about. Files: `map.json` (names, counts, how
each layout was scaled), `points.safetensors` (read by the page too: int16 places, concept, style),
`embeddings.safetensors` (int8 by dimension, and the fingerprint of the CLIP they came from) and `thumbs-*.webp` (sheets
of small pictures).
`python -m components.map_build` makes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load_file

from unclip_core import UnCLIP
from unclip_core.errors import RequestError, UnclipError
from unclip_core.latents import PCA

SHIPPED = Path(__file__).parent.parent / "assets" / "map"
FOLDER = Path(os.environ.get("UNCLIP_MAP") or SHIPPED)  # a pack of one's own has a map of its own
SCHEMA = 1
FULL = 32767  # a place of 1.0 as int16
NEAREST = 10  # neighbours that say where a new embedding lies
PROBES = ("a red apple", "a smiling face", "고양이", "two squares above a circle")


def unit(z: np.ndarray) -> np.ndarray:
    """Rows [..., D] scaled to length one."""
    return z / np.linalg.norm(z, axis=-1, keepdims=True).clip(1e-12)


def fingerprint(model: UnCLIP) -> np.ndarray:
    """What a CLIP makes of four captions and a fixed picture -> unit rows [5, D]: tells one CLIP from another."""
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    picture = np.stack([np.tile(ramp, (64, 1)), np.tile(ramp[:, None], (1, 64)), np.full((64, 64), 90, np.uint8)], -1)
    text = model.encode_text(PROBES).pooled
    image = model.encode_image([Image.fromarray(picture)])
    return unit(np.concatenate([text.cpu().float().numpy(), image.cpu().float().numpy()]))


@dataclass(frozen=True)
class Linear:
    """A layout that is a projection, exact for any embedding. basis [d, D]; centre [d] and radius scale it."""

    mean: np.ndarray
    basis: np.ndarray
    centre: np.ndarray
    radius: float

    def place(self, z: np.ndarray) -> np.ndarray:
        """z [B, D] -> [B, d]."""
        return ((z - self.mean) @ self.basis.T - self.centre) / self.radius


@dataclass(frozen=True)
class Nearby:
    """A layout known at the corpus's pictures only (t-SNE, UMAP): a new embedding lies amid its nearest neighbours.

    directions [N, D] unit; places [N, d].
    """

    directions: np.ndarray
    places: np.ndarray

    def place(self, z: np.ndarray) -> np.ndarray:
        """z [B, D] -> [B, d]: a weighted median of the neighbours' places, which keeps to the larger group of them
        where they lie apart; a picture of the corpus itself lies exactly where it is."""
        cosines = unit(z) @ self.directions.T
        k = min(NEAREST, cosines.shape[1])
        found = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        return np.stack([self._amid(cosines[row, found[row]], self.places[found[row]]) for row in range(len(z))])

    @staticmethod
    def _amid(cosines: np.ndarray, places: np.ndarray) -> np.ndarray:
        best = cosines.max()
        if best > 0.9995:
            return places[cosines.argmax()]
        weights = np.exp((cosines - best) / max(0.35 * (1 - best), 1e-6))
        middle = (weights[:, None] * places).sum(0) / weights.sum()
        for _ in range(12):  # Weiszfeld's iteration
            pull = weights / np.linalg.norm(places - middle, axis=1).clip(1e-4)
            middle = (pull[:, None] * places).sum(0) / pull.sum()
        return middle


def linear_layout(z: np.ndarray, mean: np.ndarray, basis: np.ndarray) -> Linear:
    """The projection of z [N, D] on basis [d, D], scaled so that nearly all of it lies within [-1, 1]."""
    flat = (z - mean) @ basis.T
    low, high = flat.min(0), flat.max(0)
    return Linear(mean, basis, (low + high) / 2, float(max((high - low).max() / 2, 1e-6)))


def axis_layout(z: np.ndarray, z_from: np.ndarray, z_to: np.ndarray) -> Linear:
    """Across: how far z [N, D] lies on the way from one caption's embedding [D] to another's; up: the widest spread of
    what remains. Raises RequestError if the captions mean the same."""
    way = unit(z_to) - unit(z_from)
    if np.linalg.norm(way) < 1e-5:
        raise RequestError("The two captions mean the same to CLIP: change one of them.", "captions_same")
    way = unit(way)
    mean = z.mean(0)
    rest = z - mean
    rest = rest - np.outer(rest @ way, way)
    _, vectors = np.linalg.eigh(rest.T @ rest)  # rising
    up = vectors[:, -1] - (vectors[:, -1] @ way) * way
    return linear_layout(z, mean, np.stack([way, unit(up)]))


class MapData:
    """The map's pictures: embeddings, places in every layout, names. Read-only and shared by every visitor."""

    def __init__(self, facts: dict[str, Any], points: dict[str, np.ndarray], embeddings: dict[str, np.ndarray]) -> None:
        self.facts = facts
        self.points = points
        self.probe = embeddings["fingerprint"]
        self.z = embeddings["values"].astype(np.float32) * embeddings["scale"]
        self.directions = unit(self.z)
        self.layouts = {name: self._layout(name, made) for name, made in facts["layouts"].items()}

    @classmethod
    def load(cls, folder: Path = FOLDER) -> MapData | None:
        """The map in a folder, or None if there is none. Raises UnclipError if it is damaged."""
        if not (folder / "map.json").is_file():
            return None
        try:
            facts = json.loads((folder / "map.json").read_text(encoding="utf-8"))
            if facts["schema"] != SCHEMA:
                raise ValueError("it was made by another version")
            return cls(facts, load_file(folder / "points.safetensors"), load_file(folder / "embeddings.safetensors"))
        except (OSError, KeyError, ValueError, SafetensorError) as fault:
            raise UnclipError(f"The map in {folder} cannot be read ({fault}). Make it again.") from fault

    def _layout(self, name: str, made: dict[str, Any]) -> Linear | Nearby:
        if "basis" in made:
            fields = {key: np.asarray(made[key], np.float32) for key in ("mean", "basis", "centre")}
            return Linear(**fields, radius=made["radius"])
        return Nearby(self.directions, self.points[name].astype(np.float32) / FULL)

    def fits(self, model: UnCLIP) -> bool:
        """Whether the embeddings came from this model's CLIP."""
        if model.stages["clip"].embed_dim != self.probe.shape[1]:
            return False
        try:
            own = fingerprint(model)
        except RequestError:  # published weights may come without an image encoder
            return False
        return bool(((own * self.probe).sum(1) > 0.99).all())

    def __len__(self) -> int:
        return len(self.z)

    def about(self, index: int) -> dict[str, str]:
        """What a picture shows, and in whose hand."""
        concept = self.facts["concepts"][self.points["concept"][index]]
        return {
            "label": concept["en"],
            "label_ko": concept["ko"],
            "style": self.facts["styles"][self.points["style"][index]]["en"],
        }

    def lift(self, layout: str, at: Sequence[float]) -> np.ndarray:
        """A place on the map [d] -> an embedding [D]: its nearest pictures' mean, weighted by nearness.

        At a picture it is that picture's own. Raises RequestError for a layout or a place the map does not have.
        """
        if layout not in self.layouts or len(at) != int(layout[-1]):
            raise RequestError("The map has no such point: click one on it.", "map_no_point")
        away = np.linalg.norm(self.points[layout].astype(np.float32) / FULL - np.asarray(at, np.float32), axis=1)
        found = np.argpartition(away, 5)[:6] if len(away) > 6 else np.arange(len(away))
        weights = 1 / (away[found] ** 2 + (away[found].min() * 0.5) ** 2 + 1e-9)
        weights /= weights.sum()
        length = (weights * np.linalg.norm(self.z[found], axis=1)).sum()
        return unit((weights[:, None] * self.directions[found]).sum(0)) * length

    def neighbours(self, z: np.ndarray, count: int) -> list[tuple[int, float]]:
        """The pictures whose embeddings point most like z [D]: (index, cosine), nearest first."""
        cosines = self.directions @ unit(z)
        return [(int(i), float(cosines[i])) for i in np.argsort(-cosines)[:count]]


def session_layouts(z: np.ndarray, pca: PCA | None) -> dict[str, Linear]:
    """Where there is no map: the session's own pictures z [N, D] by the pack's principal components, else their own."""
    if pca is None:
        _, vectors = np.linalg.eigh(np.cov(z.T) if len(z) > 1 else np.eye(z.shape[1]))
        mean, components = z.mean(0), vectors[:, ::-1].T.copy()
    else:
        mean, components = pca.mean.cpu().numpy(), pca.components.cpu().numpy()
    return {f"pca{d}": linear_layout(z, mean, components[:d]) for d in (2, 3)}
