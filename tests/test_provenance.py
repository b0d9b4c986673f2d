"""Recipes go into PNGs and come back; damaged and foreign files are refused in words; the mark shows."""

import io
import os
import shutil
import struct
import subprocess
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from unclip_core import provenance
from unclip_core.errors import RequestError
from unclip_core.provenance import KEY, add_credentials, marked, png_bytes, read_credentials, read_recipe, save_png

PICTURE = Image.effect_noise((64, 64), 80).convert("RGB")
RECIPE = {
    "schema": 1,
    "lab": "create",
    "request": {"prompt": "빨간 <b>사과</b> 😎", "seed": 3},
    "index": 0,
    "z_i": "AAAA",
}


def png_with(text, kind="itxt"):
    info = PngImagePlugin.PngInfo()
    (info.add_itxt if kind == "itxt" else info.add_text)(KEY, text)
    buffer = io.BytesIO()
    PICTURE.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def with_chunk(data, kind, body):
    """The PNG with one more chunk after its header."""
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    return data[:33] + chunk + data[33:]


def test_recipe_and_pixels_come_back(tmp_path):
    path = save_png(PICTURE, tmp_path / "new folder" / "a.png", RECIPE)
    assert read_recipe(path) == RECIPE == read_recipe(path.read_bytes())
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(PICTURE))
    assert [file.name for file in path.parent.iterdir()] == ["a.png"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_same_picture_and_recipe_are_the_same_bytes():
    assert png_bytes(PICTURE, RECIPE) == png_bytes(PICTURE, RECIPE)


BOMB = zlib.compress(bytes(30_000_000))
PLAIN = io.BytesIO()
PICTURE.save(PLAIN, "PNG")
BAD = {
    "zero bytes": (b"", "not a PNG"),
    "a jpeg": (b"\xff\xd8\xff\xe0" + bytes(100), "not a PNG"),
    "only the first bytes": (b"\x89PNG\r\n\x1a\n", "damaged"),
    "no recipe": (PLAIN.getvalue(), "no recipe"),
    "not JSON": (png_with("{"), "damaged"),
    "not an object": (png_with("[1]"), "damaged"),
    "no schema": (png_with('{"request": {}}'), "damaged"),
    "newer schema": (png_with('{"schema": 2, "request": {}}'), "newer"),
    "no request": (png_with('{"schema": 1}'), "damaged"),
    "NaN": (png_with('{"schema": 1, "request": {"eta": NaN}}'), "damaged"),
    "deeply nested": (png_with("[" * 100_000), "damaged"),
    "a megabyte": (png_with('"' + "a" * 900_000 + '"'), "too long"),
    "a text bomb": (
        with_chunk(PLAIN.getvalue(), b"zTXt", KEY.encode() + b"\0\0" + BOMB),
        ".",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_files_are_refused_in_words(name):
    data, fault = BAD[name]
    with pytest.raises(RequestError, match=fault):
        read_recipe(data)
    assert read_recipe(png_bytes(PICTURE, RECIPE)) == RECIPE


def test_plain_text_chunks_are_read_too():
    assert read_recipe(png_with('{"schema": 1, "request": {}}', "text"))["schema"] == 1


def test_a_truncated_picture_still_tells_its_recipe():
    assert read_recipe(png_bytes(PICTURE, RECIPE)[:-3000]) == RECIPE


def test_what_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot be written"):
        save_png(PICTURE, tmp_path / "file" / "a.png", RECIPE)


def test_a_full_disk_leaves_no_partial_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RequestError, match="No space left"):
        save_png(PICTURE, tmp_path / "a.png", RECIPE)
    assert list(tmp_path.iterdir()) == []


def test_numbers_that_are_not_json_are_never_written():
    with pytest.raises(ValueError, match="JSON"):
        png_bytes(PICTURE, {"schema": 1, "request": {"eta": float("nan")}})


@pytest.mark.parametrize("side", [64, 256, 1024])
def test_the_mark_is_seen_in_its_corner_alone(side):
    plain = Image.new("RGB", (side, side), (200, 120, 40))
    changed = np.abs(np.asarray(marked(plain), int) - np.asarray(plain)).sum(-1) > 0
    rows, columns = np.nonzero(changed)
    assert rows.min() > side * 0.7 and columns.max() == side - 1
    assert 0.005 < changed.mean() < 0.2
    assert plain.getpixel((side - 1, side - 1)) == (200, 120, 40)  # the picture handed in stays as it was


def test_without_the_extra_package_credentials_say_so(tmp_path, monkeypatch):
    path = save_png(PICTURE, tmp_path / "a.png", RECIPE)
    monkeypatch.setattr(provenance.util, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match="c2pa-python"):
        add_credentials(path, tmp_path / "cert.pem", tmp_path / "key.pem")
    assert read_recipe(path) == RECIPE
    assert read_credentials(path) is None


def make_certificate(folder):
    """A chain of two test certificates and the key, as a host would bring its own."""
    run = [
        "openssl ecparam -name prime256v1 -genkey -noout -out ca.key",
        "openssl req -x509 -new -key ca.key -days 9 -subj /O=Test/CN=Root -out ca.pem"
        " -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign",
        "openssl ecparam -name prime256v1 -genkey -noout -out plain.key",
        "openssl pkcs8 -topk8 -nocrypt -in plain.key -out own.key",
        "openssl req -new -key own.key -subj /O=Test/CN=Signer -out own.csr",
        "openssl x509 -req -in own.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 9 -extfile ext -out own.pem",
    ]
    (folder / "ext").write_text(
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n"
        "extendedKeyUsage=critical,emailProtection\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    for command in run:
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    (folder / "chain.pem").write_text((folder / "own.pem").read_text() + (folder / "ca.pem").read_text())
    return folder / "chain.pem", folder / "own.key"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the test's certificate")
def test_credentials_say_that_a_model_made_it(tmp_path, monkeypatch):
    c2pa = pytest.importorskip("c2pa")
    path = save_png(PICTURE, tmp_path / "a.png", RECIPE)
    add_credentials(path, *make_certificate(tmp_path))
    assert read_recipe(path) == RECIPE
    assert np.array_equal(np.asarray(Image.open(path)), np.asarray(PICTURE))
    with c2pa.Reader(str(path)) as reader:
        said = reader.json()
    assert "trainedAlgorithmicMedia" in said and "claimSignature.validated" in said
    found = read_credentials(path)
    assert found["present"] and found["signer"] == "Test" and found["actions"] == ["c2pa.created"]
    assert found["state"] == "Valid" and found["source_type"].endswith("trainedAlgorithmicMedia")
    touched = bytearray(path.read_bytes())
    touched[-60] ^= 1
    assert read_credentials(bytes(touched))["state"] == "Invalid"
    monkeypatch.setattr(provenance.util, "find_spec", lambda name: None)
    assert read_credentials(path) == {"present": True}
    monkeypatch.undo()
    with pytest.raises(RequestError, match="could not be added"):
        add_credentials(path, tmp_path / "ca.pem", tmp_path / "none.key")
    assert read_recipe(path) == RECIPE
