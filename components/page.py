"""The frame around the labs: the header with its language and theme switches."""

from __future__ import annotations

import gradio as gr

from components.controls import PLUMBING
from components.i18n import LANGUAGES, default_language, in_language, lang_of, translatable


def header() -> gr.HTML:
    """Brand, copy link, light or dark, language."""
    return gr.HTML(
        html_template="<div></div>",
        js_on_load="unclip.header(element, trigger); 'language'; 'link'",
        apply_default_css=False,
        elem_id="header",
    )


def translate_on_switch(demo: gr.Blocks, bar: gr.HTML) -> None:
    """Rewrite the page's widgets made with `i18n.text` when a visitor switches language, or arrives with another
    `?lang=`. Of several pages of one app, the one that `bar` stands on."""
    widgets = [(widget, texts) for widget, texts in translatable(demo) if widget.page == bar.page]
    outputs = [widget for widget, _ in widgets]

    def switch(event: gr.EventData) -> list:
        lang = event._data.get("lang")
        return in_language(widgets, lang if lang in LANGUAGES else default_language())

    def arrive(request: gr.Request) -> list:
        lang = lang_of(request)
        return [gr.skip()] * len(widgets) if lang == default_language() else in_language(widgets, lang)

    bar.language(switch, None, outputs, queue=False, **PLUMBING)
    demo.load(arrive, None, outputs, queue=False, **PLUMBING)
