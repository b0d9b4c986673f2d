"""The only bridge between the page and the core: requests in, streamed steps and saved pictures out.

An engine holds a model and a folder of files, and nothing of any visitor: a session's things live in `gr.State`.
"""

from __future__ import annotations

import atexit
import base64
import io
import re
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from unclip_core import UnCLIP
from unclip_core.errors import RequestError
from unclip_core.karlo import is_karlo
from unclip_core.karlo_extras import STAND_INS, add_stand_in
from unclip_core.pictures import open_picture
from unclip_core.provenance import read_recipe, save_png
from unclip_core.request import GenerateRequest, validate

KEEP_SECONDS, PREFIX = 6 * 3600, "unclip-pictures-"


@dataclass(frozen=True)
class Made:
    """A finished picture: its PNG file (recipe inside), the picture itself, and that recipe."""

    path: str
    picture: Image.Image
    recipe: dict[str, Any]


class Engine:
    """A loaded model, shared by every visitor and every lab."""

    def __init__(self, model: UnCLIP) -> None:
        self.model = model
        for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):  # by an app that was killed
            if time.time() - _last_change(left) > KEEP_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        self.folder = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._swept = time.monotonic()
        self._sweeping = threading.Lock()
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)

    @classmethod
    def load(cls, pack: str = "pocket", low_memory: bool = False, stand_in: str = "lanczos") -> Engine:
        """Load a pack by name or folder. `stand_in` goes to 1024 px where published weights have no way there:
        "lanczos" or "pocket". Raises PackError with the file and the fault.
        """
        model = UnCLIP.load(pack, low_memory=low_memory)
        if is_karlo(pack) and model.has("upsampler_256"):
            add_stand_in(model, stand_in)
        return cls(model)

    # What this pack can do

    @property
    def name(self) -> str:
        return self.model.name

    @property
    def device(self) -> str:
        """For people: "CPU, 2 threads" or the accelerator's name."""
        if self.model.device.type == "cuda":
            return torch.cuda.get_device_name(self.model.device)
        return f"{self.model.device.type.upper()} ×{torch.get_num_threads()}"

    def has(self, stage: str) -> bool:
        """Whether the pack holds a stage: clip, prior, prior_ar, decoder, upsampler_256, upsampler_1024, pca."""
        return self.model.has(stage)

    @property
    def width(self) -> int:
        """D, the numbers in an embedding."""
        return self.model.stages["clip"].embed_dim

    def sizes(self) -> list[int]:
        """The picture sizes this pack can make of its own, smallest first."""
        chain = [(64, "decoder"), (256, "upsampler_256"), (1024, "upsampler_1024")]
        able = {stage for _, stage in chain if self.has(stage) and stage not in self.model.stand_ins}
        return [size for i, (size, _) in enumerate(chain) if able.issuperset(stage for _, stage in chain[: i + 1])]

    @property
    def stand_in(self) -> str:
        """What goes to 1024 px in place of a model: "lanczos", "pocket" or ""."""
        label = self.model.stand_ins.get("upsampler_1024")
        return next((kind for kind, known in STAND_INS.items() if known == label), "")

    def default(self, stage: str, key: str, otherwise: Any = None) -> Any:
        """The pack's default, such as `default("decoder", "steps", 25)`; `otherwise` where the pack has none."""
        return self.model.defaults.get(stage, {}).get(key, otherwise)

    # Requests in, steps out

    def request(self, **fields: Any) -> GenerateRequest:
        """A checked request. Raises RequestError that names the field and what it may hold."""
        return validate(GenerateRequest(**fields), self.model)

    def generate(self, request: GenerateRequest, preview_every: int = 1) -> Iterator[Any]:
        """Stream the core's `Step`s of caption -> picture; the last step of the last stage holds the result."""
        return self.model.generate_steps(request, preview_every=preview_every)

    # Pictures and files

    def open(self, path: str | Path | None) -> Image.Image:
        """An uploaded file as an upright, opaque RGB picture. Raises RequestError in the user's words."""
        if not path:
            raise RequestError("There is no picture yet: upload one, or send one from the shelf.", "picture_none")
        return open_picture(path)

    def read(self, path: str | Path) -> dict[str, Any]:
        """The recipe inside a PNG file. Raises RequestError if there is none."""
        return read_recipe(path)

    def write(self, name: str, writer: Callable[[Path], Any]) -> str:
        """Have `writer` write a file to hand out (GIF, MP4, zip) at the path it is given; gives that path. The file is
        removed some hours later, and when the app ends.

        Raises RequestError where there is no place for it.
        """
        self._sweep()
        path = self.folder / uuid.uuid4().hex / name
        try:
            path.parent.mkdir(parents=True)
            writer(path)
        except OSError as fault:
            shutil.rmtree(path.parent, ignore_errors=True)
            raise RequestError(f"{name}: cannot be written ({fault.strerror or fault}).", "write") from fault
        return str(path)

    def save(
        self,
        pictures: list[Image.Image],
        lab: str,
        request: dict[str, Any] | GenerateRequest,
        *,
        z_i: torch.Tensor | None = None,
        parents: Sequence[str] = (),
        sources: Sequence[tuple[Image.Image, str | None] | None] = (),
    ) -> list[Made]:
        """Write finished pictures as PNG files, each with the recipe that makes it again.

        `lab` and `request` (JSON-able) are what the lab needs to restore itself, `parents` the recipe ids of the
        pictures it was made from, `z_i` [B, D] the embeddings they were decoded from. `sources`: the small pictures
        (64 px) that stood in the lab's picture inputs, by place, each with its recipe's id if it has one; they travel
        in the recipe, so that it needs no other file, and count as parents.
        """
        fields = asdict(request) if isinstance(request, GenerateRequest) else dict(request)
        lineage = [*parents, *dict.fromkeys(one[1] for one in sources if one is not None and one[1])]
        carried = {"sources": [_carried(one) for one in sources]} if sources else {}
        if fields.get("size") == 1024 and self.model.stand_ins:
            carried["stand_ins"] = dict(self.model.stand_ins)
        made = []
        for index, picture in enumerate(pictures):
            row = None if z_i is None else z_i[index]
            own_id = uuid.uuid4().hex[:12]
            recipe = self.model.recipe(request, index, row, lab=lab) | {"id": own_id, "parents": lineage, **carried}
            path = self.write(f"{_slug(lab, fields)}-{index + 1}.png", partial(save_png, picture, recipe=recipe))
            made.append(Made(path, picture, recipe))
        return made

    def _sweep(self) -> None:
        """Remove pictures that nobody can still be looking at, now and then."""
        if time.monotonic() - self._swept < 600 or not self._sweeping.acquire(blocking=False):
            return
        try:
            self._swept = time.monotonic()
            for entry in self.folder.iterdir():
                if time.time() - entry.stat().st_mtime > KEEP_SECONDS:
                    shutil.rmtree(entry, ignore_errors=True)
        finally:
            self._sweeping.release()


def _last_change(folder: Path) -> float:
    """When something was last written into a folder or the folders in it; now, if it is gone."""
    try:
        return max(entry.stat().st_mtime for entry in (folder, *folder.iterdir()))
    except OSError:
        return time.time()


def _carried(source: tuple[Image.Image, str | None] | None) -> dict[str, Any] | None:
    """A source picture as a recipe carries it."""
    if source is None:
        return None
    buffer = io.BytesIO()
    source[0].save(buffer, "PNG", optimize=True)
    return {"id": source[1], "picture": base64.b64encode(buffer.getvalue()).decode()}


def summary(lab: str, fields: dict[str, Any]) -> str:
    """A request in a few words: its caption, else the lab and its first settings ("variations eta 0.5 seed 3")."""
    if fields.get("prompt"):
        return str(fields["prompt"])
    told = [f"{name} {value}" for name, value in fields.items() if value not in ("", None) and name != "size"]
    return " ".join([lab, *told[:3]])


def _slug(lab: str, fields: dict[str, Any]) -> str:
    """A readable file name from a request: "a-red-apple-seed-0"."""
    words = re.sub(r"[^\w.]+", "-", summary(lab, fields).lower()).strip("-.")[:60] or "picture"
    return f"{words}-seed-{fields.get('seed', 0)}" if fields.get("prompt") else words
