"""The one family of errors: every message is written for the person who reads it."""

from typing import Any


class UnclipError(ValueError):
    """Something a person can put right. `str(error)` says what is wrong and what to do.

    `code` names the kind of fault and `facts` what it is about, for whoever shows it in another language.
    """

    def __init__(self, message: str, code: str = "", **facts: Any):
        super().__init__(message)
        self.code = code
        self.facts = facts


class PackError(UnclipError):
    """A model pack is missing, damaged, or not one of ours; the message names the file and the fault."""


class RequestError(UnclipError):
    """A request cannot be served as it was made; the message names the field and what it may hold."""
