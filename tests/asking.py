"""Asking the running app as a script past its page would: the labs' endpoints, uploads, and the arena's events."""

import json
import uuid
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import httpx

WAIT = 600  # seconds, before an answer is taken to be missing


class Asking:
    """One server, asked by anybody."""

    def __init__(self, address: str) -> None:
        self.http = httpx.Client(base_url=address, timeout=WAIT)

    @cached_property
    def config(self) -> dict[str, Any]:
        return self.http.get("config").json()

    @cached_property
    def described(self) -> dict[str, Any]:
        return self.http.get("gradio_api/info").json()["named_endpoints"]

    def defaults(self, endpoint: str) -> dict[str, Any]:
        """An endpoint's arguments in their order, each with what it is where it is left out."""
        parameters = self.described[f"/{endpoint}"]["parameters"]
        return {one["parameter_name"]: one["parameter_default"] for one in parameters}

    def begin(self, endpoint: str, **values: Any) -> Iterator[dict[str, Any]]:
        """The messages of one call, as they come. Raises HTTPStatusError where it is not even queued."""
        number = next(d["id"] for d in self.config["dependencies"] if d["api_name"] == endpoint)
        defaults = self.defaults(endpoint)
        assert set(values) <= set(defaults), "an argument that the endpoint has not"
        session = uuid.uuid4().hex
        data = list({**defaults, **values}.values())
        # json.dumps writes NaN, which strict writers refuse; httpx would too.
        body = json.dumps({"data": data, "fn_index": number, "session_hash": session})
        headers = {"content-type": "application/json"}
        self.http.post("gradio_api/queue/join", content=body, headers=headers).raise_for_status()
        with self.http.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

    def ask(self, endpoint: str, **values: Any) -> dict[str, Any]:
        """The last message: "success", and "output" with "data" or "error"."""
        try:
            return next(one for one in self.begin(endpoint, **values) if one["msg"] == "process_completed")
        except httpx.HTTPStatusError as fault:
            return {"success": False, "output": {"error": fault.response.text}}

    def fetch(self, file: dict[str, Any]) -> bytes:
        """The bytes of a file that an answer names."""
        return self.http.get(file["url"]).content

    def upload(self, name: str, data: bytes) -> dict[str, Any]:
        """Send a file as the page does -> the value of a picture input."""
        sent = self.http.post("gradio_api/upload", files={"files": (name, data)})
        assert sent.status_code == 200, sent.text
        return {"path": sent.json()[0], "orig_name": name, "meta": {"_type": "gradio.FileData"}}

    def arena(self, event: str, data: Any) -> dict[str, Any]:
        """The arena page after one of its events ("arrive", "vote")."""
        view = next(c["id"] for c in self.config["components"] if c["props"].get("elem_id") == "arena")
        number = next(d["id"] for d in self.config["dependencies"] if [view, event] in d["targets"])
        body = {"data": [], "event_data": data, "fn_index": number, "session_hash": "x"}
        answer = self.http.post("gradio_api/run/predict", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"][0]
