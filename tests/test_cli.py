"""The command line, run as a person runs it."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unclip_core import cli
from unclip_core.provenance import read_recipe
from unclip_core.request import GenerateRequest

ROOT = Path(__file__).resolve().parent.parent


def test_generate_writes_pngs_with_recipes_twice_the_same(tiny_pack, tmp_path, capsys):
    for name in ("one", "two"):
        arguments = ["generate", "a red apple", "--n", "2", "--size", "256", "--pack", str(tiny_pack)]
        assert cli.main([*arguments, "--out", str(tmp_path / name)]) == 0
    one, two = (sorted((tmp_path / name).iterdir()) for name in ("one", "two"))
    assert [file.name for file in one] == ["a-red-apple-0-0.png", "a-red-apple-0-1.png"]
    assert [file.read_bytes() for file in one] == [file.read_bytes() for file in two]
    assert Image.open(one[0]).size == (256, 256)
    assert str(one[0]) in capsys.readouterr().out


def test_a_recipe_makes_the_picture_again(tiny_pack, tiny_model, tmp_path):
    where = ["--pack", str(tiny_pack), "--out", str(tmp_path)]
    assert cli.main(["generate", "빨간 사과", "--n", "2", "--seed", "5", "--dtype", "float32", *where]) == 0
    path = tmp_path / "빨간-사과-5-1.png"
    recipe = read_recipe(path)
    assert recipe["pack"] == {"name": "tiny", "hash": tiny_model.hash} and recipe["index"] == 1
    again = tiny_model.generate(GenerateRequest(**recipe["request"]))[recipe["index"]]
    assert np.array_equal(np.asarray(again), np.asarray(Image.open(path)))


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["generate", ""], "empty"),
        (["generate", "a" * 2000], "too long"),
        (["generate", "a\0b"], "control"),
        (["generate", "a dog", "--pack", "no-such-pack"], "no pack"),
        (["generate", "a dog", "--size", "100", "--pack", "TINY"], "size must be one of"),
        (["generate", "a dog", "--decoder-guidance", "nan", "--pack", "TINY"], "guidance must be a number"),
        (["generate", "a dog", "--n", "-1", "--pack", "TINY"], "number of pictures"),
        (["generate", "a dog", "--prior", "oracle", "--pack", "TINY"], "prior must be one of"),
        (["packs", "/"], "pack.json"),
    ],
)
def test_faults_are_one_line_on_stderr(arguments, fault, tiny_pack, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([str(tiny_pack) if item == "TINY" else item for item in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1 and printed.err.startswith("error: ") and fault in printed.err
    assert list(tmp_path.iterdir()) == []


def test_packs_checks_one(tiny_pack, capsys):
    assert cli.main(["packs", str(tiny_pack)]) == 0
    assert "tiny" in capsys.readouterr().out


def test_as_a_module_a_fault_is_no_traceback(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "unclip_core", "generate", "a\x1b[31m dog"],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == 2 and "Traceback" not in run.stderr and "\x1b" not in run.stderr


@pytest.mark.parametrize("command", ["corpus", "train", "evaluate"])
def test_other_commands_have_help_of_their_own(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([command, "--help"])
    assert stopped.value.code == 0 and command in capsys.readouterr().out
