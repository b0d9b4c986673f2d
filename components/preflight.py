"""Before a talk: does everything work with the network cut? What the server can tell; the page adds what it sees."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

from components import examples, limits, map_data, theme, tour_data
from components.engine import Engine
from components.i18n import t
from components.map import PLOTLY
from unclip_core.errors import UnclipError
from unclip_core.request import STAGE_NAMES

SLOW = 20.0  # seconds: longer than an audience waits for one picture
NAMESPACES = ("http://www.w3.org/",)  # names, not addresses that anything is fetched from

Finding = tuple[bool, str]


def checks(engine: Engine, lang: str) -> Iterator[dict[str, Any]]:
    """One finding after another: {"name": text key, "fine": bool, "detail": text}. The last draws a picture."""
    for name, look in CHECKS.items():
        try:
            fine, detail = look(engine, lang)
        except UnclipError as fault:
            fine, detail = False, str(fault)
        yield {"name": f"tour.check.{name}", "fine": fine, "detail": detail}


def report(engine: Engine, lang: str) -> bool:
    """`checks` on the terminal; True if all is well."""
    found = []
    for one in checks(engine, lang):
        print(f"  {'ok  ' if one['fine'] else 'LOOK'}  {t(one['name'], lang)}: {one['detail']}", flush=True)
        found.append(one["fine"])
    return all(found)


def _pack(engine: Engine, lang: str) -> Finding:
    missing = [
        label for stage, label in STAGE_NAMES.items() if not engine.has(stage) or stage in engine.model.stand_ins
    ]
    detail = f"{engine.name} ({engine.model.hash}), {engine.device}"
    return not missing, f"{detail}; {t('tour.check.lacks', lang)}: {', '.join(missing)}" if missing else detail


def _offline(engine: Engine, lang: str) -> Finding:
    set_ = {name: os.environ.get(name) for name in ("HF_HUB_OFFLINE", "GRADIO_ANALYTICS_ENABLED")}
    fine = set_ == {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    return fine, t("tour.check.offline_fine" if fine else "tour.check.offline_open", lang)


def _hosts(engine: Engine, lang: str) -> Finding:
    found = {url for url in re.findall(r"https?://[\w.-]+/?", theme.head()) if not url.startswith(NAMESPACES)}
    return not found, ", ".join(sorted(found)) or t("tour.check.none", lang)


def _fonts(engine: Engine, lang: str) -> Finding:
    names = [f"Pretendard-{name}.subset.woff2" for name in theme.FONTS.values()]
    lost = [name for name in names if not (theme.ASSETS / "fonts" / name).is_file()]
    return not lost, ", ".join(lost or names)


def _map(engine: Engine, lang: str) -> Finding:
    data = map_data.MapData.load()
    if data is None:
        return False, t("map.absent", lang)
    if not data.fits(engine.model):
        return False, t("map.other_pack", lang)
    return PLOTLY.is_file(), t("tour.check.pictures", lang, count=len(data))


def _examples(engine: Engine, lang: str) -> Finding:
    counts = {
        "create": len(examples.shipped()),
        "limits": sum(bool(limits.shipped(kind)["rows"]) for kind in limits.COUNTS),
        "tour": len(tour_data.shipped()["figures"]),
    }
    return all(counts.values()), ", ".join(f"{name} {count}" for name, count in counts.items())


def _sample(engine: Engine, lang: str) -> Finding:
    began = time.perf_counter()
    size = engine.sizes()[-1]
    engine.model.generate("a red apple", size=size)
    seconds = time.perf_counter() - began
    return seconds < SLOW, t("tour.check.took", lang, size=size, seconds=f"{seconds:.1f}")


CHECKS: dict[str, Callable[[Engine, str], Finding]] = {
    "pack": _pack,
    "offline": _offline,
    "hosts": _hosts,
    "fonts": _fonts,
    "map": _map,
    "examples": _examples,
    "sample": _sample,
}
