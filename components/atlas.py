"""What the Map lab asks of the core: embeddings behind the points people choose, and where embeddings lie.

A point is a short text, so that addresses and recipes can hold it: "p:12" a picture of the corpus, "u:umap2:0.1,-0.4"
any place of a layout, "s:1f0c…" a picture of the session's shelf, "c:a red apple" a caption. A path is points joined
by "|".
"""

from __future__ import annotations

import base64
import logging
import math
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components.engine import Engine
from components.map_data import FULL, Linear, MapData, Nearby, axis_layout, session_layouts, unit
from components.worker import on_worker
from components.worker import run as run_on_worker
from unclip_core.errors import RequestError, UnclipError
from unclip_core.latents import slerp
from unclip_core.request import checked_prompt

log = logging.getLogger("unclip")

NEIGHBOURS, MOST_STOPS, MOST_TEXT = 13, 12, 4000  # the first neighbour may be the point itself


class Atlas:
    """The shipped map beside a model. Holds nothing of any visitor."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine = engine
        self.folder = folder
        self.axis = lru_cache(8)(self._axis)

    @cached_property
    def _loaded(self) -> tuple[MapData | None, str]:
        try:
            data = MapData.load(self.folder)
        except UnclipError:
            log.exception("the map cannot be used")
            return None, "map.damaged"
        if data is None:
            return None, "map.absent"
        return (data, "") if run_on_worker(data.fits, self.engine.model) else (None, "map.other_pack")

    @property
    def data(self) -> MapData | None:
        """The map, if one ships and was made with this pack's CLIP."""
        return self._loaded[0]

    @property
    def notice(self) -> str:
        """Text key of why there is no map, or ""."""
        return self._loaded[1]

    # Points

    def find(self, point: str, items: list[dict[str, Any]], drawn: int | None = None) -> np.ndarray:
        """The embedding [D] behind a point. A caption's is CLIP's own, or with `drawn`, a seed, what the prior draws.

        Raises RequestError for what names no point, or none that this map or session has.
        """
        kind, _, rest = str(point).partition(":")
        if kind == "c":
            return self._caption(checked_prompt(rest), drawn)
        if kind == "s":
            return self._own(rest, items)
        if kind not in ("p", "u"):
            raise _no_point()
        if self.data is None:
            raise _no_map()
        if kind == "p":
            if not (rest.isascii() and rest.isdecimal()) or len(rest) > 9 or int(rest) >= len(self.data):
                raise _no_point()
            return self.data.z[int(rest)]
        layout, _, numbers = rest.partition(":")
        return self.data.lift(layout, _numbers(numbers))

    @on_worker
    def _caption(self, caption: str, drawn: int | None) -> np.ndarray:
        model = self.engine.model
        kind = next((kind for kind, stage in (("diffusion", "prior"), ("ar", "prior_ar")) if model.has(stage)), None)
        if drawn is None or kind is None:
            z = model.encode_text([caption]).pooled
        else:
            z = model.sample_prior(caption, kind=kind, seed=drawn)
        return z[0].cpu().float().numpy()

    def _own(self, wanted: str, items: list[dict[str, Any]]) -> np.ndarray:
        for item in items:
            if item["id"] == wanted and (z := self.embedding_of(item)) is not None:
                return z
        raise RequestError("That picture is no longer on the shelf.", "map_not_on_shelf")

    def embedding_of(self, item: dict[str, Any]) -> np.ndarray | None:
        """The embedding [D] in a shelf picture's recipe, if it holds one of this CLIP's width."""
        packed = item["recipe"].get("z_i")
        if not packed:
            return None
        z = np.frombuffer(base64.b64decode(packed), np.float32)
        return z if len(z) == self.engine.model.stages["clip"].embed_dim and np.isfinite(z).all() else None

    def stops(self, path: str, items: list[dict[str, Any]], seed: int) -> list[np.ndarray]:
        """The embeddings of a path's points, at least two. Raises RequestError."""
        points = [point for point in str(path or "")[:MOST_TEXT].split("|") if point]
        if len(points) < 2:
            raise RequestError("A path needs two points or more: add points, or draw one on the map.", "map_two_stops")
        if len(points) > MOST_STOPS:
            message = f"A path may have {MOST_STOPS} points at most."
            raise RequestError(message, "map_many_stops", most=MOST_STOPS)
        return [self.find(point, items, drawn=seed) for point in points]

    def neighbours(self, z: np.ndarray, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The corpus pictures and the session's own nearest to z [D]: [{"point", "cosine"}], nearest first."""
        found = []
        if self.data is not None:
            found = [{"point": f"p:{i}", "cosine": cosine} for i, cosine in self.data.neighbours(z, NEIGHBOURS)]
        for item in items:
            if (own := self.embedding_of(item)) is not None:
                found.append({"point": f"s:{item['id']}", "cosine": float(unit(own) @ unit(z))})
        return sorted(found, key=lambda one: -one["cosine"])[:NEIGHBOURS]

    # Places

    def layouts(self, items: list[dict[str, Any]], ends: tuple[str, str] = ("", "")) -> dict[str, Linear | Nearby]:
        """Every layout there is: the map's, and the axis between two captions if both are given.

        Without a map, those of the session's own pictures.
        """
        if self.data is None:
            own = [z for item in items if (z := self.embedding_of(item)) is not None]
            pca = self.engine.model.pca if self.engine.has("pca") else None
            return dict(session_layouts(np.stack(own), pca)) if own else {}
        axis = {"axis2": self.axis(*ends)} if all(ends) else {}
        return {**self.data.layouts, **axis}

    def _axis(self, start: str, end: str) -> Linear:
        captions = [checked_prompt(start), checked_prompt(end)]
        text = run_on_worker(self.engine.model.encode_text, captions).pooled.cpu().float().numpy()
        return axis_layout(self.data.z, text[0], text[1])

    def axis_places(self, start: str, end: str) -> str:
        """Every corpus picture's place on the axis between two captions: int16 pairs in base64.

        Raises RequestError where there is no map, for bad captions and for captions that mean the same.
        """
        if self.data is None:
            raise _no_map()
        places = self.axis(start, end).place(self.data.z)
        return base64.b64encode((places.clip(-1, 1) * FULL).round().astype("<i2").tobytes()).decode()

    def session(self, items: list[dict[str, Any]], ends: tuple[str, str] = ("", "")) -> dict[str, Any]:
        """The shelf's pictures on the map: {"own": [...], "at": places by layout, "paths": runs of several of them}."""
        shown = [(item, z) for item in items if (z := self.embedding_of(item)) is not None]
        own = [{"point": f"s:{item['id']}", "name": item["name"], "lab": item["recipe"]["lab"]} for item, _ in shown]
        at = place(np.stack([z for _, z in shown]), self.layouts(items, ends)) if shown else {}
        return {"own": own, "at": at, "paths": _paths([item for item, _ in shown])}


def place(z: np.ndarray, layouts: dict[str, Linear | Nearby]) -> dict[str, list[list[float]]]:
    """z [B, D] -> for each layout its places [B, d], rounded for the page."""
    return {name: layout.place(z).round(4).tolist() for name, layout in layouts.items()}


def along(stops: list[np.ndarray], count: int) -> np.ndarray:
    """`count` embeddings evenly along a path through `stops` [D], by spherical interpolation -> [count, D]."""
    points = torch.from_numpy(np.stack(stops)).float()
    made = []
    for place in np.linspace(0, len(stops) - 1, count):
        first = min(int(place), len(stops) - 2)
        made.append(slerp(points[first], points[first + 1], float(place - first)))
    return torch.stack(made).numpy()


def _paths(items: list[dict[str, Any]]) -> list[list[int]]:
    """Pictures of one run (a lab's walk, grid or strip), in the run's order, as numbers into `items`."""
    runs: dict[str, list[int]] = {}
    for number, item in enumerate(items):
        recipe = item["recipe"]
        if recipe["lab"] != "create":
            runs.setdefault(f"{recipe['lab']} {recipe['parents']} {recipe['request']}", []).append(number)
    for run in runs.values():
        run.sort(key=lambda number: items[number]["recipe"]["index"])
    return [run for run in runs.values() if len(run) > 1]


def _numbers(text: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or not all(math.isfinite(number) and abs(number) <= 4 for number in numbers):
        raise _no_point()
    return numbers


def _no_map() -> RequestError:
    return RequestError(
        "There is no map of this pack's CLIP space: only your own pictures can be chosen.", "map_absent"
    )


def _no_point() -> RequestError:
    return RequestError("The map has no such point: click one on it.", "map_no_point")
