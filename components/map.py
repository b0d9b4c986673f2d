"""Map: where do things live? The corpus and the session's pictures in CLIP space, to decode and to walk through.

The page holds the map's files and draws them itself; Python is asked only for what needs an embedding: neighbours, a
picture decoded from a point, a walk, an axis between two captions.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import plotly
import torch
from PIL import Image

from components.atlas import Atlas, along, place
from components.controls import (
    PLUMBING,
    RUN,
    Radio,
    Slider,
    badge,
    data_uri,
    endpoint,
    file_data,
    guarded,
    picture_input,
    run_and_stop,
    seed_input,
)
from components.engine import Engine
from components.i18n import text
from components.map_data import FOLDER
from components.shelf import Shelf
from unclip_core.errors import RequestError, UnclipError
from unclip_core.pictures import square
from unclip_core.request import Limit, checked, checked_number

PLOTLY = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
PREVIEWS = 4  # shown of one picture on its way
FRAMES = Limit("the number of pictures", 3, 24)
KEPT_SIDE = 256  # of a visitor's own picture


class MapView(gr.HTML):
    """The map. Value: {"map": the folder's address or null, "plotly", "notice": text key, "own", "at", "paths"}."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            html_template="<div class='map-frame'></div>",
            js_on_load="unclip.map.view(element, props, watch, trigger); 'ready'; 'point_click'; 'path_drawn'",
            apply_default_css=False,
            **options,
        )


def map_tab(engine: Engine, shelf: Shelf, folder: Path = FOLDER) -> None:
    """Build the lab and wire its events."""
    atlas = Atlas(engine, folder)
    gr.set_static_paths([folder, PLOTLY])
    with shelf.tab("map"):
        gr.Markdown(text("map.question"), elem_classes="question")
        with gr.Row(elem_id="map-tools"):
            search = gr.Textbox(
                placeholder=text("map.search"),
                label=text("map.search_label"),
                show_label=False,
                max_lines=1,
                elem_id="map-search",
            )
            choices = _choices()
        with gr.Row(elem_id="map-main"):
            with gr.Column(scale=8, min_width=320):
                view = MapView(value=_files(atlas), elem_id="map")
            with gr.Column(scale=5, min_width=300, elem_classes="sheet", elem_id="map-side"):
                card = _drawn("card", elem_id="map-card")
                decode, enough = run_and_stop("map.decode")
                with gr.Accordion(text("map.yours"), open=False, elem_classes="fold"):
                    own = picture_input("map.own_picture")
        with gr.Column(elem_classes="sheet", elem_id="map-walk"):
            film = _drawn("film", elem_id="map-film")
            with gr.Row(elem_id="map-axis"):
                start = gr.Textbox(
                    "", label=text("map.from"), placeholder=text("map.from_hint"), max_length=300, max_lines=1
                )
                end = gr.Textbox("", label=text("map.to"), placeholder=text("map.to_hint"), max_length=300, max_lines=1)
                lay = gr.Button(text("map.lay"), elem_classes="quiet")
                between = gr.Button(text("map.between"), elem_classes="quiet")
            with gr.Row(elem_id="map-run"):
                frames = Slider(FRAMES.low, FRAMES.high, value=9, step=1, label=text("map.frames"))
                sizes = [(f"{side} px", side) for side in engine.sizes() if side <= 256]
                size = Radio(sizes, value=sizes[-1][1] if sizes else None, label=text("map.size"))
                with gr.Column(min_width=200):
                    seed, _ = seed_input()
                go, stop = run_and_stop("map.walk")
        point, path = (gr.Textbox(elem_classes="unseen", label=name) for name in ("point", "path"))
        axis = _drawn("axisPart", elem_classes="unseen")
        endpoint(_search(atlas), "map_search", [gr.JSON(label="neighbours", render=False)])
    fields = {
        **choices, "point": point, "path": path, "from": start, "to": end, "frames": frames, "size": size, "seed": seed,
    }  # fmt: skip
    shelf.connect("map", fields, receives=own)

    lab = _Lab(engine, shelf, atlas)
    for name, widget in choices.items():
        widget.change(None, widget, None, js=f"(value) => unclip.map.set('{name}', value)", **PLUMBING)
    search.change(None, search, None, js="(value) => unclip.map.mark(value)", **PLUMBING)
    search.submit(None, search, point, js="(value) => value.trim() ? 'c:' + value : ''", **PLUMBING)
    for arrives in (view.ready, shelf.items.change):
        arrives(lab.own, [shelf.items, start, end], view, **PLUMBING)
    for chosen in (view.point_click, card.chosen):
        chosen(None, None, point, js="() => unclip.map.clicked", **PLUMBING)
    for edited in (view.path_drawn, card.added, film.edited):
        edited(None, None, path, js="() => unclip.map.path.join('|')", **PLUMBING)
    path.change(None, path, None, js="(value) => unclip.map.setPath(value)", **PLUMBING)
    inspecting = point.change(lab.inspect, [shelf.items, point, start, end], card, **PLUMBING)
    shelf.address(inspecting, "map")
    own.change(lab.place_own, [shelf.items, own], [shelf.items, point], **RUN)

    laying = lay.click(lab.lay, [start, end], [axis, choices["layout"]], **PLUMBING)
    laying.success(lab.own, [shelf.items, start, end], view, **PLUMBING)
    shelf.address(laying, "map")
    between.click(None, [start, end], path, js="(from, to) => unclip.map.captions(from, to)", **PLUMBING)

    decoding = decode.click(lab.decode, [shelf.items, point, size, seed, start, end], [card, shelf.items], **RUN)
    walking = go.click(lab.walk, [shelf.items, path, frames, size, seed, start, end], [film, shelf.items], **RUN)
    shelf.address(walking, "map")
    stop.click(None, film, film, js="unclip.map.halt", cancels=[walking], **PLUMBING)
    walking.failure(None, film, film, js="unclip.map.halt", **PLUMBING)
    enough.click(None, card, card, js="unclip.map.halt", cancels=[decoding], **PLUMBING)
    decoding.failure(None, card, card, js="unclip.map.halt", **PLUMBING)


def _choices() -> dict[str, Radio]:
    """How the map is drawn: the page answers these itself."""
    layouts = [(text(f"map.layout.{name}"), name) for name in ("umap", "tsne", "pca", "axis")]
    colours = [(text(f"map.colour.{name}"), name) for name in ("group", "style")]
    return {
        "layout": Radio(layouts, value="umap", label=text("map.layout"), elem_classes="segment", min_width=220),
        "dims": Radio([("2-D", 2), ("3-D", 3)], value=2, label=text("map.dims"), elem_classes="segment", min_width=100),
        "colour": Radio(colours, value="group", label=text("map.colour"), elem_classes="segment", min_width=130),
    }


def _files(atlas: Atlas) -> dict[str, Any]:
    """What the page loads, known before anyone asks: the map's address or why there is none, and Plotly's."""
    address = f"gradio_api/file={atlas.folder.resolve().as_posix()}/" if atlas.data else None
    return {"map": address, "plotly": f"gradio_api/file={PLOTLY.resolve().as_posix()}", "notice": atlas.notice}


def _drawn(part: str, **options: Any) -> gr.HTML:
    """A component that assets/js/map_*.js draws and that can say what was done in it."""
    return gr.HTML(
        value=None,
        html_template="<div></div>",
        js_on_load=f"unclip.map.{part}(element, props, watch, trigger); 'chosen'; 'added'; 'edited'",
        apply_default_css=False,
        **options,
    )


class _Lab:
    """The handlers. Nothing of a visitor stays here: the shelf and the fields come in with every event."""

    def __init__(self, engine: Engine, shelf: Shelf, atlas: Atlas) -> None:
        self.engine, self.shelf, self.atlas = engine, shelf, atlas

    @guarded
    def own(self, items: list, start: str, end: str) -> dict[str, Any]:
        """The map's address and the session's pictures on it."""
        try:
            session = self.atlas.session(items, _ends(start, end))
        except UnclipError:  # half-typed captions make no axis
            session = self.atlas.session(items)
        return {**_files(self.atlas), **session}

    def _card(self, items: list, point: str, start: str, end: str) -> tuple[dict[str, Any], np.ndarray]:
        z = self.atlas.find(point, items)
        at = place(z[None], self.atlas.layouts(items, _ends(start, end)))
        found = [one for one in self.atlas.neighbours(z, items) if one["point"] != point][:12]
        return {"point": point, "neighbours": found, "at": at}, z

    @guarded
    def inspect(self, items: list, point: str, start: str, end: str) -> dict[str, Any] | None:
        return self._card(items, point, start, end)[0] if point else None

    @guarded
    def place_own(self, items: list, path: str | None) -> tuple[Any, Any]:
        """A visitor's picture: onto the shelf, unless it came from there, and chosen on the map."""
        if not path:
            return gr.skip(), gr.skip()
        picture = self.engine.open(path)
        try:
            known = self.engine.read(path).get("id")
        except UnclipError:
            known = None
        if any(item["id"] == known and self.atlas.embedding_of(item) is not None for item in items):
            return gr.skip(), f"s:{known}"
        z = self.engine.model.encode_image([picture])
        made = self.engine.save([square(picture, KEPT_SIDE)], "map", {}, z_i=z)
        return self.shelf.add(items, made), f"s:{made[0].recipe['id']}"

    @guarded
    def lay(self, start: str, end: str) -> tuple[dict[str, Any], str]:
        """The map laid along the axis between two captions."""
        start, end = _ends(start, end)
        return {"from": start, "to": end, "places": self.atlas.axis_places(start, end)}, "axis"

    @guarded
    def decode(self, items: list, point: str, size: Any, seed: Any, start: str, end: str) -> Iterator[tuple[Any, Any]]:
        """The picture that the decoder draws from a point's embedding."""
        seed, size = checked("seed", seed), checked("size", size)
        card, z = self._card(items, point, start, end)
        if point.startswith("c:"):
            z = self.atlas.find(point, items, drawn=seed)
        began = time.perf_counter()
        for shown in self._pictures(z, size, seed):
            yield {**card, "decoded": {"src": data_uri(shown, 256)}, "phase": "running"}, gr.skip()
        request = {"point": point, "size": size, "seed": seed}
        made = self.engine.save([shown], "map", request, z_i=torch.from_numpy(z[None]))
        decoded = {"file": file_data(made[0].path), "badge": badge(self.engine, time.perf_counter() - began)}
        yield {**card, "decoded": decoded}, self.shelf.add(items, made)

    def _pictures(self, z: np.ndarray, size: int, seed: int) -> Iterator[Image.Image]:
        """z [D] decoded: some previews, the finished picture last."""
        steps = int(self.engine.default("decoder", "steps", 16))
        latent = torch.from_numpy(np.array(z[None]))
        for step in self.engine.model.decode_steps(latent, size, seed=seed, preview_every=max(1, steps // PREVIEWS)):
            if step.pictures:
                yield step.pictures[0]

    @guarded
    def walk(
        self, items: list, path: str, frames: Any, size: Any, seed: Any, start: str, end: str
    ) -> Iterator[tuple[Any, Any]]:
        """Pictures along a path, each shown as soon as it is made."""
        seed, size = checked("seed", seed), checked("size", size)
        frames = checked_number(FRAMES, frames, "map_frames")
        began, run = time.perf_counter(), uuid.uuid4().hex[:8]
        z = along(self.atlas.stops(path, items, seed), frames)
        film = {"run": run, "total": frames, "at": place(z, self.atlas.layouts(items, _ends(start, end)))}
        shown: list[dict[str, str]] = []
        pictures = []
        yield {**film, "frames": shown, "phase": "running"}, gr.skip()
        for row in z:
            for picture in self._pictures(row, size, seed):
                yield {**film, "frames": [*shown, {"src": data_uri(picture, 256)}], "phase": "running"}, gr.skip()
            pictures.append(picture)
            shown.append({"src": data_uri(picture, 256)})
        made = self.engine.save(
            pictures, "map", {"path": path, "frames": frames, "size": size, "seed": seed}, z_i=torch.from_numpy(z)
        )
        done = {**film, "frames": shown, "badge": badge(self.engine, time.perf_counter() - began)}
        yield done, self.shelf.add(items, made)


def _ends(start: str | None, end: str | None) -> tuple[str, str]:
    """The axis's captions as typed, "" where there is none."""
    return (start or "").strip(), (end or "").strip()


def _search(atlas: Atlas) -> Callable[[str], list[dict[str, Any]]]:
    def map_search(caption: str) -> list[dict[str, Any]]:
        """Find the pictures of the shipped corpus whose CLIP embeddings lie nearest to a caption's.

        Args:
            caption: what to look for, in English or Korean.
        """
        if atlas.data is None:
            raise RequestError("There is no map of this pack's CLIP space.", "map_absent")
        found = atlas.data.neighbours(atlas.find(f"c:{caption}", []), 24)
        return [{**atlas.data.about(index), "cosine": round(cosine, 4)} for index, cosine in found]

    return map_search
