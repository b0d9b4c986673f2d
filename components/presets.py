"""Things to try: a row of chips in the page's language, each of which fills a lab."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from components.controls import PLUMBING, guarded
from components.i18n import LANGUAGES
from components.subject import SubjectInputs, example_paths

Preset = Mapping[str, tuple[str, Mapping[str, Any]]]  # language -> (what the chip says, values of fields by name)


def presets(offered: Sequence[Preset]) -> Callable[..., Any]:
    """Draw the chips. Call what it returns once the lab's fields exist: that wires them."""
    row = gr.HTML(
        value=[{lang: one[lang][0] for lang in LANGUAGES} for one in offered],
        html_template="<div></div>",
        js_on_load="unclip.presets(element, props, trigger); 'pick'",
        apply_default_css=False,
    )

    def wire(fields: Mapping[str, gr.components.Component], inputs: SubjectInputs | None = None) -> Any:
        """Returns the event of a pick, for what shall follow it.

        Fields that a preset does not name stay as they are; the pictures of `inputs` become those of its "example".
        """
        pictures = [] if inputs is None else inputs.pictures

        @guarded
        def pick(event: gr.EventData) -> dict[Any, Any]:
            lang = event._data.get("lang")
            _, values = offered[int(event._data["index"]) % len(offered)][lang if lang in LANGUAGES else "en"]
            filled = {fields[name]: value for name, value in values.items() if name in fields}
            return filled | dict(zip(pictures, example_paths(values.get("example", ""), len(pictures))))

        return row.pick(pick, None, list(dict.fromkeys([*fields.values(), *pictures])), queue=False, **PLUMBING)

    return wire
