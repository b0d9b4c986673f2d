"""What the pipeline strip shows: text -> CLIP -> prior -> z_i -> 64 -> 256 -> 1024, each cell with what it holds."""

from __future__ import annotations

import base64
import time
import uuid
from typing import Any

import gradio as gr
import torch

from components.controls import badge, data_uri, file_data
from components.engine import Engine, Made
from unclip_core.request import GenerateRequest

PICTURE_STAGES = {"decoder": 64, "upsampler_256": 256, "upsampler_1024": 1024}
PREVIEW_SIDE = 256


def strip(engine: Engine, value: dict[str, Any] | None = None) -> gr.HTML:
    """The strip's component, at rest unless it is given something to show."""
    return gr.HTML(
        value=value or {"phase": "idle", "cells": resting_cells(engine)},
        html_template="<div class='strip-frame'></div>",
        js_on_load="unclip.strip(element, props, watch)",
        apply_default_css=False,
        elem_id="strip",
    )


def resting_cells(engine: Engine) -> dict[str, dict[str, Any]]:
    """Every cell idle, or missing where the pack lacks the stage; one that something stands in for says so."""
    cells: dict[str, dict[str, Any]] = {name: {"state": "idle"} for name in ("text", "clip", "prior", "z_i")}
    if not (engine.has("prior") or engine.has("prior_ar")):
        cells["prior"] = {"state": "missing"}
    for name in PICTURE_STAGES:
        cells[name] = {"state": "idle" if engine.has(name) else "missing"}
    if engine.stand_in:
        cells["upsampler_1024"]["stand_in"] = engine.stand_in
    return cells


def heat(z: torch.Tensor) -> str:
    """An embedding [D], scaled by its own spread to -127..127, for the page to colour: D signed bytes in base64.

    Text, for Gradio's page copies every value it holds at every message, number by number.
    """
    z = z.float()
    spread = z.abs().quantile(0.95).clamp_min(1e-8)
    return base64.b64encode((z / spread).clamp(-1, 1).mul(127).round().to(torch.int8).cpu().numpy().tobytes()).decode()


class Progress:
    """One run's steps, gathered into what the strip and the viewer show."""

    def __init__(self, engine: Engine, request: GenerateRequest) -> None:
        self.engine, self.request = engine, request
        self.run = uuid.uuid4().hex[:8]
        self.frames: list[dict[str, Any]] = []
        self.z_i: torch.Tensor | None = None
        self.final: list[Any] = []
        self.seconds = 0.0
        self._start = self._stage_start = time.perf_counter()
        self._sent = 0.0
        self.cells = resting_cells(engine)
        self.cells["text"] = {"state": "done", "text": request.prompt}
        if request.prior in ("text", "caption"):
            self.cells["prior"] = {"state": "skipped"}
        if request.prior == "caption":
            self.cells["z_i"] = {"state": "skipped"}
        if self.cells["prior"]["state"] == "idle":
            self.cells["prior"]["kind"] = request.prior
        for name, size in PICTURE_STAGES.items():
            if size > request.size and self.cells[name]["state"] != "missing":
                self.cells[name] = {"state": "skipped"}
        self.pictures: list[dict[str, Any]] = []

    def take(self, step: Any) -> bool:
        """Note one step of the core; True where it is worth showing now (new pictures, a new stage, or 0.1 s later)."""
        now = time.perf_counter()
        cell = self.cells[step.stage] if self.cells[step.stage]["state"] != "skipped" else {}
        cell.update(state="on", index=step.index, total=step.total)
        if step.z_i is not None:
            self._embedding(step)
        if step.pictures:
            self._pictures(step)
        finished = step.index == step.total
        if finished:
            cell.update(state="done", seconds=round(now - self._stage_start, 2))
            self._stage_start = now
        self.seconds = now - self._start
        due = finished or bool(step.pictures) or now - self._sent > 0.1
        self._sent = now if due else self._sent
        return due

    def _embedding(self, step: Any) -> None:
        if step.stage == "clip":
            self.cells["clip"]["values"] = heat(step.z_i[0])
        elif step.stage == "prior":
            self.z_i = step.z_i
            state = "done" if step.index == step.total else "on"
            self.cells["z_i"] = {"state": state, "values": heat(step.z_i[0])}

    def _pictures(self, step: Any) -> None:
        shown = [data_uri(picture, PREVIEW_SIDE) for picture in step.pictures]
        pixels = step.stage == "decoder"
        self.cells[step.stage]["picture"] = shown[0]
        self.pictures = [{"src": src, "pixels": pixels} for src in shown]
        self.frames.append(
            {"stage": step.stage, "index": step.index, "total": step.total, "pictures": shown, "pixels": pixels}
        )
        self.final = step.pictures

    def strip(self, phase: str = "running") -> dict[str, Any]:
        """The strip's value."""
        return {"phase": phase, "run": self.run, "cells": self.cells}

    def viewer(self) -> dict[str, Any]:
        """The viewer's value while the run goes on."""
        return {"run": self.run, "pictures": self.pictures, "badge": badge(self.engine, self.seconds)}

    def result(self, made: list[Made]) -> dict[str, Any]:
        """The viewer's value at the end: files to download, frames to scrub through."""
        pixels = self.request.size == 64
        pictures = [{"file": file_data(one.path), "name": self.request.prompt, "pixels": pixels} for one in made]
        return {**self.viewer(), "pictures": pictures, "frames": self.frames}
