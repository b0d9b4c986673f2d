"""The page's parts without a browser: text tables, the shelf's mapping, the engine's files, the server's limits."""

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import gradio as gr
import pytest
from PIL import Image

from components import examples, i18n, server
from components.controls import Number, Radio, Slider, guarded
from components.engine import Engine
from components.shelf import Shelf, _fitting
from components.strip import Progress
from unclip_core.errors import RequestError

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def engine(tiny_model) -> Engine:
    return Engine(tiny_model)


def test_what_a_killed_app_left_goes_after_some_hours(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    old, new = tmp_path / "unclip-pictures-old", tmp_path / "unclip-pictures-new"
    for folder in (old, new):
        (folder / "a").mkdir(parents=True)
        (folder / "a" / "cat.png").touch()
    long_ago = time.time() - 7 * 3600
    for place in (old / "a", old):
        os.utime(place, (long_ago, long_ago))
    engine = Engine(tiny_model)
    assert not old.exists() and (new / "a" / "cat.png").exists() and engine.folder.exists()


# ---- text ----


def test_every_text_is_in_both_languages_with_the_same_places():
    for key, entry in i18n.strings().items():
        assert set(entry) == set(i18n.LANGUAGES), key
        assert all(entry.values()), key
        places = [sorted(part for part in text.split("{")[1:]) for text in entry.values()]
        assert [p.split("}")[0] for p in places[0]] == [p.split("}")[0] for p in places[1]] or key.startswith(
            "error."
        ), key


def test_no_key_is_defined_twice():
    seen: dict[str, str] = {}
    for table in sorted(i18n.FOLDER.glob("*.json")):
        for key in json.loads(table.read_text(encoding="utf-8")):
            assert key not in seen, f"{key} stands in {table.name} and {seen[key]}"
            seen[key] = table.name


def test_a_switch_rewrites_what_was_made_with_text():
    with gr.Blocks() as demo:
        gr.Textbox(label=i18n.text("shared.seed"))
        gr.Radio([(i18n.text("prior.ar"), "ar")])
        gr.Textbox(label="not ours")
    widgets = i18n.translatable(demo)
    assert len(widgets) == 2
    updates = i18n.in_language(widgets, "ko")
    assert updates[0]["label"] == i18n.t("shared.seed", "ko")
    assert updates[1]["choices"][0] == [i18n.t("prior.ar", "ko"), "ar"]


def test_errors_are_explained_in_korean_and_fall_back_to_the_cores_words():
    known = RequestError("The caption is empty.", "prompt_empty")
    assert i18n.explain(known, "en") == "The caption is empty."
    assert i18n.explain(known, "ko") == i18n.t("error.prompt_empty", "ko")
    numbers = RequestError("…", "range", field="decoder_steps", low=1, high=250)
    assert "디코더 단계 수" in i18n.explain(numbers, "ko")
    assert i18n.explain(RequestError("Something new."), "ko") == "Something new."


# ---- handlers ----


def test_guarded_shows_our_words_and_hides_pythons():
    @guarded
    def fails(fault):
        raise fault

    @guarded
    def streams(fault):
        yield 1
        raise fault

    with pytest.raises(gr.Error, match="too long"):
        fails(RequestError("too long"))
    with pytest.raises(gr.Error) as caught:
        fails(KeyError("secret_variable"))
    assert "secret_variable" not in str(caught.value)
    stream = streams(RequestError("too long"))
    assert next(stream) == 1
    with pytest.raises(gr.Error, match="too long"):
        next(stream)


# ---- addresses and recipes ----


@pytest.mark.parametrize(
    ("given", "fitted"),
    [
        ("7", 7),
        (7.5, 7.5),
        ("nan", None),
        ("inf", None),
        (1e99, 250),
        (-3, 1),
        ("many", None),
        (None, None),
        ([], None),
    ],
)
def test_numbers_from_an_address_fit_the_slider(given, fitted):
    assert _fitting(Slider(1, 250, value=25), given) == fitted


def test_choices_text_and_ticks_from_an_address():
    radio = Radio([("64 px", 64), ("256 px", 256)])
    assert _fitting(radio, "256") == 256 and _fitting(radio, "512") is None
    assert len(_fitting(gr.Textbox(), "x" * 5000)) == 1000
    assert _fitting(gr.Textbox(), {"a": 1}) is None
    assert _fitting(gr.Checkbox(), "true") is True and _fitting(gr.Checkbox(), "no") is False
    assert _fitting(Number(precision=0, minimum=0, maximum=9), "4.0") == 4


def test_a_recipe_fills_the_lab_that_made_it(engine):
    with gr.Blocks():
        shelf = Shelf(engine)
        with gr.Tabs() as shelf.tabs, shelf.tab("create"):
            seed = Number()
        shelf.connect("create", {"seed": seed})
        assert shelf._restored({"lab": "create", "request": {"seed": 5, "other": 1}}, "en")[seed] == 5
        with pytest.raises(RequestError):
            shelf._restored({"lab": "nowhere"}, "en")


# ---- engine ----


def test_saved_pictures_carry_what_makes_them_again(engine):
    request = engine.request(prompt="a red apple", size=64, seed=4, n=2)
    progress = Progress(engine, request)
    for step in engine.generate(request, preview_every=2):
        progress.take(step)
    made = engine.save(progress.final, "create", request, z_i=progress.z_i, parents=("abc",))
    assert len(made) == 2 and made[0].recipe["id"] != made[1].recipe["id"]
    recipe = engine.read(made[1].path)
    assert recipe == made[1].recipe and recipe["index"] == 1 and recipe["parents"] == ["abc"]
    again = list(engine.generate(engine.request(**recipe["request"])))[-1].pictures[1]
    assert again.tobytes() == Image.open(made[1].path).convert("RGB").tobytes()


def test_progress_says_what_is_skipped_and_ends_every_stage(engine):
    request = engine.request(prompt="a red apple", size=256, prior="caption")
    progress = Progress(engine, request)
    for step in engine.generate(request):
        progress.take(step)
    states = {name: cell["state"] for name, cell in progress.strip()["cells"].items()}
    assert states.pop("prior") == states.pop("z_i") == states.pop("upsampler_1024") == "skipped"
    assert set(states.values()) == {"done"}
    assert {frame["stage"] for frame in progress.frames} == {"decoder", "upsampler_256"}


def test_old_files_are_swept_and_new_ones_stay(engine):
    old, new = (Path(engine.write(name, lambda path: path.write_bytes(b"x"))) for name in ("old.png", "new.png"))
    os.utime(old.parent, (0, 0))
    engine._swept = time.monotonic() - 10_000
    engine.write("another.png", Path.touch)
    assert not old.exists() and new.exists()


def test_a_file_the_disk_has_no_room_for_is_named_without_its_folder(engine):
    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    there = set(engine.folder.iterdir())
    with pytest.raises(RequestError, match=r"^shelf.zip: cannot be written \(No space left on device\)"):
        engine.write("shelf.zip", full)
    assert set(engine.folder.iterdir()) == there, "no half of a file stays"


def test_shipped_examples_are_whole():
    for example in examples.shipped():
        assert (examples.FOLDER / example["file"]).is_file()
        assert example["viewer"]["badge"]["live"] is False
        assert Engine.read(None, examples.FOLDER / example["file"]) == example["recipe"]


# ---- server ----


def ask(guard, *, length: int | None, chunks: list[bytes]) -> list[dict]:
    """Send a body through the middleware; what it answers."""
    sent: list[dict] = []
    parts = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]

    async def receive():
        return parts.pop(0) if parts else {"type": "http.request", "body": b"", "more_body": False}

    async def send(message):
        sent.append(message)

    headers = [] if length is None else [(b"content-length", str(length).encode())]
    # On a thread of its own: a browser driver may keep a loop running on this one.
    with ThreadPoolExecutor() as pool:
        pool.submit(asyncio.run, guard({"type": "http", "headers": headers}, receive, send)).result()
    return sent


async def reads_everything(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


def test_bodies_are_refused_by_their_length_and_as_they_arrive():
    guard = server.Guard(reads_everything, limit=10)
    assert ask(guard, length=11, chunks=[])[0]["status"] == 413
    assert ask(guard, length=None, chunks=[b"12345", b"67890", b"!"])[0]["status"] == 413
    answer = ask(guard, length=4, chunks=[b"1234"])
    assert answer[0]["status"] == 200
    assert b"default-src 'self'" in dict(answer[0]["headers"])[b"content-security-policy"]


def test_a_taken_port_is_said_plainly():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        result = subprocess.run(
            [sys.executable, str(ROOT / "app.py"), "--port", str(port)], capture_output=True, text=True, timeout=60
        )
    assert result.returncode == 1
    assert f"port {port}" in result.stderr and "--port" in result.stderr and "Traceback" not in result.stderr


def test_a_missing_pack_is_said_plainly(tmp_path):
    result = subprocess.run(
        [sys.executable, str(ROOT / "app.py"), "--port", "0", "--pack", str(tmp_path / "nothing")],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 1 and "nothing" in result.stderr and "Traceback" not in result.stderr
