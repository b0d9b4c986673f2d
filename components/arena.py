"""The arena: the paper's human protocol (section 5.2) as a page.

Blind pairs, one tap each, on a laptop or in a room full of phones; results with their intervals; matches set up by
whoever sits at the machine.

`python -m components.arena --a diffusion --b text --captions 12` prepares a match that ships with the app.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gradio as gr

from components.arena_desk import Desk
from components.controls import PLUMBING, courier, guarded, parcel
from components.engine import Engine
from components.i18n import explain, lang_of, t, text
from components.page import header, translate_on_switch
from unclip_core.errors import RequestError, UnclipError
from unclip_core.evaluation.arena import matches
from unclip_core.evaluation.arena.matches import System
from unclip_core.evaluation.arena.votes import VoteError

KINDS = ("diffusion", "ar", "text", "caption")
NEEDS = {"diffusion": "prior", "ar": "prior_ar"}
# A room votes at once: these events are answered as they come, beside the queue.
AT_ONCE = {**PLUMBING, "queue": False}
SPENT = ("vote_twice", "vote_unknown", "vote_foreign")


def arena_page(demo: gr.Blocks, engine: Engine) -> None:
    """Add the page at /arena. Call it after the main page's `with gr.Blocks()` has closed."""
    desk = Desk(engine.model)
    with demo.route("Arena", "/arena", show_in_navbar=False):
        bar = header()
        bar.link(None, None, None, js="() => unclip.copyLink()", **PLUMBING)
        gr.HTML(
            html_template="<nav></nav>",
            js_on_load="unclip.arenaBack(element)",
            apply_default_css=False,
            elem_classes="arena-back",
        )
        gr.Markdown(text("arena.question"), elem_classes="question")
        with gr.Tabs(elem_id="labs"):
            with gr.Tab(text("arena.vote"), id="vote"):
                _voting(desk)
            with gr.Tab(text("arena.results"), id="results") as results:
                _results(desk, engine, results)
            with gr.Tab(text("arena.setup"), id="setup") as setup:
                _setting_up(desk, engine, setup)
        translate_on_switch(demo, bar)


# ---- voting ----


def _voting(desk: Desk) -> None:
    view = gr.HTML(
        html_template="<div></div>",
        js_on_load="unclip.arena(element, props, watch, trigger); 'arrive'; 'vote'",
        apply_default_css=False,
        elem_id="arena",
    )

    def arrive(event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        desk.resume()
        return turn(desk, event._data, lang_of(request))

    def vote(event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        return turn(desk, event._data, lang_of(request), casting=True)

    view.arrive(arrive, None, view, **AT_ONCE)
    view.vote(vote, None, view, **AT_ONCE)


def turn(desk: Desk, data: Any, lang: str, casting: bool = False) -> dict[str, Any]:
    """Take a vote if there is one, and hand out the next pair. Faults come back as a notice: a room must not stall."""
    data = data if isinstance(data, dict) else {}
    notice = None
    if casting:
        try:
            desk.vote(data.get("voter"), data.get("token"), data.get("choice"))
        except VoteError as fault:
            notice = explain(fault, lang)
            if fault.code not in (*SPENT, "vote_choice"):
                return {"notice": notice, "broken": True}
    try:
        return {**desk.next(data.get("voter")), "notice": notice, "taken": casting and notice is None}
    except UnclipError as fault:
        return {"notice": explain(fault, lang), "broken": True}


# ---- results ----


def _results(desk: Desk, engine: Engine, tab: gr.Tab) -> None:
    view = gr.HTML(
        html_template="<div></div>",
        elem_id="arena-results",
        js_on_load="unclip.arenaResults(element, props, watch)",
        apply_default_css=False,
    )
    with gr.Row(elem_classes="arena-export"):
        buttons = {
            kind: gr.Button(text(f"arena.export_{kind}"), elem_classes="quiet", size="sm")
            for kind in ("csv", "parquet")
        }
    download = courier()

    @guarded
    def show() -> dict[str, Any]:
        return desk.results()

    tab.select(show, None, view, **AT_ONCE)
    for kind, button in buttons.items():

        @guarded
        def export(kind: str = kind) -> dict[str, Any]:
            return parcel(engine.write(f"arena-votes.{kind}", desk.box.export))

        button.click(export, None, download, **AT_ONCE)


# ---- setting up ----


def _setting_up(desk: Desk, engine: Engine, tab: gr.Tab) -> None:
    view = gr.HTML(
        html_template="<div></div>",
        js_on_load="unclip.arenaSetup(element, props, watch, trigger); 'poll'; 'remove'",
        apply_default_css=False,
    )
    with gr.Column(elem_classes="sheet", visible=False) as sheet:
        with gr.Row():
            sides = [_system(engine, desk, side) for side in ("a", "b")]
        count = gr.Slider(4, 24, value=12, step=1, label=text("arena.captions"), info=text("arena.captions_info"))
        go = gr.Button(text("arena.prepare"), variant="primary", elem_classes="go")

    @guarded
    def look(request: gr.Request) -> dict[str, Any]:
        return status(desk, request)

    @guarded
    def remove(event: gr.EventData, request: gr.Request) -> dict[str, Any]:
        _only_here(request)
        desk.remove(event._data.get("id") if isinstance(event._data, dict) else None)
        return status(desk, request)

    @guarded
    def prepare(request: gr.Request, captions: Any, *values: Any) -> dict[str, Any]:
        _only_here(request)
        half = len(values) // 2
        a, b = (asked(part) for part in (values[:half], values[half:]))
        if isinstance(captions, bool) or not isinstance(captions, (int, float)) or not 4 <= captions <= 24:
            raise RequestError("A match takes 4 to 24 captions.", "range", field="captions", low=4, high=24)
        desk.set_up(a, b, int(captions))
        return status(desk, request)

    def show_sheet(request: gr.Request) -> dict[str, Any]:
        return gr.update(visible=at_the_machine(request))

    tab.select(look, None, view, **AT_ONCE)
    tab.select(show_sheet, None, sheet, **AT_ONCE)
    view.poll(look, None, view, **AT_ONCE)
    view.remove(remove, None, view, **AT_ONCE)
    go.click(prepare, [count, *sides[0], *sides[1]], view, **AT_ONCE)


def _system(engine: Engine, desk: Desk, side: str) -> list[gr.components.Component]:
    """The widgets of one system: prior, its guidance, the decoder's, and the pack where there are several."""
    kinds = [kind for kind in KINDS if kind not in NEEDS or engine.has(NEEDS[kind])]
    with gr.Column(min_width=240):
        prior = gr.Radio(
            [(text(f"arena.system_{kind}"), kind) for kind in kinds],
            value=kinds["ab".index(side)],
            label=text(f"arena.side_{side}"),
        )
        with gr.Row():
            # Text, not numbers: an empty one says "the pack's default".
            numbers = [
                gr.Textbox(placeholder=text("arena.default"), label=text(f"arena.{name}"), max_lines=1, max_length=8)
                for name in ("prior_guidance", "decoder_guidance")
            ]
        packs = desk.packs()
        pack = gr.Dropdown(packs, value=packs[0], label=text("arena.pack"), visible=len(packs) > 1)
    return [prior, *numbers, pack]


def asked(values: tuple[Any, ...]) -> System:
    """A system from its widgets' values; an empty guidance is the pack's default."""
    prior, *guidance, pack = values
    if not isinstance(prior, str) or not isinstance(pack, str):
        raise RequestError("Choose both systems from the lists.", "arena_system")
    return System(prior, *(_number(value) for value in guidance), pack)


def _number(value: Any) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        return float(str(value)[:40].replace(",", "."))
    except ValueError:
        raise RequestError("A guidance is a number, or empty for the pack's default.", "arena_guidance") from None


def status(desk: Desk, request: gr.Request) -> dict[str, Any]:
    """What the set-up tab shows: the room's address, and every match with its progress."""
    address = room_address(request.headers.get("host", ""), request.headers.get("x-forwarded-proto", "http"))
    lang, fault = lang_of(request), desk.fault
    said = explain(fault, lang) if isinstance(fault, UnclipError) else t("error.unexpected", lang) if fault else None
    return {
        "here": at_the_machine(request),
        "address": address,
        "code": None if address is None else qr_code(address),
        "matches": desk.status(),
        "preparing": desk.preparing(),
        "own": desk.model.name,
        "lasting": desk.lasting,
        "fault": said,
    }


def room_address(host: str, scheme: str) -> str | None:
    """The page's address as other machines see it; None where the visitor came by one that means this machine alone."""
    name = urlsplit(f"//{host}").hostname or ""
    if name in ("", "127.0.0.1", "localhost", "::1", "0.0.0.0") or len(host) > 200 or not host.isprintable():
        return None
    return f"{'https' if scheme == 'https' else 'http'}://{host}/arena"


def qr_code(address: str) -> str:
    """The address as a QR code, in SVG."""
    import segno

    buffer = io.BytesIO()
    segno.make(address, error="m").save(buffer, kind="svg", border=2, xmldecl=False, nl=False, omitsize=True)
    return buffer.getvalue().decode()


def at_the_machine(request: gr.Request) -> bool:
    """Whether the visitor's browser runs on the machine that the app runs on, with no proxy between."""
    forwarded = any(name in request.headers for name in ("x-forwarded-for", "forwarded", "x-real-ip"))
    client = getattr(request.client, "host", "") if request.client else ""
    return client in ("127.0.0.1", "::1") and not forwarded


def _only_here(request: gr.Request) -> None:
    if not at_the_machine(request):
        raise RequestError("Matches are set up at the machine that the app runs on.", "arena_elsewhere")


def main(arguments: list[str] | None = None) -> None:
    """Prepare a match from the command line, into the folder that ships (or another)."""
    from unclip_core.pipeline import UnCLIP

    parser = argparse.ArgumentParser(prog="python -m components.arena", description="Prepare a match of the arena.")
    parser.add_argument("--a", default="diffusion", choices=KINDS)
    parser.add_argument("--b", default="ar", choices=KINDS)
    for side in "ab":
        parser.add_argument(f"--prior-guidance-{side}", type=float)
        parser.add_argument(f"--decoder-guidance-{side}", type=float)
        parser.add_argument(f"--pack-{side}", default="pocket", help="a pack's name or folder")
    parser.add_argument("--captions", type=int, default=12)
    parser.add_argument("--out", type=Path, default=matches.ASSETS)
    options = vars(parser.parse_args(arguments))
    models = {name: UnCLIP.load(name) for name in {options["pack_a"], options["pack_b"]}}
    a, b = (
        matches.checked_system(
            System(
                options[side],
                options[f"prior_guidance_{side}"],
                options[f"decoder_guidance_{side}"],
                options[f"pack_{side}"],
            ),
            models[options[f"pack_{side}"]],
        )
        for side in "ab"
    )
    match = matches.create(options["out"], a, b, matches.captions(options["captions"]))
    for done, total in matches.prepare(match, models.__getitem__):
        print(f"\r{done}/{total}", end="", flush=True)
    print(f"\n{match.folder}")


if __name__ == "__main__":
    main()
