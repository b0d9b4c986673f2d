"""Starting the app as a person does."""

import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(pack: Path | str, *options: str) -> tuple[subprocess.Popen, str]:
    """The app as a person starts it, waited for until it answers."""
    port = free_port()
    command = [sys.executable, str(ROOT / "app.py"), "--pack", str(pack), "--port", str(port), *options]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    address = f"http://127.0.0.1:{port}/"
    for _ in range(720):
        if server.poll() is not None:
            pytest.fail(f"the server ended: {server.stdout.read()[-2000:]}")
        try:
            urllib.request.urlopen(address, timeout=2)
            return server, address
        except OSError:
            time.sleep(0.25)
    server.kill()
    pytest.fail("the server did not answer within three minutes")
