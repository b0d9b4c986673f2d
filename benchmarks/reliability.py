"""Whether the app holds up: ``python benchmarks/reliability.py``. Prints measured figures beside their passes.

    python benchmarks/reliability.py                 # the shipped pack: half an hour on two idle cores
    python benchmarks/reliability.py --quick         # a small version on a pack of random numbers: minutes
    python benchmarks/reliability.py --only soak     # one test alone

The real server is asked over HTTP as its page asks it, on this machine alone. Exit status 1 says that a figure failed.
Memory, files and threads are read from /proc, so Linux is needed. That a run was given up shows where the next one
begins: the model draws for one visitor at a time.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import statistics
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import httpx
import numpy as np
from PIL import Image

from benchmarks.pocket import ROOT, running
from unclip_core.provenance import read_recipe

PATIENCE = 600  # seconds for one request, queueing included
PREVIEW = re.compile(r"data:image/webp;base64,[\w+/=]+")


class Busy(Exception):
    """The server said clearly that it has too much to do."""


class Fault(Exception):
    """Any answer that is neither pictures nor "busy"."""


@dataclass(frozen=True)
class Finding:
    """One row of the table."""

    test: str
    figure: str
    measured: str
    passes: str
    passed: bool


@dataclass(frozen=True)
class Drawn:
    """What a visitor got: the PNG files, and every preview shown on the way."""

    files: list[bytes]
    previews: frozenset[str]

    def arrays(self) -> np.ndarray:
        """[B, H, W, 3] uint8."""
        return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in self.files])


class App:
    """The running app: how its Create lab is asked, and what its process holds."""

    def __init__(self, address: str, pid: int) -> None:
        self.address, self.pid = address, pid
        config = httpx.get(f"{address}config", timeout=PATIENCE).json()
        widgets = {widget["id"]: widget["props"] for widget in config["components"]}
        prompt = next(number for number, props in widgets.items() if props.get("elem_id") == "prompt")
        run = next(d for d in config["dependencies"] if d["backend_fn"] and prompt in d["inputs"])
        self.event: int = run["id"]
        self._values = [widgets[number].get("value") for number in run["inputs"]]
        # The widgets of one request, by the order in which the lab names them.
        names = ["prompt", "prior", "size", "n", "seed", "prior_steps", "prior_guidance", "candidates", "decoder_steps"]
        self._places = {name: place for place, name in enumerate(names, run["inputs"].index(prompt))}

    def values(self, **asked: Any) -> list[Any]:
        """What the page would send."""
        values = list(self._values)
        for name, value in asked.items():
            values[self._places[name]] = value
        return values

    def held(self) -> tuple[float, int, int]:
        """(MB of memory, open files, threads) of the server's process at rest."""
        time.sleep(12)  # threads and connections that idle end by then
        status = Path(f"/proc/{self.pid}/status").read_text()
        memory, threads = (int(re.search(rf"{name}:\s+(\d+)", status)[1]) for name in ("VmRSS", "Threads"))
        return memory / 1024, len(os.listdir(f"/proc/{self.pid}/fd")), threads


class Visitor:
    """One session, as a tab of a browser holds it. Closing it is leaving the page."""

    def __init__(self, app: App) -> None:
        self.app, self.session = app, uuid.uuid4().hex
        self.http = httpx.Client(base_url=app.address, timeout=PATIENCE, verify=False)  # spares reading certificates
        self._joined: dict[str, Any] = {}

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *_: Any) -> None:
        self.http.close()

    def begin(self, **asked: Any) -> Iterator[dict[str, Any]]:
        """Ask for pictures; the messages that come back, until the last or until the stream is closed."""
        self._joined = {"fn_index": self.app.event, "session_hash": self.session}
        answer = self.http.post("gradio_api/queue/join", json={**self._joined, "data": self.app.values(**asked)})
        if answer.status_code == 503 and "full" in answer.text:
            raise Busy
        if answer.status_code != 200:
            raise Fault(f"{answer.status_code}: {answer.text[:200]}")
        self._joined["event_id"] = answer.json()["event_id"]
        return self._messages(time.perf_counter() + PATIENCE)

    def _messages(self, deadline: float) -> Iterator[dict[str, Any]]:
        with self.http.stream("GET", "gradio_api/queue/data", params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])
                if time.perf_counter() > deadline:
                    raise Fault("no answer in time")

    def stop(self) -> None:
        """Press Stop."""
        self.http.post("gradio_api/cancel", json=self._joined)

    def draw(self, **asked: Any) -> Drawn:
        """Ask, and wait for the pictures. Raises Busy or Fault."""
        previews: set[str] = set()
        for message in self.begin(**asked):
            output = message.get("output") or {}
            previews.update(PREVIEW.findall(json.dumps(output.get("data"))))
            if message["msg"] == "process_completed":
                if not message["success"]:
                    raise Fault(str(output.get("error")))
                files = [picture["file"]["url"] for picture in output["data"][1]["pictures"]]
                return Drawn([self._file(url) for url in files], frozenset(previews))
        raise Fault("the stream ended without an answer")

    def _file(self, url: str) -> bytes:
        answer = self.http.get(url)
        if answer.status_code != 200:
            raise Fault(f"{answer.status_code} for a finished picture")
        return answer.content


def draw(app: App, **asked: Any) -> Drawn:
    """As a visitor who comes for this alone."""
    with Visitor(app) as visitor:
        return visitor.draw(**asked)


# ---- the tests ----


def soak(app: App, quick: bool) -> Iterator[Finding]:
    """Many generations in a row: what the process holds must not grow with them."""
    first, more = (5, 20) if quick else (50, 500)
    seeds = iter(range(first + more))

    def generations(count: int) -> tuple[float, int, int]:
        for start in range(0, count, 10):  # a session draws ten and leaves
            with Visitor(app) as visitor:
                for _ in range(min(10, count - start)):
                    visitor.draw(prompt="a red apple", size=64, n=1, seed=next(seeds))
        return app.held()

    yield from _growth(f"soak: {more} generations after {first}", generations(first), generations(more))


def _growth(test: str, before: tuple[float, int, int], after: tuple[float, int, int]) -> Iterator[Finding]:
    """What the process holds must be what it held before, give or take."""
    for what, limit, old, new in zip(("memory", "open files", "threads"), (64, 2, 2), before, after):
        unit = " MB" if what == "memory" else ""
        told = f"{old:.0f} → {new:.0f}{unit} ({new - old:+.0f})"
        yield Finding(test, what, told, f"at most {limit:+}{unit}", new - old <= limit)


def isolation(app: App, quick: bool) -> Iterator[Finding]:
    """Sessions at once get what each gets alone, file by file and preview by preview."""
    sessions = 4 if quick else 16
    asked = [{"prompt": f"thing {seed}", "size": 64, "n": 1, "seed": seed} for seed in range(sessions)]
    alone = [draw(app, **one) for one in asked]
    with ThreadPoolExecutor(sessions) as pool:
        together = list(pool.map(lambda one: draw(app, **one), asked))
    foreign = sum(_foreign(drawn, one) for drawn, one in zip(together, asked))
    shown = Counter(preview for drawn in together for preview in drawn.previews)
    foreign += sum(times > 1 for times in shown.values())
    same = sum(
        one.previews == other.previews and np.array_equal(one.arrays(), other.arrays())
        for one, other in zip(alone, together)
    )
    test = f"isolation: {sessions} sessions at once, own seeds"
    yield Finding(test, "pictures and previews that reached another session", str(foreign), "0", foreign == 0)
    yield Finding(
        test, "sessions that got what they get alone", f"{same} of {sessions}", f"{sessions}", same == sessions
    )


def load(app: App, quick: bool) -> Iterator[Finding]:
    """More clients than the queue takes: each request is answered with its picture, or told that the app is busy."""
    clients, requests = (20, 2) if quick else (32, 10)
    total, outcomes, faults = clients * requests, Counter(), set()
    start = threading.Barrier(clients)

    def client(number: int) -> None:
        start.wait()
        with Visitor(app) as visitor:
            for seed in range(number * requests, (number + 1) * requests):
                asked = {"prompt": f"thing {seed}", "size": 64, "n": 1, "seed": seed}
                try:
                    outcomes["foreign" if _foreign(visitor.draw(**asked), asked) else "picture"] += 1
                except Busy:
                    outcomes["busy"] += 1
                    time.sleep(1)  # as a person would before the next try
                except (Fault, httpx.HTTPError) as fault:
                    outcomes["fault"] += 1
                    faults.add(repr(fault)[:200])

    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    for fault in faults:
        print(f"load: {fault}", file=sys.stderr)
    good = outcomes["picture"] + outcomes["busy"]
    test = f"load: {clients} clients x {requests} requests"
    told = f"{outcomes['picture']} pictures + {outcomes['busy']} told busy = {good}"
    yield Finding(test, "answers", told, f"{total}", good == total and outcomes["picture"] >= clients)
    other = outcomes["fault"] + outcomes["foreign"]
    yield Finding(test, "other errors, or another client's picture", str(other), "0", other == 0)


def _foreign(drawn: Drawn, asked: dict[str, Any]) -> int:
    """How many of the pictures belong to another request."""
    recipes = [read_recipe(file)["request"] for file in drawn.files]
    return sum(any(recipe[name] != value for name, value in asked.items()) for recipe in recipes)


def stops(app: App, quick: bool) -> Iterator[Finding]:
    """Stop is pressed at a random step; the next visitor's run begins."""
    return _broken_off(app, 5 if quick else 50, "Stop pressed", Visitor.stop)


def disconnects(app: App, quick: bool) -> Iterator[Finding]:
    """A visitor leaves at a random step; the next visitor's run begins."""
    return _broken_off(app, 5 if quick else 50, "visitor gone", lambda visitor: None)


LONG = {"prompt": "a red apple", "size": 64, "n": 4, "seed": 1, "decoder_steps": 60}


def _broken_off(app: App, runs: int, way: str, leave: Callable[[Visitor], None]) -> Iterator[Finding]:
    chance = random.Random(0)
    signs = _signs(app)
    idle, step = signs[0], float(np.diff(signs).max())
    before, waits, left = app.held(), [], time.perf_counter()
    for _ in range(runs + 1):
        with Visitor(app) as visitor:
            messages = _under_way(visitor.begin(**LONG))
            next(messages)
            waits.append(time.perf_counter() - left)
            for _ in range(chance.randrange(len(signs) - 2)):
                if next(messages, None) is None:
                    break
            time.sleep(chance.uniform(0, step))
            left = time.perf_counter()
            leave(visitor)
            messages.close()
    del waits[0]  # nobody was there before the first
    drawn = draw(app, **{**LONG, "decoder_steps": 3})
    test, longest = f"{way} at {runs} random steps", max(waits)
    told = f"longest {longest:.2f} s, median {statistics.median(waits):.2f} s"
    yield Finding(test, "until the next run begins", told, "2 s", longest <= 2)
    own = longest - idle
    yield Finding(
        test, f"of it, waiting for the run before ({idle:.2f} s pass where there is none)", f"{max(own, 0):.2f} s",
        f"a step ({step:.2f} s) + 0.5 s", own <= step + 0.5,
    )  # fmt: skip
    yield Finding(test, "pictures of the request after them", str(len(drawn.files)), "4", len(drawn.files) == 4)
    yield from _growth(test, before, app.held())


def _under_way(messages: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The messages that the run itself sends, from its first sign of life."""
    for message in messages:
        if message["msg"] == "process_completed" and not message["success"]:
            raise Fault(str((message.get("output") or {}).get("error")))
        if message["msg"] == "process_generating":
            yield message


def _signs(app: App) -> list[float]:
    """Seconds from asking to each message of a run that nothing disturbs."""
    with Visitor(app) as visitor:
        started = time.perf_counter()
        return [time.perf_counter() - started for _ in _under_way(visitor.begin(**LONG))]


def determinism(app: App, quick: bool) -> Iterator[Finding]:
    """Picture i of a request depends on the seed and i alone, however many are drawn with it."""
    counts = (1, 4) if quick else (1, 4, 16)
    for size in (64, 256):
        asked = {"prompt": "a red apple", "size": size, "seed": 5}
        many = {n: draw(app, **asked, n=n).arrays() for n in counts}
        again = draw(app, **asked, n=counts[0]).arrays()
        differ = int((again != many[counts[0]]).sum())
        yield Finding(f"determinism: {size} px", "values that differ when asked twice", str(differ), "0", differ == 0)
        apart = [
            np.abs(fewer.astype(int) - more[: len(fewer)]).ravel()
            for fewer, more in ((many[a], many[b]) for a, b in zip(counts, counts[1:]))
        ]
        share = min(float((values <= 1).mean()) for values in apart)
        most = max(int(values.max()) for values in apart)
        listed = " and ".join(map(str, counts))
        yield Finding(
            f"determinism: {size} px",
            f"values at most 1/255 apart, {listed} pictures a request",
            f"{share:.3%} (the furthest {most}/255)",
            "99.9%",
            share >= 0.999,
        )


TESTS = (soak, isolation, load, stops, disconnects, determinism)  # soak first: on a server that has held nothing yet


def table(findings: list[Finding]) -> str:
    """Measured figures beside their passes, in Markdown."""
    rows = [
        f"| {f.test} | {f.figure} | {f.measured} | {f.passes} | {'yes' if f.passed else '**no**'} |" for f in findings
    ]
    return "\n".join(["| test | figure | measured | passes at | passed |", "|---|---|---|---|---|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", help="a pack's name or folder (default: pocket; with --quick, random numbers)")
    parser.add_argument("--quick", action="store_true", help="fewer requests")
    parser.add_argument("--only", nargs="+", choices=[test.__name__ for test in TESTS], help="these tests alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="unclip-reliability-") as folder:
        os.environ["UNCLIP_HOME"] = folder  # no votes of a person's own
        pack = options.pack or (_random_pack(Path(folder)) if options.quick else "pocket")
        findings = []
        with open(Path(folder) / "log", "w+") as log, running(pack, log) as (server, address):
            app = App(address, server.pid)
            for test in TESTS:
                if not options.only or test.__name__ in options.only:
                    print(f"{test.__name__} ...", file=sys.stderr, flush=True)
                    findings += test(app, options.quick)
            log.seek(0)
            printed = log.read()
        faults = printed.count("Traceback")
        findings.append(Finding("all of these", "faults in the server's log", str(faults), "0", faults == 0))
        if faults:
            print(printed[-3000:], file=sys.stderr)
    print(table(findings))
    sys.exit(not all(finding.passed for finding in findings))


def _random_pack(folder: Path) -> str:
    """The tests' pack of random numbers."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny import write_tiny_pack

    return str(write_tiny_pack(folder / "tiny"))


if __name__ == "__main__":
    main()
