"""``python -m unclip_core evaluate``: runs the studies that are not done yet and writes the report."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

from unclip_core.errors import UnclipError
from unclip_core.evaluation.bench import MOST_CAPTIONS, Bench, rank, wait
from unclip_core.evaluation.studies import STUDIES, Study

VERSION = 3  # of what studies return; results of another version are measured anew
QUICK = 32


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m unclip_core evaluate",
        description="Measure a pack and write a report. Studies already done for this pack are kept; "
        "start it by torchrun to share the drawing out among processes.",
    )
    parser.add_argument("--pack", default="pocket", help="a pack's name or folder")
    parser.add_argument(
        "--report", type=Path, default=Path("out/report.md"), help="the Markdown file; its plots go beside it"
    )
    parser.add_argument(
        "--captions",
        type=int,
        default=MOST_CAPTIONS,
        help=f"captions in the main studies, at most {MOST_CAPTIONS}; sweeps take a quarter",
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"the same as --captions {QUICK}: minutes, and wide intervals"
    )
    parser.add_argument("--only", help=f"some studies, by name and comma: {', '.join(STUDIES)}")
    parser.add_argument(
        "--carry", default="", help="studies that may stay as another pack was measured; the report names that pack"
    )
    parser.add_argument("--fresh", action="store_true", help="forget what was measured and drawn before")
    parser.add_argument(
        "--data", type=Path, default=Path("data/corpus"), help="the corpus, for studies that need real pictures"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("out/evaluation"), help="where drawn pictures and results are kept"
    )
    parser.add_argument("--evaluator", type=Path, help="a folder with another evaluator than the shipped one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16, float16 or float32")
    options = parser.parse_args(arguments)
    options.captions = QUICK if options.quick else options.captions
    if not 8 <= options.captions <= MOST_CAPTIONS:
        raise UnclipError(f"--captions must lie between 8 and {MOST_CAPTIONS}.")
    options.studies = [*STUDIES] if options.only is None else [name.strip() for name in options.only.split(",")]
    options.carry = [name.strip() for name in options.carry.split(",") if name.strip()]
    if unknown := [name for name in [*options.studies, *options.carry] if name not in STUDIES]:
        raise UnclipError(f"There is no study {unknown[0]!r}; there are {', '.join(STUDIES)}.")
    return options


def open_bench(options: argparse.Namespace) -> Bench:
    """Loads the pack, the evaluator and the reference. Raises UnclipError for what is missing."""
    from unclip_core.evaluation import evaluator, reference
    from unclip_core.pipeline import UnCLIP

    place = options.evaluator or evaluator.ASSETS
    judge = evaluator.load(place)
    real = reference.load(judge, place)
    model = UnCLIP.load(options.pack, options.device, options.dtype)
    return Bench(model, judge.to(model.device), real, options.work, options.captions, options.seed, options.data)


def run(bench: Bench, names: list[str], carried: list[str] | None = None) -> dict[str, Any]:
    """Results by study, as they stand in JSON; one that cannot run says why under "skipped". Of the carried studies
    those that another pack has been measured in are not done again."""
    results = {}
    for name in names:
        path = bench.folder / "results" / f"{name}-{bench.captions}-{bench.seed}.json"
        mark = {"version": VERSION, "pack": bench.model.hash, "evaluator": bench.evaluator.hash}
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if kept and name in (carried or []):
            mark = {**mark, "pack": kept["mark"]["pack"]}
        if kept.get("mark") != mark:
            started = time.monotonic()
            try:
                kept = {"mark": mark, **_run(bench, STUDIES[name]), "minutes": (time.monotonic() - started) / 60}
            except UnclipError as fault:
                results[name] = {"skipped": str(fault)}
                say(f"{name}: left out. {fault}")
                continue
            if rank() == 0:
                path.parent.mkdir(parents=True, exist_ok=True)
                partial = path.with_suffix(".partial")
                partial.write_text(json.dumps(kept, ensure_ascii=False, indent=1), encoding="utf-8")
                partial.replace(path)
            say(f"{name}: done in {kept['minutes']:.1f} min")
        results[name] = json.loads(json.dumps(kept))
        wait()
    return results


def _run(bench: Bench, study: Study) -> dict[str, Any]:
    if lacking := [stage for stage in study.stages if not bench.model.has(stage)]:
        raise UnclipError(f"This pack has no {lacking[0]}.")
    for name in study.corpus:
        bench.need_corpus(name)
    return study.run(bench)


def say(text: str) -> None:
    if rank() == 0:
        print(text, flush=True)


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if "RANK" in os.environ:
        from unclip_core.training.train import start_processes

        start_processes()
    if options.fresh and rank() == 0:
        for name in ("drawn", "results", "figures"):
            shutil.rmtree(options.work / name, ignore_errors=True)
    wait()
    bench = open_bench(options)
    results = run(bench, options.studies, options.carry)
    if rank() == 0:
        from unclip_core.evaluation.report import write

        print(write(bench, results, options.report))
    wait()
    return 0
