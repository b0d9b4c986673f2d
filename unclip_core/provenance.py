"""Where a picture comes from: its recipe in the PNG's text, content credentials (C2PA) as an extra, a visible mark.

None of these is tamper-proof: whoever re-saves a picture loses them. They say what made it, to whoever wants to know.
"""

import io
import json
import os
import tempfile
from collections.abc import Mapping
from importlib import util
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from unclip_core import __version__
from unclip_core.errors import RequestError

KEY = "unclip-recipe"
PNG = b"\x89PNG\r\n\x1a\n"
MOST_RECIPE = 200_000  # characters
MOST_FILE = 50_000_000
SOFTWARE = "unCLIP Explorer"
# The IPTC term for pictures made by a trained model.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


def save_png(picture: Image.Image, path: str | Path, recipe: Mapping[str, Any], mark: bool = False) -> Path:
    """Write a PNG that carries its recipe, whole or not at all. mark: draw a visible "AI-generated" on it.

    Raises RequestError if the file cannot be written.
    """
    path = Path(path)
    picture = marked(picture) if mark else picture
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, partial = tempfile.mkstemp(suffix=".png.partial", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(png_bytes(picture, recipe))
            os.chmod(partial, 0o644)
            os.replace(partial, path)
        except BaseException:
            os.unlink(partial)
            raise
    except OSError as fault:
        raise RequestError(f"{path.name}: cannot be written ({fault.strerror or fault}).", "write") from fault
    return path


def png_bytes(picture: Image.Image, recipe: Mapping[str, Any]) -> bytes:
    """The picture as PNG with its recipe in an international text chunk."""
    info = PngImagePlugin.PngInfo()
    text = json.dumps(recipe, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    info.add_itxt(KEY, text)
    info.add_text("Software", SOFTWARE)
    info.add_text("Source", SOURCE_TYPE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def read_recipe(source: str | Path | bytes) -> dict[str, Any]:
    """The recipe in a PNG file or its bytes. Raises RequestError if there is none or it cannot be read.

    What comes back is a stranger's JSON: check every value before use (`request.validate`).
    """
    text = _recipe_text(source if isinstance(source, bytes) else _read(Path(source)))
    if not isinstance(text, str) or len(text) > MOST_RECIPE:
        raise RequestError("The PNG's recipe is too long to be one of ours.", "recipe_broken")
    try:
        recipe = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError) as fault:
        raise RequestError("The PNG's recipe is damaged.", "recipe_broken") from fault
    if not isinstance(recipe, dict) or type(recipe.get("schema")) is not int:
        raise RequestError("The PNG's recipe is damaged.", "recipe_broken")
    if recipe["schema"] != 1:
        raise RequestError("The PNG's recipe was written by a newer version of this program.", "recipe_newer")
    if not isinstance(recipe.get("request"), dict):
        raise RequestError("The PNG's recipe is damaged.", "recipe_broken")
    return recipe


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(MOST_FILE + 1)
    except (OSError, ValueError) as fault:
        raise RequestError("The file cannot be read.", "picture_unreadable") from fault


def _recipe_text(data: bytes) -> Any:
    """The text chunk, without decoding a pixel where it stands before the picture, as ours does."""
    if not data.startswith(PNG):
        raise RequestError("This is not a PNG file, so it holds no recipe.", "recipe_format")
    if len(data) > MOST_FILE:
        raise RequestError("The file is too large to be one of ours.", "picture_bytes")
    try:
        picture = Image.open(io.BytesIO(data), formats=("PNG",))
        text = picture.info.get(KEY)
    except Exception as fault:  # Pillow's readers raise many kinds on hostile files
        raise RequestError("The PNG file is damaged or cut short.", "picture_broken") from fault
    if text is None:
        raise RequestError(
            "This PNG holds no recipe: it was not made here, or was saved anew elsewhere.", "recipe_none"
        )
    return text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def marked(picture: Image.Image, text: str = "AI-generated") -> Image.Image:
    """A copy with a small legible mark in the lower right corner."""
    picture = picture.convert("RGB")
    side = min(picture.size)
    font = ImageFont.load_default(size=max(8, side // 28))
    draw = ImageDraw.Draw(picture, "RGBA")
    left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
    pad = max(2, side // 128)
    x = picture.width - (right - left) - 2 * pad
    y = picture.height - (bottom - top) - 2 * pad
    draw.rectangle((x, y, picture.width, picture.height), fill=(0, 0, 0, 150))
    draw.text((x + pad - left, y + pad - top), text, font=font, fill=(255, 255, 255, 255))
    return picture


# ---- content credentials, where the optional package is installed ----


def credentials_available() -> bool:
    """Whether the optional package c2pa-python is installed."""
    return util.find_spec("c2pa") is not None


def add_credentials(path: str | Path, certificate: str | Path | None, key: str | Path | None) -> Path:
    """Sign a PNG in place with C2PA content credentials (trainedAlgorithmicMedia), with the host's own key. Offline.

    certificate: PEM chain; key: PEM private key for ES256. Raises RequestError if the package is absent or it
    fails; the PNG and its recipe stay as they were.
    """
    if certificate is None or key is None:
        raise RequestError("Content credentials need both a certificate and its key.", "credentials_key")
    if not credentials_available():
        raise RequestError("Content credentials need the extra package: pip install c2pa-python.", "credentials_absent")
    import c2pa

    path = Path(path)
    signed = path.with_suffix(".signed.png")
    manifest = {
        "claim_generator_info": [{"name": SOFTWARE, "version": __version__}],
        "title": path.name,
        "format": "image/png",
        "assertions": [
            {
                "label": "c2pa.actions",
                "data": {"actions": [{"action": "c2pa.created", "digitalSourceType": SOURCE_TYPE}]},
            }
        ],
    }
    try:
        info = c2pa.C2paSignerInfo(
            alg=b"es256",
            sign_cert=Path(certificate).read_bytes(),
            private_key=Path(key).read_bytes(),
            ta_url=None,
        )
        with c2pa.Signer.from_info(info) as signer, c2pa.Builder(json.dumps(manifest)) as builder:
            builder.sign_file(str(path), str(signed), signer)
        os.replace(signed, path)
    except Exception as fault:  # a native library, with its own kinds of error
        signed.unlink(missing_ok=True)
        raise RequestError(f"Content credentials could not be added: {fault}", "credentials_failed") from fault
    return path


def read_credentials(source: str | Path | bytes) -> dict[str, Any] | None:
    """What content credentials a PNG carries: None for none, else {"present": True, ...}.

    With the optional package also "state" ("Valid", "Invalid" or "Trusted"), "signer", "actions" and "source_type",
    None where they are not said. "Valid" says that nothing was changed since the signing, not who signed.
    """
    data = source if isinstance(source, bytes) else _read(Path(source))
    if b"caBX" not in data or not data.startswith(PNG):
        return None
    if not credentials_available():
        return {"present": True}
    import c2pa

    try:
        # A stranger's file may name addresses to fetch from: nothing is.
        context = c2pa.Context.from_dict({"verify": {"remote_manifest_fetch": False, "ocsp_fetch": False}})
        with c2pa.Reader("image/png", io.BytesIO(data), context=context) as reader:
            said = json.loads(reader.json())
        manifest = said["manifests"][said["active_manifest"]]
        made = [a["data"]["actions"] for a in manifest["assertions"] if a["label"].startswith("c2pa.actions")]
    except Exception:  # a native library, with its own kinds of error, on a stranger's file
        return {"present": True, "state": "Invalid", "signer": None, "actions": [], "source_type": None}
    actions = [action for group in made for action in group]
    return {
        "present": True,
        "state": said.get("validation_state"),
        "signer": manifest.get("signature_info", {}).get("issuer"),
        "actions": [action.get("action") for action in actions],
        "source_type": next((a["digitalSourceType"] for a in actions if "digitalSourceType" in a), None),
    }
