"""Shared by the tests: the packs they run on."""

import os
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ["UNCLIP_HOME"] = tempfile.mkdtemp(prefix="unclip-tests-")  # votes of tests are not a person's own

from pathlib import Path

import pytest
from tiny import write_tiny_pack

from unclip_core.packs import INDEX, SHIPPED
from unclip_core.pipeline import UnCLIP


@pytest.fixture(scope="session")
def tiny_pack(tmp_path_factory) -> Path:
    """Folder of a random-weight pack of every stage. Tests that damage it work on a copy."""
    return write_tiny_pack(tmp_path_factory.mktemp("packs") / "tiny")


@pytest.fixture(scope="session")
def tiny_model(tiny_pack) -> UnCLIP:
    return UnCLIP.load(tiny_pack, device="cpu", dtype="float32")


def pytest_collection_modifyitems(items):
    """What needs the trained pack is skipped, and said so, where there is none."""
    if (SHIPPED / "pocket" / INDEX).is_file():
        return
    for item in items:
        if item.get_closest_marker("pack"):
            item.add_marker(pytest.mark.skip(reason="assets/packs/pocket is not there"))


@pytest.fixture(scope="session")
def pocket_model() -> UnCLIP:
    """The shipped pack. Tests that ask for it carry the mark `pack`."""
    return UnCLIP.load("pocket", device="cpu")
