"""The session's pictures, shared by every lab: lineage, send to, recall, download; and the page's addresses.

A lab opens its tab with `shelf.tab(...)`, says with `shelf.connect(...)` which widgets hold its state, and puts what it
makes on the shelf with `shelf.add(...)`. One mapping from names to widgets then serves permalinks
(`?lab=create&prompt=...`), recall from the shelf, and PNG files dropped on the page: a recipe's `request` uses the same
names.
"""

from __future__ import annotations

import base64
import io
import math
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from components.controls import PLUMBING, courier, guarded, parcel
from components.engine import Engine, Made, summary
from components.i18n import lang_of, t, text
from unclip_core.errors import RequestError

LIMIT = 120


@dataclass
class Lab:
    """What the shelf knows about one lab."""

    name: str
    title: str
    fields: dict[str, gr.components.Component] = field(default_factory=dict)
    receives: gr.components.Component | None = None
    sources: list[gr.components.Component] = field(default_factory=list)


class Shelf:
    """Built once, before the labs. `items` is the session's list of pictures, newest first."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.items = gr.State([])
        self.labs: dict[str, Lab] = {}
        self.tabs: gr.Tabs | None = None
        self._greeting: tuple[Callable[[str], dict[Any, Any]], list[gr.components.Component]] = (lambda lang: {}, [])

    # For labs

    def tab(self, lab: str) -> gr.Tab:
        """`with shelf.tab("variations"):` opens the lab's tab, titled by the text "variations.title"."""
        self.labs[lab] = Lab(lab, f"{lab}.title")
        return gr.Tab(text(f"{lab}.title"), id=lab, elem_id=f"tab-{lab}")

    def connect(
        self,
        lab: str,
        fields: dict[str, gr.components.Component],
        receives: gr.components.Component | None = None,
        sources: Iterable[gr.components.Component] = (),
    ) -> None:
        """Say which widgets hold the lab's state, by the names its recipes use, and which takes a picture sent to it.

        `receives` gets the picture's file path, as from an upload; listen to its `change`. `sources`: the lab's picture
        inputs, in the order of `Engine.save(sources=...)`, to be filled again on recall.
        """
        known = self.labs[lab]
        known.fields, known.receives, known.sources = fields, receives, list(sources)

    def add(self, items: list[dict[str, Any]], made: Iterable[Made]) -> list[dict[str, Any]]:
        """The shelf with new pictures in front: return it to `shelf.items`. The oldest fall off beyond a limit."""
        new = [_item(one) for one in made]
        return (new + list(items or []))[:LIMIT]

    def address(self, event: gr.events.Dependency, lab: str) -> None:
        """After `event`, write the lab's state into the page's address, so that it can be copied as a permalink."""
        fields = self.labs[lab].fields
        event.then(None, list(fields.values()), None, js=_address_js(lab, fields), **PLUMBING)

    def greet(self, greeting: Callable[[str], dict[Any, Any]], outputs: list[gr.components.Component]) -> None:
        """What meets a visitor whose address names no lab: `greeting(lang)` gives values for `outputs` and fields."""
        self._greeting = (greeting, outputs)

    # For the page

    def bar(self) -> None:
        """Draw the shelf and wire it. Called once, after every lab."""
        self.view = gr.HTML(
            value={"items": [], "labs": []},
            html_template="<div></div>",
            elem_id="shelf",
            apply_default_css=False,
            js_on_load="unclip.shelf(element, props, watch, trigger, upload); 'act'; 'dropped'",
        )
        self.download = courier()
        self.items.change(self._show, self.items, self.view, **PLUMBING)
        self.view.act(self._act, self.items, self._targets(self.items, self.download), **PLUMBING)
        self.view.dropped(self._dropped, None, self._targets(), **PLUMBING)

    def link_from(self, header: gr.HTML) -> None:
        """The header's "copy link": the address takes the open lab's state as it stands, run or not."""
        for lab in self.labs.values():
            widgets = list(lab.fields.values())
            header.link(None, widgets, None, js=_address_js(lab.name, lab.fields, "link"), **PLUMBING)

    def restore_on_load(self, demo: gr.Blocks) -> None:
        """Fill the lab that the address names when the page opens."""
        arrived = demo.load(self._from_address, None, self._targets(*self._greeting[1]), queue=False, **PLUMBING)
        arrived.then(None, js="() => { document.body.dataset.ready = 'yes'; }", **PLUMBING)

    def _targets(self, *others: gr.components.Component) -> list[gr.components.Component]:
        """Every component that a restored state may touch, each once."""
        targets = [self.tabs, *others]
        for lab in self.labs.values():
            targets += [*lab.fields.values(), *lab.sources, *([lab.receives] if lab.receives is not None else [])]
        return list(dict.fromkeys(targets))

    def _show(self, items: list[dict[str, Any]]) -> dict[str, Any]:
        numbers = {item["id"]: len(items) - i for i, item in enumerate(items)}
        shown = [
            {
                "id": item["id"],
                "number": numbers[item["id"]],
                "thumb": item["thumb"],
                "lab": item["recipe"]["lab"],
                "name": item["name"],
                "parents": [numbers[p] for p in item["recipe"]["parents"] if p in numbers],
            }
            for item in items
        ]
        labs = [{"name": lab.name, "title": lab.title} for lab in self.labs.values() if lab.receives is not None]
        return {"items": shown, "labs": labs}

    @guarded
    def _act(self, items: list[dict[str, Any]], event: gr.EventData, request: gr.Request) -> dict[Any, Any]:
        """One of the shelf's buttons: send, recall, download, zip, remove, clear."""
        action, chosen, lang = event._data.get("action"), event._data.get("id"), lang_of(request)
        item = next((item for item in items if item["id"] == chosen), None)
        if action == "clear":
            return {self.items: []}
        if action == "zip":
            return {self.download: parcel(self._zip(items))}
        if action == "remove":
            return {self.items: [other for other in items if other["id"] != chosen]}
        if item is not None and action == "recall":
            return self._restored(item["recipe"], lang, items)
        if item is None or not Path(item["path"]).is_file():
            raise RequestError(t("shelf.gone", lang))
        if action == "download":
            return {self.download: parcel(item["path"])}
        lab = self.labs.get(event._data.get("lab"))
        if action != "send" or lab is None or lab.receives is None:
            raise RequestError(t("shelf.nowhere", lang))
        return {lab.receives: item["path"], self.tabs: gr.Tabs(selected=lab.name)}

    @guarded
    def _dropped(self, event: gr.EventData, request: gr.Request) -> dict[Any, Any]:
        """A PNG dropped on the page: its recipe restores the lab that made it."""
        lang = lang_of(request)
        path = Path(str(event._data.get("path"))).resolve()
        if Path(gr.utils.get_upload_folder()).resolve() not in path.parents:
            raise RequestError(t("shelf.not_uploaded", lang))
        restored = self._restored(self.engine.read(path), lang)
        gr.Info(t("shelf.restored", lang), duration=5)
        return restored

    def _from_address(self, request: gr.Request) -> dict[Any, Any]:
        query = dict(request.query_params)
        lab = self.labs.get(query.get("lab", ""))
        if lab is None:
            return self._greeting[0](lang_of(request)) or {self.tabs: gr.skip()}
        return self._fill(lab, query)

    def _restored(self, recipe: dict[str, Any], lang: str, items: Sequence[dict[str, Any]] = ()) -> dict[Any, Any]:
        """A recipe's state back in its lab, and its source pictures, from the shelf where it still has them."""
        lab = self.labs.get(str(recipe.get("lab")))
        if lab is None:
            raise RequestError(t("shelf.unknown_lab", lang))
        filled = self._fill(lab, recipe.get("request") or {})
        carried = recipe.get("sources")
        if isinstance(carried, list):
            padded = [*carried, *[None] * len(lab.sources)]
            filled |= {widget: self._source(source, items) for widget, source in zip(lab.sources, padded)}
        return filled

    def _source(self, source: Any, items: Sequence[dict[str, Any]]) -> str | None:
        """The file of a source picture: the shelf's own, or the one that the recipe carries (a stranger's data)."""
        if not isinstance(source, dict):
            return None
        for item in items:
            if item["id"] == source.get("id") and Path(item["path"]).is_file():
                return item["path"]
        try:
            data = base64.b64decode(str(source.get("picture")), validate=True)
        except ValueError:
            return None
        return self.engine.write("source.png", lambda path: path.write_bytes(data))

    def _fill(self, lab: Lab, values: dict[str, Any]) -> dict[Any, Any]:
        filled: dict[Any, Any] = {self.tabs: gr.Tabs(selected=lab.name)}
        for name, widget in lab.fields.items():
            value = _fitting(widget, values.get(name))
            if value is not None:
                filled[widget] = value
        return filled

    def _zip(self, items: list[dict[str, Any]]) -> str:
        """Every picture of the shelf in one archive; the recipes travel inside the PNG files."""

        def fill(path: Path) -> None:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
                for number, item in enumerate(reversed(items), 1):
                    if Path(item["path"]).is_file():
                        archive.write(item["path"], f"{number:03d}-{Path(item['path']).name}")

        return self.engine.write("unclip-shelf.zip", fill)


def _item(made: Made) -> dict[str, Any]:
    small = made.picture.copy()
    small.thumbnail((112, 112))
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=82)
    thumb = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    name = summary(str(made.recipe.get("lab")), made.recipe.get("request") or {})
    return {"id": made.recipe["id"], "path": made.path, "recipe": made.recipe, "thumb": thumb, "name": name[:120]}


def _fitting(widget: gr.components.Component, value: Any) -> Any:
    """`value` as `widget` may hold it, or None: addresses and recipes come from anywhere."""
    if value is None or isinstance(value, (dict, bytes)):
        return None
    if isinstance(widget, gr.Checkbox):
        return value in (True, "true", "True", "1")
    if isinstance(widget, (gr.Radio, gr.Dropdown)):
        return next((choice for _, choice in widget.choices if str(choice) == str(value)), None)
    if isinstance(widget, (gr.Slider, gr.Number)):
        try:
            number = float(value)
        except (TypeError, ValueError):
            return None
        if not math.isfinite(number):
            return None
        # A slider whose ends follow another input says by `reach` how far they may go.
        low, high = getattr(widget, "reach", (widget.minimum, widget.maximum))
        low, high = -math.inf if low is None else low, math.inf if high is None else high
        number = float(min(max(number, low), high))
        whole = getattr(widget, "precision", None) == 0 or number.is_integer()
        return int(number) if whole else number
    return str(value)[:1000] if isinstance(value, (str, int, float)) else None


def _address_js(lab: str, fields: dict[str, gr.components.Component], verb: str = "address") -> str:
    names = ", ".join(f"'{name}'" for name in fields)
    return f"(...values) => {{ unclip.{verb}('{lab}', [{names}], values); return []; }}"
