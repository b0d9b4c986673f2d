"""Imports point one way: components -> pipeline -> stages -> samplers and networks -> layers and schedule."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CORE = ROOT / "unclip_core"

# From the bottom up: a module may import from its own row and those above it here.
ROWS = [
    {"errors", "cpu", "winograd", "stopping"},
    {"configs", "schedule", "request", "pictures", "layers"},
    {"denoiser", "provenance", "packs", "latents"},
    {"sampling", "unet", "objective"},
    {"clip"},
    {"prior_diffusion", "prior_ar", "decoder", "upsampler"},
    {"loading", "karlo", "drawing"},
    {"pipeline"},
    {"corpus", "training", "evaluation"},
    {"cli"},
    {"__main__"},
]
ROW = {name: number for number, names in enumerate(ROWS) for name in names}


def imports(path):
    """(line, module) of every import in a file, lazy ones too; "unclip_core.x" for `from unclip_core import x`.

    Imports for annotations alone (`if TYPE_CHECKING:`) are left out: they are not run.
    """
    tree = ast.parse(path.read_text("utf-8"))
    unrun = [n for n in ast.walk(tree) if isinstance(n, ast.If) and getattr(n.test, "id", "") == "TYPE_CHECKING"]
    skipped = {id(inner) for block in unrun for inner in ast.walk(block)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module
            if node.module == "unclip_core":
                yield from ((node.lineno, f"unclip_core.{alias.name}") for alias in node.names)


def part(path):
    """Of the core: the module or package a file belongs to; the loader of the published weights is several files."""
    name = path.relative_to(CORE).parts[0].removesuffix(".py")
    return "karlo" if name.startswith("karlo") else name


FILES = sorted(CORE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_imports_point_one_way(path):
    own = part(path)
    assert own == "__init__" or own in ROW, f"give {own} a row in this test"
    for line, module in imports(path):
        if not module.startswith("unclip_core.") or own == "__init__":
            continue
        other = part(CORE / module.split(".")[1])
        if other == "__version__":
            continue
        assert other in ROW, f"{path.name}:{line} imports {module}"
        assert ROW[other] <= ROW[own], f"{path.name}:{line}: {own} may not import {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_knows_nothing_of_the_page(path):
    for line, module in imports(path):
        top = module.split(".")[0]
        assert top not in ("gradio", "components", "app", "plotly"), f"{path.name}:{line} imports {module}"


@pytest.mark.parametrize("path", sorted((ROOT / "components").rglob("*.py")), ids=lambda path: path.name)
def test_components_reach_the_core_through_its_front(path):
    """The page speaks to the pipeline, never to a network or a sampler."""
    inner = {f"unclip_core.{name}" for name in ("decoder", "upsampler", "prior_ar", "clip", "sampling", "unet")}
    for line, module in imports(path):
        assert module not in inner, f"{path.name}:{line} imports {module}"


def test_importing_the_front_is_light():
    code = "import sys, unclip_core; sys.exit('torch' in sys.modules or 'gradio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_the_pipeline_needs_no_page():
    code = "import sys, unclip_core.pipeline; sys.exit(any(m.split('.')[0] == 'gradio' for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120).returncode == 0


def test_at_most_ten_public_names():
    import unclip_core

    assert len(unclip_core.__all__) <= 10
    for name in unclip_core.__all__:
        assert getattr(unclip_core, name) is not None
    with pytest.raises(AttributeError):
        _ = unclip_core.nothing
