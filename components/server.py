"""How the page is served: offline by default, closed where Gradio is open, and clear when it cannot start."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

MAX_BODY = 24_000_000
# Everything the page loads is served by this process. Gradio's bundle needs inline and evaluated scripts.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "worker-src 'self' blob:",
        "connect-src 'self' data: blob:",
        "form-action 'self'",
        "base-uri 'self'",
        "object-src 'none'",
    )
)


def prepare(offline: bool = True) -> None:
    """Set what Gradio and the Hub client read when they are imported. Call it before importing either."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # Gradio sums up all events anew after each one, for a monitoring page that is switched off.
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = "1000000000"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    # Uploads and served copies live in a folder that goes when the app ends.
    folder = tempfile.mkdtemp(prefix="unclip-served-")
    os.environ["GRADIO_TEMP_DIR"] = folder
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))


def check_port(host: str, port: int) -> None:
    """Exit with what to do if the address cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as fault:
            sys.exit(
                f"Cannot listen on {host}, port {port}: {fault.strerror}.\n"
                "If another program, or another copy of this one, uses that port, choose a different one: "
                f"--port {port + 1}"
            )


class Guard:
    """ASGI middleware: refuses bodies that are too large, as they arrive, and sends the content policy."""

    def __init__(self, app: Any, limit: int = MAX_BODY) -> None:
        self.app, self.limit = app, limit

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        announced = headers.get(b"content-length", b"0")
        if not announced.isdigit() or int(announced) > self.limit:
            await _refuse(send, self.limit)
            return
        received, answered = 0, False

        async def counted() -> dict:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.limit:
                raise _TooLarge
            return message

        async def with_policy(message: dict) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                extra = [
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"same-origin"),
                ]
                message = {**message, "headers": [*message.get("headers", []), *extra]}
            await send(message)

        try:
            await self.app(scope, counted, with_policy)
        except _TooLarge:
            if not answered:
                await _refuse(send, self.limit)


class OwnPage:
    """ASGI middleware: takes the social-card tags out of the page, which its template points at other hosts."""

    CARDS = re.compile(rb"<meta\s[^>]*(?:og:|twitter:)[^>]*>\s*")

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Any, send: Any) -> None:
        start: dict = {}
        held: list[bytes] = []

        async def cleaned(message: dict) -> None:
            if message["type"] == "http.response.start" and b"text/html" in dict(message["headers"]).get(
                b"content-type", b""
            ):
                start.update(message)
            elif start and message["type"] == "http.response.body":
                held.append(message.get("body", b""))
                if not message.get("more_body"):
                    await self._send_whole(send, start, b"".join(held))
            else:
                await send(message)

        await self.app(scope, receive, cleaned if scope["type"] == "http" else send)

    async def _send_whole(self, send: Any, start: dict, body: bytes) -> None:
        body = self.CARDS.sub(b"", body)
        headers = [pair for pair in start["headers"] if pair[0] != b"content-length"]
        await send({**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]})
        await send({"type": "http.response.body", "body": body})


class _TooLarge(Exception):
    pass


async def _refuse(send: Any, limit: int) -> None:
    body = f'{{"detail": "The request is larger than {limit // 1_000_000} MB."}}'.encode()
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def fetch_nothing() -> None:
    """Refuse a picture that is given as an address: Gradio would fetch it, and this app asks no other host."""
    import gradio as gr
    from gradio import processing_utils

    async def refuse(*_: Any, **__: Any) -> None:
        raise gr.Error("A picture is sent as a file, not as an address: upload it.", print_exception=False)

    processing_utils.async_ssrf_protected_download = refuse


def launch_options(host: str, port: int | None, share: bool, mcp: bool) -> dict[str, Any]:
    """Arguments of `launch()` that decide who may do what."""
    from starlette.middleware import Middleware

    return {
        "server_name": host,
        "server_port": port,
        "share": share,
        "mcp_server": mcp,
        "strict_cors": True,
        "run_history": False,
        "enable_monitoring": False,
        "state_session_capacity": 200,
        "allowed_paths": [],
        "max_file_size": MAX_BODY - 2_000_000,
        "footer_links": [],
        "ssr_mode": False,
        "pwa": False,
        "favicon_path": str(Path(__file__).parent.parent / "assets" / "icons" / "favicon.png"),
        "show_error": True,
        "app_kwargs": {"middleware": [Middleware(Guard), Middleware(OwnPage)], "docs_url": None, "redoc_url": None},
    }
