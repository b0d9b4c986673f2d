"""The one thread that calls the model, and the end of a run that nobody waits for any more.

PyTorch keeps threads of its own for every thread that calls it, and two such groups on the same cores hinder one
another even where one of them is idle. So a single thread loads the model and runs it, step by step, for every visitor
in turn.

A run ends within a step of its visitor pressing Stop, closing the page, or breaking off a call of the API.
"""

from __future__ import annotations

import asyncio
import atexit
import contextvars
import functools
import inspect
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import gradio as gr
from gradio.context import LocalContext

from unclip_core import stopping

_END = object()
PATIENCE = 30  # seconds that the end of the process waits for a step


class _Worker:
    """A thread that makes calls one after another. It starts with the first of them, and ends before the process does:
    Python aborts where a thread still computes while it closes down."""

    ending = False

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[Future, Callable[[], Any]]] = queue.SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def submit(self, call: Callable[..., Any], *args: Any) -> Future:
        """Make the call with its caller's context variables, once those before it are done."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="model", daemon=True)
                self._thread.start()
                atexit.register(self.end)
        future: Future = Future()
        self._calls.put((future, functools.partial(contextvars.copy_context().run, call, *args)))
        return future

    def runs_here(self) -> bool:
        return threading.current_thread() is self._thread

    def end(self) -> None:
        """Have the run in progress given up, and wait until it is."""
        self.ending = True
        self.submit(lambda: None)  # wakes a thread that waits
        self._thread.join(PATIENCE)

    def _work(self) -> None:
        while not self.ending:
            future, call = self._calls.get()
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(call())
                except BaseException as fault:
                    future.set_exception(fault)
            del future, call  # what a run holds goes as the run ends, not when the next begins


_worker = _Worker()


def run(call: Callable[..., Any], *args: Any) -> Any:
    """Make a call on the model's thread, and wait for what it gives."""
    return call(*args) if _worker.runs_here() else _worker.submit(call, *args).result()


def on_worker(handler: Callable[..., Any]) -> Callable[..., Any]:
    """A function that runs on the model's thread whoever calls it: for short work outside the queue of runs."""

    @functools.wraps(handler)
    def moved(*args: Any) -> Any:
        return run(handler, *args)

    return moved


def place(demo: gr.Blocks) -> gr.Blocks:
    """Move every event of `demo` that runs the model to the model's thread; gives `demo`."""
    for event in demo.fns.values():
        if event.concurrency_id == "model" and event.fn is not None:
            event.fn = _visited(event.fn, demo)
    return demo


class _Visit:
    """One visitor's run: its steps on the model's thread, as long as the visitor is there."""

    def __init__(self, demo: gr.Blocks) -> None:
        self._event = demo._queue.event_ids_to_events.get(LocalContext.event_id.get(None))
        self._over = False

    async def step(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return await asyncio.wrap_future(_worker.submit(self._within, call, *args))
        except stopping.Stopped:
            raise gr.Error("The run was given up.", print_exception=False) from None  # to nobody
        except BaseException:  # Stop cancels what is awaited
            self._over = True
            raise

    def _within(self, call: Callable[..., Any], *args: Any) -> Any:
        with stopping.until(self._given_up):
            return call(*args)

    def _given_up(self) -> bool:
        """Gradio marks a run whose visitor has gone, but lets it go on until it next yields."""
        return (
            _worker.ending or self._over or (self._event is not None and (not self._event.alive or self._event.closed))
        )


def _visited(handler: Callable[..., Any], demo: gr.Blocks) -> Callable[..., Any]:
    """`handler`, a function or a generator, as Gradio's event loop may await it."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        async def stream(*args: Any, **kwargs: Any) -> Any:
            visit, steps = _Visit(demo), handler(*args, **kwargs)
            # Gradio forgets a generator that is stopped while its first answer is being sent; the run's task knows.
            asyncio.current_task().add_done_callback(lambda _: _worker.submit(steps.close))
            while (shown := await visit.step(next, steps, _END)) is not _END:
                yield shown

        return stream

    @functools.wraps(handler)
    async def once(*args: Any, **kwargs: Any) -> Any:
        return await _Visit(demo).step(functools.partial(handler, *args, **kwargs))

    return once
