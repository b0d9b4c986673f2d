"""The model's one thread, and runs that nobody waits for any more: through Gradio's own server, without a browser."""

import asyncio
import gc
import itertools
import json
import threading
import uuid

import gradio as gr
import httpx
import pytest
from gradio.context import LocalContext

from components import worker
from components.controls import RUN, guarded
from unclip_core import stopping
from unclip_core.stopping import Stopped

WAIT = 60  # seconds, before something that should happen is taken to have failed


class Visitor:
    """A session that starts events by name and follows its stream, as the page and the API's clients do."""

    def __init__(self, address: str, events: dict[str, int]) -> None:
        self.http = httpx.Client(base_url=address, timeout=WAIT)
        self.events, self.session = events, uuid.uuid4().hex

    def join(self, event: str) -> dict:
        body = {"data": [], "fn_index": self.events[event], "session_hash": self.session}
        event_id = self.http.post("gradio_api/queue/join", json=body).json()["event_id"]
        return {"session_hash": self.session, "fn_index": self.events[event], "event_id": event_id}

    def stream(self):
        return self.http.stream("GET", "gradio_api/queue/data", params={"session_hash": self.session})

    def result(self, event: str) -> list:
        """The event's last values."""
        self.join(event)
        with self.stream() as stream:
            for line in stream.iter_lines():
                if '"process_completed"' in line:
                    return json.loads(line.removeprefix("data:"))["output"]["data"]
        raise AssertionError("the server said nothing")


class Long:
    """A run without an end: it goes on from step to step until it is given up."""

    def __init__(self) -> None:
        self.begun, self.stopped, self.closed = threading.Event(), threading.Event(), threading.Event()
        self.threads = set()

    def once(self) -> str:
        try:
            while True:
                self.threads.add(threading.get_ident())
                self.begun.set()
                stopping.check()
        except Stopped:
            self.stopped.set()
            raise

    def stream(self):
        try:
            yield "first"
            yield self.once()
        finally:
            self.closed.set()

    def talkative(self):
        try:
            while True:
                self.begun.set()
                self.stopped.wait(0.02)  # a step of a model takes a moment; without it this run floods the server
                yield "more"
        finally:
            self.stopped.set()


@pytest.fixture
def long():
    return Long()


@pytest.fixture
def visitor(long):
    def whereabouts():
        yield None
        yield f"{threading.get_ident()} {LocalContext.event_id.get(None) is not None}"

    handlers = [long.once, long.stream, long.talkative, whereabouts]
    with gr.Blocks() as demo:
        out = gr.Textbox()
        for handler in handlers:
            gr.Button().click(guarded(handler), None, out, **{**RUN, "api_name": handler.__name__})
    worker.place(demo.queue())
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True)
    yield Visitor(address, {handler.__name__: number for number, handler in enumerate(handlers)})
    demo.close()


def test_loading_and_running_share_one_thread_that_is_not_the_servers(visitor):
    thread, has_event = visitor.result("whereabouts")[0].split()
    assert int(thread) == worker.run(threading.get_ident) != threading.get_ident()
    assert worker.run(worker.run, threading.get_ident) == int(thread), "called from that thread itself"
    assert has_event == "True", "the handler finds what Gradio keeps beside its call"


@pytest.mark.parametrize("event", ["once", "stream", "talkative"])
def test_a_visitor_who_leaves_ends_the_run_and_the_next_one_begins(visitor, long, event):
    visitor.join(event)
    with visitor.stream() as stream:
        lines = stream.iter_lines()
        next(lines)
        assert long.begun.wait(WAIT)
    visitor.http.close()
    assert long.stopped.wait(WAIT)
    assert Visitor(str(visitor.http.base_url), visitor.events).result("whereabouts")


@pytest.mark.parametrize("event", ["once", "stream", "talkative"])
def test_stop_ends_the_run_and_the_next_one_begins(visitor, long, event):
    joined = visitor.join(event)
    with visitor.stream() as stream:
        lines = stream.iter_lines()  # kept: letting go of it would close the connection
        next(lines)
        assert long.begun.wait(WAIT)
        assert visitor.http.post("gradio_api/cancel", json=joined).json()["success"]
    assert long.stopped.wait(WAIT)
    assert event != "stream" or long.closed.wait(WAIT), "what the run holds is let go"
    assert Visitor(str(visitor.http.base_url), visitor.events).result("whereabouts")


@pytest.mark.parametrize("answers", [1, 2])
def test_stop_between_two_steps_ends_the_run(visitor, long, answers, monkeypatch):
    """Stop comes while Gradio sends an answer, not while a step computes; nothing is left to the garbage collector."""
    sending, counted, send = threading.Event(), itertools.count(1), gr.Blocks.postprocess_data

    async def slow(demo, *args, **kwargs):
        if next(counted) == answers:
            sending.set()
            await asyncio.sleep(WAIT)
        return await send(demo, *args, **kwargs)

    monkeypatch.setattr(gr.Blocks, "postprocess_data", slow)
    gc.disable()
    try:
        joined = visitor.join("talkative")
        assert sending.wait(WAIT)
        assert visitor.http.post("gradio_api/cancel", json=joined).json()["success"]
        assert long.stopped.wait(WAIT)
    finally:
        gc.enable()


def test_faults_come_out_where_they_are_waited_for():
    with pytest.raises(ZeroDivisionError):
        worker.run(lambda: 1 / 0)
    assert worker.run(int, "7") == 7


def test_every_kind_of_run_of_the_model_ends_within_a_step(tiny_model):
    picture = tiny_model.decode(tiny_model.encode_text(["a"]).pooled)[0]
    runs = {
        "prior": lambda: tiny_model.generate_steps("a red apple", prior_steps=50),
        "decoder": lambda: tiny_model.decode_steps(tiny_model.encode_text(["a"]).pooled, steps=50),
        "upsampler": lambda: tiny_model.upsample_steps([picture], 256, steps_256=50),
        "invert": lambda: tiny_model.invert_steps(picture, steps=50),
    }
    for name, begin in runs.items():
        asked = itertools.count()
        with pytest.raises(Stopped), stopping.until(lambda asked=asked: next(asked) > 3):
            for step in begin():
                assert step.index <= 5, name
