"""unCLIP (arXiv 2204.06125), part by part: `from unclip_core import UnCLIP`.

The names below are imported when first used, so that the small modules can be used without loading the networks.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "UnCLIP": "unclip_core.pipeline",
    "Step": "unclip_core.drawing",
    "Latent": "unclip_core.latents",
    "GenerateRequest": "unclip_core.request",
    "open_picture": "unclip_core.pictures",
    "save_png": "unclip_core.provenance",
    "read_recipe": "unclip_core.provenance",
    "UnclipError": "unclip_core.errors",
    "PackError": "unclip_core.errors",
    "RequestError": "unclip_core.errors",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
