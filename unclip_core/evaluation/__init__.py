"""Measuring a pack: ``python -m unclip_core evaluate --pack pocket --report out/report.md``."""

from __future__ import annotations


def main(arguments: list[str] | None = None) -> int:
    """The command line of `evaluate`; imported when asked for, since it needs more packages than the app."""
    from unclip_core.evaluation.command import main as run

    return run(arguments)
