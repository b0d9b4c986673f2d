"""How fast the pocket pack is on this machine: ``python benchmarks/pocket.py``. Prints the README's table.

Times are medians of several runs in a process of its own, after one run that warms it up. The decoder's share of the
machine's matrix-multiply peak is a ratio within the same run. Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
CAPTION, RUNS = "a red apple", 5
STARTING = 600  # seconds until a start is taken to have failed: the machine may be busy


def median_seconds(work, runs: int = RUNS) -> float:
    """Median wall time of `work()`, after one call that is not counted."""
    work()
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


@contextmanager
def running(pack: str, log: IO[str] | None = None) -> Iterator[tuple[subprocess.Popen, str]]:
    """The app as a person starts it, from the moment its page is served: the process and the page's address.

    log: a file for all that it prints; without one its faults go where ours do.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, deadline = f"http://127.0.0.1:{port}/", time.perf_counter() + STARTING
    command = [sys.executable, "app.py", "--pack", pack, "--port", str(port)]
    streams = {"stdout": subprocess.DEVNULL} if log is None else {"stdout": log, "stderr": subprocess.STDOUT}
    server = subprocess.Popen(command, cwd=ROOT, **streams)
    try:
        while not _answers(address):
            if server.poll() is not None or time.perf_counter() > deadline:
                raise SystemExit("The app did not start: run python app.py to see why.")
            time.sleep(0.1)
        yield server, address
    finally:
        server.terminate()
        server.wait()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=2) as page:
            return page.status == 200
    except OSError:
        return False


def seconds_to_ready(pack: str) -> float:
    """From starting `python app.py` to its page being served."""
    started = time.perf_counter()
    with running(pack):
        return time.perf_counter() - started


def measure(pack: str) -> dict[str, float | str]:
    """Caption to picture at each size, memory, and the decoder's share of peak; run in a fresh process."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from unclip_core import UnCLIP

    torch.set_num_threads(min(2, os.cpu_count() or 1))
    started = time.perf_counter()
    model = UnCLIP.load(pack)
    found = {"load": time.perf_counter() - started}
    for size in (64, 256, 1024):
        if size == 64 or model.has(f"upsampler_{size}"):
            found[f"to_{size}"] = median_seconds(lambda size=size: model.generate(CAPTION, n=1, size=size, seed=0))
    found["memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    z_i = model.sample_prior(CAPTION, n=1, seed=0)
    layers = [layer for layer in model.stages["decoder"].modules() if getattr(layer, "packs", False)]
    for layer in layers:  # the counter does not know the operations on packed weights
        layer.packs = False
    with FlopCounterMode(display=False) as counted:
        model.decode(z_i, caption=CAPTION, seed=0)
    for layer in layers:
        layer.packs = True
    rate = counted.get_total_flops() / median_seconds(lambda: model.decode(z_i, caption=CAPTION, seed=0))
    dtype = model.stages["decoder"].unet.time.linear_1.weight.dtype  # what it is drawn with on this machine
    square = torch.randn(2048, 2048, dtype=dtype)
    peak = 2 * 2048**3 / median_seconds(lambda: square @ square)
    kind = str(dtype).removeprefix("torch.")
    return {**found, "decoder_gflops": rate / 1e9, "peak_gflops": peak / 1e9, "dtype": kind}


def table(found: dict[str, float | str]) -> str:
    """The README's Markdown table."""
    rows = [("app ready (page served)", f"{found['ready']:.1f} s")]
    rows += [(f"caption → {s} px", f"{found[f'to_{s}']:.2f} s") for s in (64, 256, 1024) if f"to_{s}" in found]
    rows.append(("peak memory of the process, after one of each", f"{found['memory_gb']:.2f} GB"))
    share = found["decoder_gflops"] / found["peak_gflops"]
    rows.append(
        (
            f"decoding's share of the machine's {found['dtype']} matrix-multiply peak",
            f"{share:.0%} of {found['peak_gflops']:.0f} GFLOP/s",
        )
    )
    return "\n".join(["| on two cores | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pack", default="pocket")
    parser.add_argument(
        "--json", action="store_true", help="measure in this process and print the numbers (used by itself)"
    )
    options = parser.parse_args()
    if options.json:
        print(json.dumps(measure(options.pack)))
        return
    command = [sys.executable, __file__, "--json", "--pack", options.pack]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    found = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout.splitlines()[-1]
    )
    print(table({**found, "ready": seconds_to_ready(options.pack)}))


if __name__ == "__main__":
    main()
