"""The command line: python -m unclip_core generate | packs | corpus | train | pack | evaluate."""

import argparse
import sys
from pathlib import Path

from unclip_core.errors import UnclipError

LATER = {
    "corpus": "build the training corpus from openly licensed emoji art",
    "train": "train one stage of a pack",
    "pack": "make a pack of trained stages",
    "evaluate": "measure a pack and write a report",
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command -> exit status: 0, or 2 with one line on stderr that says what is wrong."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments and arguments[0] in LATER:
            return _delegate(arguments[0], arguments[1:])
        options = _parser().parse_args(arguments)
        return options.run(options)
    except UnclipError as error:
        print(f"error: {_printable(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def _delegate(command: str, arguments: list[str]) -> int:
    """Commands with options of their own; imported when asked for, since they need more packages than the app."""
    if command == "corpus":
        from unclip_core.corpus.build import main as run
    elif command == "train":
        from unclip_core.training.train import main as run
    elif command == "pack":
        from unclip_core.training.runs import main as run
    else:
        from unclip_core.evaluation import main as run
    return run(arguments) or 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m unclip_core", description="unCLIP: captions to pictures.")
    commands = parser.add_subparsers(required=True, metavar="command")

    generate = commands.add_parser("generate", help="draw a caption, one PNG with its recipe a picture")
    generate.set_defaults(run=_generate)
    generate.add_argument("prompt", help='the caption, for instance "a red apple"')
    generate.add_argument("--n", type=int, default=1, help="number of pictures")
    generate.add_argument("--size", type=int, default=64, help="64, 256 or 1024 pixels")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--prior", default="diffusion", help="diffusion, ar, text (z_t as z_i) or caption (no z_i)")
    generate.add_argument("--prior-steps", type=int)
    generate.add_argument("--prior-guidance", type=float)
    generate.add_argument("--candidates", type=int, help="embeddings the diffusion prior draws for each that it keeps")
    generate.add_argument("--decoder-steps", type=int)
    generate.add_argument("--decoder-guidance", type=float)
    generate.add_argument("--sampler", help="ddim, dpm++ or ddpm")
    generate.add_argument("--eta", type=float, default=0.0)
    generate.add_argument("--upsampler-256-steps", type=int)
    generate.add_argument("--upsampler-1024-steps", type=int)
    generate.add_argument("--out", type=Path, default=Path("out"), help="folder of the PNGs")
    generate.add_argument("--mark", action="store_true", help='draw a visible "AI-generated" on each')
    generate.add_argument("--certificate", type=Path, help="PEM chain to sign content credentials (C2PA) with")
    generate.add_argument("--key", type=Path, help="PEM private key of the certificate (ES256)")
    _add_model_options(generate)

    packs = commands.add_parser("packs", help="list the packs shipped here, or check one")
    packs.set_defaults(run=_packs)
    packs.add_argument("pack", nargs="?", help="name or folder of a pack to load and check")

    for name, help_text in LATER.items():
        commands.add_parser(name, help=help_text, add_help=False)
    return parser


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pack", default="pocket", help="a pack's name or folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--dtype", default="auto", help="auto, bfloat16, float16 or float32")
    parser.add_argument(
        "--low-memory", action="store_true", help="keep only the stage at work in memory, and tell the peak at the end"
    )


def _generate(options: argparse.Namespace) -> int:
    import dataclasses

    from unclip_core.request import GenerateRequest, checked_prompt, validate

    checked_prompt(options.prompt)  # before the seconds that loading takes
    from unclip_core.loading import memory_told
    from unclip_core.pipeline import UnCLIP
    from unclip_core.provenance import add_credentials, save_png

    model = UnCLIP.load(options.pack, options.device, options.dtype, options.low_memory)
    fields = [field.name for field in dataclasses.fields(GenerateRequest)]
    request = validate(GenerateRequest(**{name: getattr(options, name) for name in fields}), model)
    for step in model.generate_steps(request, preview_every=1000):
        print(f"\r{step.stage} {step.index}/{step.total}   ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for i, picture in enumerate(step.pictures):
        path = options.out / f"{_file_name(request.prompt)}-{request.seed}-{i}.png"
        z_i = None if step.z_i is None else step.z_i[i]
        save_png(picture, path, model.recipe(request, i, z_i), mark=options.mark)
        if options.certificate or options.key:
            add_credentials(path, options.certificate, options.key)
        print(path)
    if options.low_memory:
        print(memory_told(model.device), file=sys.stderr)
    return 0


def _packs(options: argparse.Namespace) -> int:
    from unclip_core.packs import INDEX, SHIPPED, find_pack, read_pack

    if options.pack is None:
        for index in sorted(SHIPPED.glob(f"*/{INDEX}")):
            pack = read_pack(index.parent)
            print(f"{pack.name}  {pack.bytes / 1e6:.1f} MB  {pack.licence}  {pack.hash}  {', '.join(pack.stages)}")
        return 0
    from unclip_core.pipeline import UnCLIP

    model = UnCLIP.load(find_pack(options.pack))
    print(f"{model.name} {model.hash}: sound. Stages: {', '.join(model.stages)}")
    return 0


def _file_name(prompt: str) -> str:
    """Letters and digits of any script, the rest as dashes, at most 60 bytes."""
    words = "".join(c if c.isalnum() else " " for c in prompt).split()
    return "-".join(words).encode()[:60].decode("utf-8", "ignore") or "picture"


def _printable(text: str) -> str:
    """A terminal must not be steered by what it is told about; lone surrogates cannot be printed."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
