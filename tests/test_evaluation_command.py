"""`evaluate` from end to end, on a random-weight pack and a corpus of coloured squares."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_evaluation import CONCEPTS, small_evaluator

from unclip_core.corpus.shards import write_shards
from unclip_core.errors import UnclipError
from unclip_core.evaluation import command, parts, reference, studies
from unclip_core.evaluation import evaluator as store
from unclip_core.evaluation.bench import Bench, Drawn


def drawing(number: int, side: int) -> Image.Image:
    """A square of its own colour and place on white."""
    rng = np.random.default_rng(number)
    picture = Image.new("RGB", (side, side), "white")
    picture.paste(
        tuple(int(v) for v in rng.integers(0, 200, 3)), [int(v * side) for v in (0.1, 0.2, *rng.uniform(0.5, 0.9, 2))]
    )
    return picture


def sample(number: int, style: str, side: int) -> tuple[str, Image.Image, dict]:
    row = CONCEPTS[number % len(CONCEPTS)]
    label = row["label"]
    texts = [label, f"a {label}", f"{label} in {style} style"]
    fields = {"captions": texts, "kind": "single", "concept": row["code"], "style": style, "tone": 0}
    fields |= {name: row[name] for name in ("label", "label_ko", "group", "core")}
    return f"{style}_{number}", drawing(number, side), fields


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_shards(folder / "train", (sample(i, ("noto", "twemoji")[i % 2], 128) for i in range(24)))
    write_shards(folder / "held_out_pairs", (sample(i, ("noto", "twemoji")[i % 2], 128) for i in range(40)))
    write_shards(folder / "held_out_style", (sample(i, "openmoji", 128) for i in range(16)))
    write_shards(folder / "hires_held_out", (sample(i, "noto", 1024) for i in range(4)))
    return folder


@pytest.fixture(scope="session")
def judge(tmp_path_factory, corpus) -> Path:
    """A folder with an evaluator that knows nothing, and its reference."""
    folder = tmp_path_factory.mktemp("evaluator")
    store.save(small_evaluator(), folder, {})
    reference.measure(store.load(folder), corpus, folder)
    return folder


@pytest.fixture
def bench(tiny_model, judge, corpus, tmp_path) -> Bench:
    evaluator = store.load(judge)
    return Bench(tiny_model, evaluator, reference.load(evaluator, judge), tmp_path, captions=8, corpus=corpus)


def test_rows_are_drawn_once_and_depend_on_their_place_alone(bench):
    captions = [f"thing {i}" for i in range(40)]  # two chunks
    drawn = bench.draw(captions)
    assert drawn.pixels.shape == (40, 3, 64, 64) and drawn.pixels.dtype == torch.uint8
    again = bench.draw(captions)
    assert torch.equal(drawn.pixels, again.pixels)
    (bench.folder / "drawn").rename(bench.folder / "aside")
    bench.batch = 3
    near = (bench.draw(captions).pixels.int() - drawn.pixels.int()).abs() <= 1
    assert near.double().mean() > 0.999


def test_the_bench_draws_what_the_pipeline_draws(bench, tiny_model):
    drawn = bench.draw(["a red apple"]).pixels[0].permute(1, 2, 0).numpy().astype(int)
    made = np.asarray(tiny_model.generate("a red apple", seed=0)[0]).astype(int)
    assert (np.abs(drawn - made) <= 1).mean() > 0.999


def test_work_cut_short_goes_on(bench):
    calls = []

    def work(chunk: range) -> dict:
        calls.append(chunk.start)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"n": np.array(chunk)}

    with pytest.raises(KeyboardInterrupt):
        bench.rows({"what": "test"}, 70, work)
    found = bench.rows({"what": "test"}, 70, work)
    assert calls == [0, 32, 32, 64] and found["n"].tolist() == list(range(70))
    assert isinstance(found, Drawn) and not list(bench.folder.rglob("*.partial"))


def test_questions_and_references_do_not_overlap(bench):
    asked, others = {row["key"] for row in bench.asked.rows}, {row["key"] for row in bench.others.rows}
    assert len(asked) == len(others) == 20 and not asked & others
    assert bench.questions(4).rows == bench.questions(8).rows[:4]


def shortened(monkeypatch) -> None:
    monkeypatch.setattr(studies, "STEPS", {"ddim": (1, 2), "dpm++": (1, 2), "ddpm": (2,)})
    monkeypatch.setattr(studies, "DECODER_GUIDANCE", (1.0, 2.0))
    monkeypatch.setattr(studies, "PRIOR_GUIDANCE", (1.0, 2.0))
    monkeypatch.setattr(studies, "EQUAL_STEPS", (1, 2))
    monkeypatch.setattr(parts, "INVERSION_STEPS", (2,))


def test_the_whole_report(monkeypatch, tmp_path, tiny_pack, judge, corpus, capsys):
    shortened(monkeypatch)
    arguments = ["--pack", str(tiny_pack), "--evaluator", str(judge), "--data", str(corpus), "--captions", "8"]
    arguments += ["--work", str(tmp_path / "work"), "--report", str(tmp_path / "report.md"), "--device", "cpu"]
    assert command.main(arguments) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Not measured" not in text and "nan" not in text.lower()
    for title in (
        "What it must show",
        "Is a prior needed?",
        "Beside the paper",
        "47.1 ± 3.1",
        "Attributes bound",
        "Written words",
    ):
        assert title in text
    for name in [part.split(")")[0] for part in text.split("](")[1:]]:
        assert (tmp_path / name).is_file(), name
    results = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert set(studies.STUDIES) <= set(results) and results["pack"]["name"] == "tiny"
    assert results["binding"]["rates"]["true drawings"]["all"][0] > 0.9

    def never(*_):
        raise AssertionError("measured again")

    monkeypatch.setattr(command, "_run", never)
    assert command.main([*arguments, "--only", "priors,binding"]) == 0  # what is done is kept
    kept = tmp_path / "work" / "results" / "priors-8-0.json"
    older = json.loads(kept.read_text(encoding="utf-8"))
    kept.write_text(json.dumps({**older, "mark": {**older["mark"], "pack": "0" * 16}}), encoding="utf-8")
    with pytest.raises(AssertionError, match="measured again"):
        command.main([*arguments, "--only", "priors,binding"])
    assert command.main([*arguments, "--only", "priors,binding", "--carry", "priors"]) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.count("Measured on another pack, 0000000000000000") == 1


def test_without_the_corpus_studies_say_what_they_need(tmp_path, tiny_pack, judge, capsys):
    arguments = [
        "--pack",
        str(tiny_pack),
        "--evaluator",
        str(judge),
        "--data",
        str(tmp_path / "none"),
        "--captions",
        "8",
    ]
    arguments += ["--work", str(tmp_path / "work"), "--report", str(tmp_path / "report.md"), "--only", "decoder,priors"]
    assert command.main(arguments) == 0
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "python -m unclip_core corpus" in text and "Is a prior needed?" in text


@pytest.mark.parametrize(
    "wrong",
    [
        ["--only", "magic"],
        ["--carry", "magic"],
        ["--captions", "3"],
        ["--captions", "501"],
        ["--evaluator", "/nowhere"],
    ],
)
def test_wrong_arguments_are_named(wrong):
    with pytest.raises(UnclipError):
        command.main(wrong)


def test_training_an_evaluator(tmp_path, corpus):
    from unclip_core.evaluation import train_evaluator

    arguments = [
        "--data",
        str(corpus),
        "--runs",
        str(tmp_path / "runs"),
        "--out",
        str(tmp_path / "out"),
        "--batch",
        "8",
    ]
    train_evaluator.main([*arguments, "--pictures", "8"])
    train_evaluator.main([*arguments, "--pictures", "16", "--resume"])
    evaluator = store.load(tmp_path / "out")
    assert evaluator.index.keys() == {row["code"] for row in CONCEPTS} and evaluator.styles == ["noto", "twemoji"]
    real = reference.load(evaluator, tmp_path / "out")
    assert len(real.pairs.rows) == 40 and real.pairs.rows[0]["caption_styled"].endswith("style")
    store.save(small_evaluator(), tmp_path / "out", {})
    with pytest.raises(UnclipError, match="another evaluator"):
        reference.load(store.load(tmp_path / "out"), tmp_path / "out")


@pytest.mark.slow
def test_two_processes_share_the_work(tmp_path, tiny_pack, judge):
    command_line = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--standalone",
        "-m",
        "unclip_core",
    ]
    command_line += [
        "evaluate",
        "--pack",
        str(tiny_pack),
        "--evaluator",
        str(judge),
        "--captions",
        "20",
        "--only",
        "words",
    ]
    command_line += ["--work", str(tmp_path / "work"), "--report", str(tmp_path / "report.md"), "--data", str(tmp_path)]
    subprocess.run(
        command_line,
        check=True,
        cwd=Path(__file__).parent.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=570,
    )
    assert json.loads((tmp_path / "report.json").read_text())["words"]["rates"]
