"""Examples that answer at once: results made beforehand and shipped, never made at start.

`python -m components.examples [--pack pocket]` makes them again.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr

from components.controls import PLUMBING, guarded
from components.engine import Engine
from components.shelf import Shelf

FOLDER = Path(__file__).parent.parent / "assets" / "examples" / "create"
PROMPTS = {
    "en": ["a red apple", "smiling face with sunglasses", "a cat face", "a slice of pizza"],
    "ko": ["빨간 사과", "선글라스를 쓰고 웃는 얼굴", "고양이 얼굴", "피자 한 조각"],
}


@cache
def shipped() -> list[dict[str, Any]]:
    """The shipped results, each {"lang", "request", "strip", "viewer", "file"}; none if they have not been made."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))]


def chips() -> gr.HTML:
    """A row of captions in the page's language; a click shows the shipped result at once."""
    offered = [
        {"index": i, "lang": one["lang"], "prompt": one["request"]["prompt"]} for i, one in enumerate(shipped())
    ]
    return gr.HTML(
        value=offered, html_template="<div class='chips'></div>", js_on_load="unclip.chips(element, props, trigger); 'pick'",
        apply_default_css=False, elem_id="examples", visible=bool(offered),
    )  # fmt: skip


def wire(
    row: gr.HTML, engine: Engine, shelf: Shelf, fields: dict[str, gr.components.Component], line: gr.HTML, result: gr.HTML
) -> None:
    """Answer a click on a chip: the request's fields, the strip and the picture, with no model at work."""

    @guarded
    def pick(items: list[dict[str, Any]], event: gr.EventData) -> tuple[Any, ...]:
        example = shipped()[int(event._data["index"]) % len(shipped())]
        values = [example["request"].get(name) for name in fields]
        return (*values, example["strip"], example["viewer"])

    row.pick(pick, shelf.items, [*fields.values(), line, result], queue=False, **PLUMBING)
