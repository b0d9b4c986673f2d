"""English and Korean: one table a file in assets/i18n, looked up on the server and in the page.

Tables are JSON objects `{"lab.key": {"en": "...", "ko": "..."}}`. Text that a widget shows for as long as it lives is
made with `text("lab.key")`: a plain `str` in the page's default language that remembers its key, so that `translate`
can rewrite every such widget when a visitor switches. Text made while answering a request is looked up with
`t("lab.key", lang_of(request))`.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import LocalContext

LANGUAGES = ("en", "ko")
FOLDER = Path(__file__).parent.parent / "assets" / "i18n"
WIDGET_TEXTS = ("label", "info", "placeholder", "value", "choices")

_default = "en"


class Text(str):
    """A `str` that remembers the table key it came from."""

    key: str = ""


def set_default(lang: str) -> None:
    """Choose the language of visitors who have not chosen one (`--lang`)."""
    global _default
    _default = lang if lang in LANGUAGES else "en"


def default_language() -> str:
    return _default


@cache
def strings() -> dict[str, dict[str, str]]:
    """Every table merged: key -> language -> text. The page gets a copy for what it draws itself."""
    merged: dict[str, dict[str, str]] = {}
    for table in sorted(FOLDER.glob("*.json")):
        merged |= json.loads(table.read_text(encoding="utf-8"))
    return merged


def t(key: str, lang: str | None = None, **values: Any) -> str:
    """The text of `key` in `lang` (default: the server's), with `{name}` places filled from `values`."""
    entry = strings()[key]
    return entry.get(lang or _default, entry["en"]).format(**values)


def text(key: str, **values: Any) -> Text:
    """A widget's lasting text: in the default language now, rewritten when the visitor switches."""
    made = Text(t(key, **values))
    made.key, made.values = key, values
    return made


def lang_of(request: gr.Request | None = None) -> str:
    """The language of the page a request came from: its `?lang=`, or the server's default.

    The page sends its own address with every event, and the language switch keeps `lang` there. Without `request`, that
    of the event being answered.
    """
    request = request or LocalContext.request.get(None)
    chosen = dict(request.query_params).get("lang") if request is not None else None
    return chosen if chosen in LANGUAGES else _default


def explain(error: Exception, lang: str) -> str:
    """An UnclipError's message in the visitor's language where the tables know its code, else as it was raised."""
    key = f"error.{getattr(error, 'code', '')}"
    if lang == "en" or key not in strings():
        return str(error)  # as the core worded it
    named = {name: t(f"{name}.{fact}", lang) for name, fact in error.facts.items() if f"{name}.{fact}" in strings()}
    return t(key, lang, **{**error.facts, **named})


def _in_language(value: Any, lang: str) -> Any:
    """`value` with every `Text` in it looked up in `lang`."""
    if isinstance(value, Text) and value.key:
        return t(value.key, lang, **value.values)
    if isinstance(value, (list, tuple)):
        return [_in_language(item, lang) for item in value]
    return value


def _holds_text(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_holds_text(item) for item in value)
    return isinstance(value, Text) and bool(value.key)


def translatable(demo: gr.Blocks) -> list[tuple[Any, dict[str, Any]]]:
    """Every widget of `demo` that was given `text(...)`, with those arguments."""
    found = []
    for block in demo.blocks.values():
        given = {name: block.constructor_args.get(name) for name in WIDGET_TEXTS}
        texts = {name: value for name, value in given.items() if _holds_text(value)}
        if texts:
            found.append((block, texts))
    return found


def in_language(widgets: list[tuple[Any, dict[str, Any]]], lang: str) -> list[Any]:
    """One update for each widget that `translatable` found."""
    return [gr.update(**{k: _in_language(v, lang) for k, v in texts.items()}) for _, texts in widgets]
