"""Bad input and faults by name, sent to the app's own server: each is named in the sender's words, soon and within
bounded memory, and the next good request works. The core's checks of the same things: test_request, test_pictures,
test_packs, test_arena, test_provenance.
"""

import errno
import io
import math
import pickle
import resource
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import httpx
import numpy as np
import pytest
from asking import Asking
from PIL import Image, PngImagePlugin

import app
from components import server, worker
from components.engine import Engine
from components.i18n import strings
from unclip_core import provenance
from unclip_core.evaluation.arena import matches
from unclip_core.evaluation.arena.matches import System
from unclip_core.provenance import read_recipe

ROOT = Path(__file__).resolve().parent.parent
GOOD = {"prompt": "a red apple", "size": 64, "prior": "text", "decoder_steps": 1}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """Where this module's app keeps matches and votes."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def asking(tiny_model, home):
    """The app as `app.py` serves it, on random weights, in this process: so that its time and memory can be read."""
    import gradio as gr

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNCLIP_HOME", str(home))
        demo: gr.Blocks = worker.place(app.build(Engine(tiny_model)))
        server.fetch_nothing()
        options = server.launch_options("127.0.0.1", None, share=False, mcp=False)  # any free port
        _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, **options)
        asking = Asking(address)
        assert asking.ask("generate", **GOOD)["success"]  # what is paid once is paid
        yield asking
        asking.http.close()
        demo.close()


def encoded(picture, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def refused(asking, endpoint: str, word: str, **values) -> None:
    """The request is refused, its fault named, in bounded time and memory; a good one works afterwards."""
    before, started = peak_mb(), time.process_time()
    answer = asking.ask(endpoint, **values)
    spent = time.process_time() - started
    assert not answer["success"]
    error = answer["output"]["error"]
    assert word in error and "Traceback" not in error and len(error) < 400, error[:1000]
    assert spent < 2 and peak_mb() - before < 200
    assert asking.ask("generate", **GOOD)["success"]


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


# ---- captions and numbers ----

NUL, ESCAPE, SURROGATE, REVERSED, ISOLATE = "a\0b", "a\x1b[31mb", "a\ud800", "a\u202eb", "a\u2067b"
REQUESTS = {
    "empty caption": ("generate", {"prompt": ""}, "empty"),
    "blank caption": ("generate", {"prompt": " \n\t"}, "empty"),
    "no caption": ("generate", {"prompt": None}, "text"),
    "list of captions": ("generate", {"prompt": ["a"]}, "text"),
    "object for a caption": ("generate", {"prompt": {"a": 1}}, "text"),
    "number for a caption": ("generate", {"prompt": 7}, "text"),
    "caption of a megabyte": ("generate", {"prompt": "a" * 1_000_000}, "1,000,000"),
    "caption with NUL": ("generate", {"prompt": NUL}, "control"),
    "caption with an escape sequence": ("generate", {"prompt": ESCAPE}, "control"),
    "caption with half a character": ("generate", {"prompt": SURROGATE}, "surrogate"),
    "caption with a reversal": ("generate", {"prompt": REVERSED}, "reorder"),
    "caption with an isolate": ("generate", {"prompt": ISOLATE}, "reorder"),
    "caption of the priors empty": ("priors", {"prompt": ""}, "empty"),
    "caption of an end of a megabyte": ("interpolate", {"caption_a": "a", "caption_b": "b" * 1_000_000}, "1,000,000"),
    "caption of an end with NUL": ("interpolate", {"caption_a": "a", "caption_b": NUL}, "control"),
    "one end alone": ("interpolate", {"caption_a": "a"}, "Two ends"),
    "seed NaN": ("generate", {"seed": math.nan}, "seed"),
    "seed -1": ("generate", {"seed": -1}, "seed"),
    "seed too large": ("generate", {"seed": 2**32}, "seed"),
    "seed of five hundred digits": ("generate", {"seed": 10**500}, "seed"),
    "guidance infinite": ("generate", {"decoder_guidance": math.inf}, "guidance"),
    "guidance minus infinite": ("generate", {"prior_guidance": -math.inf}, "guidance"),
    "guidance text": ("generate", {"decoder_guidance": "3.0"}, "guidance"),
    "no pictures": ("generate", {"n": 0}, "pictures"),
    "a picture too many": ("generate", {"n": 17}, "pictures"),
    "half a picture": ("generate", {"n": 1.5}, "pictures"),
    "text for a number": ("generate", {"n": "many"}, "pictures"),
    "null for a number": ("generate", {"n": None}, "pictures"),
    "true for a number": ("generate", {"n": True}, "pictures"),
    "list for a number": ("generate", {"n": [1]}, "pictures"),
    "a step too many": ("generate", {"decoder_steps": 251}, "steps"),
    "size between": ("generate", {"size": 65}, "size"),
    "size NaN": ("generate", {"size": math.nan}, "size"),
    "unknown prior": ("generate", {"prior": "magic"}, "prior"),
    "list for a prior": ("generate", {"prior": ["diffusion"]}, "prior"),
    "frames NaN": ("interpolate", {"caption_a": "a", "caption_b": "b", "frames": math.nan}, "frames"),
    "a thousand million frames": ("interpolate", {"caption_a": "a", "caption_b": "b", "frames": 10**9}, "frames"),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_bad_requests_are_named(asking, name):
    endpoint, values, word = REQUESTS[name]
    refused(asking, endpoint, word, **({**GOOD, **values} if endpoint == "generate" else values))


@pytest.mark.parametrize("caption", ["<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "../../etc/passwd"])
def test_markup_and_paths_are_captions_like_any_other(asking, caption):
    answer = asking.ask("generate", **{**GOOD, "prompt": caption})
    file = answer["output"]["data"][0][0]
    assert read_recipe(asking.fetch(file))["request"]["prompt"] == caption
    assert not set("<>/") & set(file["orig_name"])


# ---- pictures ----

NOISE = Image.effect_noise((200, 200), 90).convert("RGB")
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="64" height="64"><rect width="64" height="64"/></svg>'
FILES = {
    "zero bytes": ("a.png", lambda: b"", "empty"),
    "text named png": ("a.png", lambda: b"not a picture at all", "not a PNG"),
    "truncated png": ("a.png", lambda: encoded(NOISE)[:5000], "cut short"),
    "truncated jpeg": ("a.jpg", lambda: encoded(NOISE, "JPEG")[:3000], "cut short"),
    "13000 x 13000": ("a.png", lambda: encoded(Image.new("1", (13000, 13000))), "million pixels"),
    "1 x 60000": ("a.png", lambda: encoded(Image.new("L", (1, 60000))), "smaller than"),
    "60000 x 10": ("a.png", lambda: encoded(Image.new("L", (60000, 10))), "too thin"),
    "svg": ("a.svg", lambda: SVG, "not a PNG"),
    "svg renamed png": ("a.png", lambda: SVG, "not a PNG"),
    "gif renamed png": ("a.png", lambda: encoded(NOISE.convert("P"), "GIF"), "not a PNG"),
    "pickle renamed png": ("a.png", lambda: pickle.dumps({"a": 1}), "not a PNG"),
}
FINE = {
    "cmyk": ("a.jpg", lambda: encoded(NOISE.convert("CMYK"), "JPEG")),
    "16 bit": ("a.png", lambda: encoded(Image.fromarray(np.full((32, 32), 40000, np.uint16)))),
    "animated": ("a.webp", lambda: encoded(NOISE, "WEBP", save_all=True, append_images=[NOISE.rotate(90)])),
    "jpeg renamed png": ("a.png", lambda: encoded(NOISE, "JPEG")),
    "a name of dots and markup": ("..<b>.png", lambda: encoded(NOISE)),
}


@pytest.mark.parametrize("name", FILES)
def test_bad_pictures_are_named(asking, name):
    file, data, word = FILES[name]
    refused(asking, "variations", word, picture=asking.upload(file, data()), n=1)


@pytest.mark.parametrize("name", FINE)
def test_unusual_pictures_are_taken(asking, name):
    file, data = FINE[name]
    assert asking.ask("variations", picture=asking.upload(file, data()), n=1)["success"]


def named(path: str, **more) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


NOT_UPLOADED = {
    "nothing": (None, "no picture"),
    "a file of the machine": (named("/etc/passwd"), "not uploaded"),
    "a file of the app": (named(str(ROOT / "assets" / "icons" / "favicon.png")), "not uploaded"),
    "a way out of the uploads": (named("/tmp/gradio/../../etc/passwd"), "not uploaded"),
    "text": ("a.png", "handle_file"),
    "a number": (7, "handle_file"),
}


@pytest.mark.parametrize("name", NOT_UPLOADED)
def test_pictures_that_were_not_uploaded_are_refused(asking, name):
    value, word = NOT_UPLOADED[name]
    refused(asking, "variations", word, picture=value, n=1)


def test_pictures_are_fetched_from_no_address(asking):
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.listen()
        elsewhere.settimeout(0.5)
        address = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/a.png"
        refused(asking, "variations", "not as an address", picture=named(address), n=1)
        refused(asking, "variations", "not uploaded", picture=named("a.png", url=address), n=1)
        with pytest.raises(TimeoutError):
            elsewhere.accept()


def test_bodies_that_are_too_large_are_refused(asking):
    try:
        answer = asking.http.post("gradio_api/upload", content=b"x" * 30_000_000)
        assert answer.status_code == 413 and "24 MB" in answer.json()["detail"]
    except httpx.TransportError:
        pass  # the connection was closed while the body was still being sent
    assert asking.ask("generate", **GOOD)["success"]


# ---- recipes ----


def png_with(text: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(provenance.KEY, text)
    return encoded(NOISE, pnginfo=info)


RECIPES = {
    "a jpeg": (lambda: encoded(NOISE, "JPEG"), "recipe_format"),
    "no recipe": (lambda: encoded(NOISE), "recipe_none"),
    "not JSON": (lambda: png_with("{"), "recipe_broken"),
    "deeply nested": (lambda: png_with("[" * 100_000), "recipe_broken"),
    "newer": (lambda: png_with('{"schema": 2, "request": {}}'), "recipe_newer"),
    "a megabyte": (lambda: png_with('"' + "a" * 900_000 + '"'), "recipe_broken"),
    "markup": (lambda: png_with('{"schema": 1, "lab": ["<b>"], "request": {"a": {}}, "pack": 7, "parents": 7}'), ""),
}


@pytest.mark.parametrize("name", RECIPES)
def test_bad_recipes_are_named(asking, name):
    data, why = RECIPES[name]
    answer = asking.ask("provenance", picture=asking.upload("a.png", data()))
    found = answer["output"]["data"][0]
    assert found["why"] == why and bool(found["recipe"]) == (not why)
    assert not why or f"error.{why}" in strings()


# ---- votes ----


@pytest.fixture(scope="module")
def votes(asking, home) -> Path:
    """The votes' file of an arena that has one match of plain pictures."""
    match = matches.create(home / "arena", System("diffusion"), System("ar"), matches.captions(4))
    for item in range(4):
        for kind, side_px in (("single", 256), ("grid", 268)):
            for side in "ab":
                Image.new("RGB", (side_px, side_px), "red").save(match.file(item, kind, side), "WEBP")
    return home / "arena" / "votes.sqlite3"


def cast(path: Path) -> set[tuple[str, str]]:
    """The ballots that were voted on, each with its choice."""
    with closing(sqlite3.connect(path)) as connection:
        return set(connection.execute("SELECT token, choice FROM votes"))


VOTER = "1" * 32
VOTES = {
    "no choice": ({"choice": None}, "left, tie or right"),
    "another choice": ({"choice": "both"}, "left, tie or right"),
    "SQL for a choice": ({"choice": "'; DROP TABLE votes; --"}, "left, tie or right"),
    "list for a choice": ({"choice": ["left"]}, "left, tie or right"),
    "no ballot": ({"token": None}, "no ballot"),
    "forged ballot": ({"token": "0" * 32}, "not handed out"),
    "SQL for a ballot": ({"token": "' OR 1=1 --"}, "no ballot"),
    "ballot of 10 MB": ({"token": "x" * 10_000_000}, "no ballot"),
    "another voter's ballot": ({"voter": "2" * 32}, "someone else"),
    "SQL for a voter": ({"voter": "1'; --"}, "no voter"),
    "object for a voter": ({"voter": {"a": 1}}, "no voter"),
}


@pytest.mark.parametrize("name", VOTES)
def test_bad_votes_are_named_and_not_counted(asking, votes, name):
    change, word = VOTES[name]
    token = asking.arena("arrive", {"voter": VOTER})["ballot"]["token"]
    before = cast(votes)
    state = asking.arena("vote", {"voter": VOTER, "token": token, "choice": "left", **change})
    assert word in state["notice"] and not state.get("taken") and cast(votes) == before
    good = asking.arena("vote", {"voter": VOTER, "token": token, "choice": "left"})
    assert good["taken"] and cast(votes) == before | {(token, "left")}
    again = asking.arena("vote", {"voter": VOTER, "token": token, "choice": "right"})
    assert "final" in again["notice"] and cast(votes) == before | {(token, "left")}


# ---- faults ----


def test_a_full_disk_is_named_and_the_next_request_works(asking, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    for place in (provenance.tempfile, "mkstemp"), (provenance.os, "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(*place, full)
            error = asking.ask("generate", **GOOD)["output"]["error"]
        assert "cannot be written (No space left on device)" in error and "/" not in error
        assert asking.ask("generate", **GOOD)["success"]
