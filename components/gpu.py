"""ZeroGPU: a graphics card lent for the length of one call. Without the `spaces` package nothing here does anything.

There a call that needs the card runs in a forked process, and what goes in and out is pickled. A web request cannot be;
of it the handlers read the address's query alone, so that is what travels.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

SECONDS = 60  # at most, for one call


def prepare() -> None:
    """Import `spaces` where the host lends cards. Call it before torch looks for a device."""
    if os.environ.get("SPACES_ZERO_GPU") and present():
        import spaces  # noqa: F401  its import makes torch see the card that will be lent


def present() -> bool:
    """Whether the `spaces` package is here."""
    return importlib.util.find_spec("spaces") is not None


def place(demo: Any) -> Any:
    """Decorate every event of `demo` that runs the model with `spaces.GPU`, where that is importable; gives `demo`."""
    if present():
        import spaces

        for event in demo.fns.values():
            if event.concurrency_id == "model" and event.fn is not None:
                event.fn = lent(event.fn, spaces.GPU(duration=SECONDS))
    return demo


def lent(handler: Callable, gpu: Callable[[Callable], Callable]) -> Callable:
    """`handler` as it is for Gradio, with its work done under the decorator `gpu`."""
    from gradio.context import LocalContext

    if inspect.isgeneratorfunction(handler):

        @gpu
        def there(asked: Any, args: tuple, kwargs: dict) -> Any:
            LocalContext.request.set(asked)
            yield from handler(*args, **kwargs)

        @functools.wraps(handler)
        def stream(*args: Any, **kwargs: Any) -> Any:
            yield from there(portable(LocalContext.request.get(None)), tuple(map(portable, args)), kwargs)

        return stream

    @gpu
    def there_once(asked: Any, args: tuple, kwargs: dict) -> Any:
        LocalContext.request.set(asked)
        return handler(*args, **kwargs)

    @functools.wraps(handler)
    def once(*args: Any, **kwargs: Any) -> Any:
        return there_once(portable(LocalContext.request.get(None)), tuple(map(portable, args)), kwargs)

    return once


def portable(value: Any) -> Any:
    """A request or an event as something that pickles and answers the same questions; all else as it is."""
    import gradio as gr

    if isinstance(value, gr.Request):
        return SimpleNamespace(query_params=dict(value.query_params), session_hash=value.session_hash)
    if isinstance(value, gr.EventData):
        return SimpleNamespace(_data=value._data)
    return value
