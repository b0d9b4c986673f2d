"""The tour: the paper's story in nine short chapters, each with what this pack made of it and a door to its lab."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from components import preflight, tour_data
from components.controls import PLUMBING, RUN, guarded
from components.engine import Engine
from components.i18n import lang_of
from components.page import header, translate_on_switch


def tour_page(demo: gr.Blocks, engine: Engine, talk: bool = False) -> None:
    """Add the page at /tour. Call it after the main page's `with gr.Blocks()` has closed. talk: with the preflight."""
    with demo.route("Tour", "/tour", show_in_navbar=False):
        bar = header()
        bar.link(None, None, None, js="() => unclip.copyHere()", **PLUMBING)
        view = gr.HTML(
            value=story(engine, talk),
            html_template="<div></div>",
            js_on_load="unclip.tour(element, props, watch, trigger); 'check'",
            apply_default_css=False,
            elem_id="tour",
        )
        checked = gr.HTML(
            value=None,
            html_template="<div></div>",
            js_on_load="unclip.tour.checks(element, props, watch)",
            apply_default_css=False,
            elem_id="tour-checks",
            visible=talk,
        )

        @guarded
        def check() -> Iterator[list[dict[str, Any]]]:
            found: list[dict[str, Any]] = []
            for one in preflight.checks(engine, lang_of()):
                found = [*found, one]
                yield found

        view.check(check, None, checked, **RUN)
        translate_on_switch(demo, bar)


def story(engine: Engine, talk: bool) -> dict[str, Any]:
    """What the page draws: chapters with their figures and doors, and the name of the pack that made the figures."""
    shipped = tour_data.shipped()
    made_by = shipped["pack"].get("name", "")
    return {
        "base": f"gradio_api/file={tour_data.FOLDER.resolve().as_posix()}/",
        "chapters": [
            {
                "name": chapter.name,
                "links": tour_data.links(chapter),
                "figure": shipped["figures"].get(chapter.name),
            }
            for chapter in tour_data.CHAPTERS
        ],
        "pack": made_by or engine.name,
        "talk": talk,
    }
