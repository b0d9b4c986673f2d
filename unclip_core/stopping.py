"""Ending a run between two of its steps: whoever runs the model can say that nobody waits for the pictures any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_given_up: ContextVar[Callable[[], bool] | None] = ContextVar("given_up", default=None)


class Stopped(Exception):
    """The run was given up; nothing is wrong."""


@contextmanager
def until(given_up: Callable[[], bool]) -> Iterator[None]:
    """Within this block every run of the model asks `given_up` at each step, and ends in Stopped where it says so."""
    token = _given_up.set(given_up)
    try:
        yield
    finally:
        _given_up.reset(token)


def check() -> None:
    """Raises Stopped if the run in progress was given up."""
    given_up = _given_up.get()
    if given_up is not None and given_up():
        raise Stopped
