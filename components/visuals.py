"""What the labs draw: a board of labelled pictures that fills as they come, and a line chart.

Labels made with `say` are looked up in the page, so that they follow the language switch.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import gradio as gr
from PIL import Image

from components.controls import badge, data_uri, file_data
from components.engine import Engine, Made
from components.strip import heat
from unclip_core.latents import Latent

Label = str | dict[str, Any]
PREVIEW_SIDE = 256


def say(key: str, **values: Any) -> dict[str, Any]:
    """A label for the page to look up in its present language; values fill the text's `{name}` places."""
    return {"key": key, "values": values}


def two_places(value: float) -> str:
    """A number for a label: 0.5 -> "0.50"."""
    return f"{value:.2f}"


class Board:
    """Rows and columns of pictures, as the value of `board()`, from "waiting" to files to download."""

    def __init__(self, engine: Engine, rows: Sequence[Label], columns: Sequence[Label] = ()) -> None:
        """rows, columns: what stands beside and above them; "" for nothing."""
        self.engine = engine
        self.run = uuid.uuid4().hex[:8]
        self._start = time.perf_counter()
        self.columns = list(columns)
        self.rows = [{"label": label, "cells": [None] * max(1, len(columns))} for label in rows]
        self.note: Label = ""
        self.feet: list[Label] = []  # below the columns, if anything
        self.more: dict[str, Any] = {}  # what else a drawing looks at

    def put(self, row: int, column: int, picture: Image.Image | Made | None, name: Label, **more: Any) -> None:
        """Fill a cell with a preview, or with a finished file. more: "note" below it, "share" done, "mark"."""
        shown: dict[str, Any] = {"name": name, **more}
        if isinstance(picture, Made):
            shown["file"] = file_data(picture.path)
        elif picture is not None:
            exact = picture.width <= 64 and "share" not in more  # no preview: shown as it is
            shown["src"] = data_uri(picture, PREVIEW_SIDE, quality=100 if exact else 86)
        self.rows[row]["cells"][column] = shown

    def put_embedding(self, row: int, column: int, latent: Latent, name: Label, **more: Any) -> None:
        """Fill a cell with the numbers of an embedding, coloured."""
        self.rows[row]["cells"][column] = {"name": name, "values": heat(latent.z_i[0]), **more}

    def value(self, phase: str = "running") -> dict[str, Any]:
        """What the page draws. phase: "running", or "done", which says how long it took."""
        shown = {"run": self.run, "phase": phase, "columns": self.columns, "rows": self.rows, "note": self.note}
        shown["feet"] = list(self.feet)
        if phase == "done":
            shown["badge"] = badge(self.engine, time.perf_counter() - self._start)
        return {**shown, **self.more}


def board(note: str = "", **options: Any) -> gr.HTML:
    """The component that draws a Board; `note` is the key of what stands there before anything does."""
    return drawn("board", note, **options)


def player(note: str = "", **options: Any) -> gr.HTML:
    """A Board's cells as frames to scrub through in the browser: a line of them, or with several rows a pad.

    Board.more may hold "ends": the names of the ends, or of the pad's corners.
    """
    return drawn("player", note, **options)


def drawn(name: str, note: str = "", **options: Any) -> gr.HTML:
    """A component drawn by `unclip.<name>` of assets/js, with a Board's value."""
    return gr.HTML(
        value={"phase": "idle", "columns": [], "rows": [], "note": say(note) if note else ""},
        html_template="<div></div>",
        js_on_load=f"unclip.{name}(element, props, watch)",
        apply_default_css=False,
        **options,
    )


def points(pairs: Iterable[tuple[float, float]]) -> str:
    """The points (x, y) of a chart's line, as text: "x,y x,y"."""
    return " ".join(f"{x:.4g},{y:.4f}" for x, y in pairs)


def chart(value: Any = None, **options: Any) -> gr.HTML:
    """A line chart; None draws nothing, labels are by `say`.

    Value: {"title", "x": {"label", "low", "high"}, "y": {"low", "high"}, "at": x of a marker or None,
    "lines": [{"label", "tint": "violet" | "coral" | "ink", "points": points(...)}]}.
    """
    return gr.HTML(
        value=value,
        html_template="<div></div>",
        js_on_load="unclip.chart(element, props, watch)",
        apply_default_css=False,
        **options,
    )
