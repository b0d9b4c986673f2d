"""Karlo's networks here against diffusers, side by side in one run: same random weights, inputs and threads.

    python benchmarks/karlo.py                        # full size, one network at a time: about 20 minutes, 12 GB
    python benchmarks/karlo.py --size small           # the same code on small networks, in seconds
    python benchmarks/karlo.py --networks prior decoder --out report.json

Needs diffusers (a development dependency). Time is the least of the repeats, ours and theirs taking turns. Ours is
timed as it is used: the context's keys and values, and the caption's in the prior, are made once, and that time is
counted once a picture. Peak memory is that of a process which loads the network from disk and runs one step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch import Tensor, nn

from unclip_core.clip import TextFeatures
from unclip_core.karlo_files import fill, read_json, read_weights
from unclip_core.karlo_keys import (
    decoder_unet_config,
    prior_config,
    prior_keys,
    unet_keys,
    upsampler_unet_config,
)
from unclip_core.prior_diffusion import DiffusionPrior
from unclip_core.unet import UNet

LEVELS = {"full": (320, 640, 960, 1280), "small": (32, 64)}
CONTEXT = {"full": 81, "small": 20}  # four image tokens and the caption's positions
TOKENS = 12  # real caption tokens, marks included; the rest is padding
PIXELS = {"decoder": {"full": 64, "small": 16}, "upsampler": {"full": 256, "small": 32}}
STEPS = {"prior": 25, "decoder": 25, "upsampler": 7}
# Issue's bounds: ours over theirs in float32, and our bfloat16 over their float32.
BOUNDS = {"prior": (0.2, None), "decoder": (0.85, 0.42), "upsampler": (0.85, 0.45)}


def their_network(name: str, size: str) -> nn.Module:
    """diffusers' network on the meta device, with Karlo's config or a small one."""
    from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel

    widths, small = LEVELS[size], size == "small"
    shared = {"block_out_channels": widths, "layers_per_block": 1 if small else 3, "sample_size": 64}
    down, up = ("ResnetDownsampleBlock2D",) * len(widths), ("ResnetUpsampleBlock2D",) * len(widths)
    with torch.device("meta"):
        if name == "prior":
            config = {"num_attention_heads": 2, "num_layers": 2, "num_embeddings": 16, "embedding_dim": 32}
            return PriorTransformer(**(config if small else {}))
        if name == "upsampler":
            return UNet2DModel(
                **shared, in_channels=6, out_channels=3, add_attention=False, down_block_types=down, up_block_types=up
            )
        return UNet2DConditionModel(
            **shared,
            in_channels=3,
            out_channels=6,
            down_block_types=(down[0], *("SimpleCrossAttnDownBlock2D",) * (len(widths) - 1)),
            up_block_types=(*("SimpleCrossAttnUpBlock2D",) * (len(widths) - 1), up[0]),
            mid_block_type="UNetMidBlock2DSimpleCrossAttn",
            attention_head_dim=16 if small else 64,
            cross_attention_dim=48 if small else 1536,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
        )


def write_random(name: str, size: str, folder: Path) -> None:
    """The network with random weights of a trained network's scale, as a published folder."""
    network = their_network(name, size).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    for key, tensor in network.state_dict().items():
        if tensor.ndim < 2:
            tensor.fill_(1.0 if "norm" in key and key.endswith("weight") else 0.0)
        else:
            tensor.normal_(std=tensor[0].numel() ** -0.5, generator=generator)
    network.save_pretrained(folder, max_shard_size="100GB")


def load_theirs(name: str, folder: Path) -> nn.Module:
    from diffusers import PriorTransformer, UNet2DConditionModel, UNet2DModel

    kind = {"prior": PriorTransformer, "decoder": UNet2DConditionModel, "upsampler": UNet2DModel}[name]
    return kind.from_pretrained(folder, local_files_only=True).eval().requires_grad_(False)


def load_ours(name: str, folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    settings = read_json(folder / "config.json")
    with torch.device("meta"):
        if name == "prior":
            network = DiffusionPrior(prior_config(settings, 5.0, 1000))
            keys = prior_keys(network.config)
        else:
            config = decoder_unet_config(settings) if name == "decoder" else upsampler_unet_config(settings, name)
            network, keys = UNet(config), unet_keys(config)
    return fill(network, keys, read_weights(folder), torch.device("cpu"), lambda key: dtype)


def inputs(name: str, size: str, settings: dict) -> dict[str, Tensor]:
    """One picture, with both halves of guidance where the stage has it."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    if name == "prior":
        width, length = settings["embedding_dim"], settings["num_embeddings"]
        mask = torch.arange(length) < torch.tensor([[2], [TOKENS]])
        x = draw(1, width).expand(2, -1)
        return {"x": x, "pooled": draw(2, width), "tokens": draw(2, length, width), "mask": mask}
    pixels = PIXELS[name][size]
    if name == "upsampler":
        return {"x": draw(1, 6, pixels, pixels)}
    width, length = settings["cross_attention_dim"], CONTEXT[size]
    mask = torch.arange(length) < torch.tensor([[4 + 2], [4 + TOKENS]])
    extra = draw(2, 4 * settings["block_out_channels"][0])
    return {
        "x": draw(1, 3, pixels, pixels).expand(2, -1, -1, -1),
        "context": draw(2, length, width),
        "extra": extra,
        "mask": mask,
    }


def their_step(name: str, network: nn.Module, given: dict[str, Tensor]) -> Callable[[], Tensor]:
    t = torch.tensor(500)
    if name == "prior":
        arguments = (given["x"], t, given["pooled"], given["tokens"], given["mask"])
        return lambda: network(*arguments).predicted_image_embedding
    if name == "upsampler":
        return lambda: network(given["x"], t).sample
    options = {"class_labels": given["extra"], "attention_mask": given["mask"]}
    return lambda: network(given["x"], t, given["context"], **options).sample


def our_step(name: str, network: nn.Module, given: dict[str, Tensor]) -> tuple[float, Callable[[], Tensor]]:
    """Seconds for what is made once a picture, and the step."""
    started = time.perf_counter()
    t = torch.full((len(given["x"]),), 500)
    if name == "prior":
        prefix = network.prepare(TextFeatures(given["pooled"], given["tokens"], given["mask"]))
        return time.perf_counter() - started, lambda: network.step(given["x"], t, prefix)
    if name == "upsampler":
        return 0.0, lambda: network(given["x"], t)
    dtype = network.conv_in.weight.dtype
    longest = int(given["mask"].any(0).nonzero().max()) + 1
    context = network.prepare_context(given["context"][:, :longest].to(dtype), given["mask"][:, :longest])
    return time.perf_counter() - started, lambda: network(given["x"], t, given["extra"].to(dtype), context)


def timed(step: Callable[[], Tensor]) -> tuple[float, Tensor]:
    started = time.perf_counter()
    out = step()
    return time.perf_counter() - started, out


@torch.inference_mode()
def compare(name: str, size: str, folder: Path, repeats: int) -> dict[str, float]:
    """Seconds a step of both, their ratio, and how far the outputs are apart, float32 and then our bfloat16."""
    theirs, ours = load_theirs(name, folder), load_ours(name, folder)
    given = inputs(name, size, read_json(folder / "config.json"))
    our_step(name, ours, given)  # pages the weights in
    step, (once, own) = their_step(name, theirs, given), our_step(name, ours, given)
    pairs = [(timed(step), timed(own)) for _ in range(repeats + 1)][1:]  # the first pays for what is paid once
    expected, out = pairs[0][0][1], pairs[0][1][1]
    result = {"theirs_s": min(a[0] for a, _ in pairs), "ours_s": min(b[0] for _, b in pairs), "once_s": once}
    result["error_float32"] = distance(out, expected)
    del theirs, step, ours, own
    ours = load_ours(name, folder, torch.bfloat16)
    our_step(name, ours, given)
    result["once_bfloat16_s"], own = our_step(name, ours, given)
    runs = [timed(own) for _ in range(repeats + 1)][1:]
    result["ours_bfloat16_s"] = min(seconds for seconds, _ in runs)
    result["error_bfloat16"] = distance(runs[0][1].float(), expected)
    steps = STEPS[name]
    for kind, whole in (("", "once_s"), ("_bfloat16", "once_bfloat16_s")):
        result[f"ours{kind}_all_s"] = steps * result[f"ours{kind}_s"] + result[whole]
        result[f"ratio{kind}"] = result[f"ours{kind}_all_s"] / (steps * result["theirs_s"])
    return result


def distance(a: Tensor, b: Tensor) -> float:
    """Relative, in the root mean square."""
    return ((a - b).norm() / b.norm()).item()


@torch.inference_mode()
def peak(name: str, size: str, folder: Path, whose: str) -> None:
    """In a process of its own: load, run one step, print the peak of resident memory and its anonymous part, in GB."""
    given = inputs(name, size, read_json(folder / "config.json"))
    if whose == "theirs":
        their_step(name, load_theirs(name, folder), given)()
    else:
        dtype = torch.bfloat16 if whose == "ours_bfloat16" else torch.float32
        our_step(name, load_ours(name, folder, dtype), given)[1]()
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps({key: int(lines[key].split()[0]) / 1e6 for key in ("VmHWM", "RssAnon")}))


def measure_memory(name: str, size: str, folder: Path) -> dict[str, float]:
    found = {}
    for whose in ("theirs", "ours", "ours_bfloat16"):
        command = [
            sys.executable,
            __file__,
            "--peak",
            whose,
            "--size",
            size,
            "--networks",
            name,
            "--folder",
            str(folder),
        ]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        numbers = json.loads(out.strip().splitlines()[-1])
        found[f"peak_{whose}_gb"], found[f"anonymous_{whose}_gb"] = numbers["VmHWM"], numbers["RssAnon"]
    return found


def report(results: dict[str, dict[str, float]]) -> str:
    """A table for reading; the numbers in full are in the JSON."""
    rows = [
        "| network | theirs, s a step | ours | ratio | bfloat16 | ratio | error | peak GB theirs / ours / bfloat16 |"
    ]
    rows.append("|---|---|---|---|---|---|---|---|")
    for name, r in results.items():
        float_bound, narrow_bound = BOUNDS[name]
        bounds = [f" (≤ {bound})" if bound else "" for bound in (float_bound, narrow_bound)]
        peaks = " / ".join(f"{r.get(f'peak_{whose}_gb', 0):.1f}" for whose in ("theirs", "ours", "ours_bfloat16"))
        rows.append(
            f"| {name} | {r['theirs_s']:.3f} | {r['ours_s']:.3f} | {r['ratio']:.3f}{bounds[0]} | "
            f"{r['ours_bfloat16_s']:.3f} | {r['ratio_bfloat16']:.3f}{bounds[1]} | "
            f"{r['error_float32']:.1e}, {r['error_bfloat16']:.1%} | {peaks} |"
        )
    if set(results) == set(STEPS):
        theirs = sum(STEPS[name] * r["theirs_s"] for name, r in results.items())
        for kind, label in (("", "float32"), ("_bfloat16", "bfloat16")):
            ours = sum(r[f"ours{kind}_all_s"] for r in results.values())
            both = f"theirs {theirs:.0f} s, ours {ours:.0f} s in {label}: {ours / theirs:.2f}"
            rows.append(f"\n25 + 25 + 7 steps from the parts: {both}")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=LEVELS, default="full")
    parser.add_argument("--networks", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak-memory runs")
    parser.add_argument("--folder", type=Path, help="where the random weights are kept (default: a temporary folder)")
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        peak(options.networks[0], options.size, options.folder, options.peak)
        return
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.networks:
            folder = (options.folder or Path(scratch)) / f"{options.size}-{name}"
            if not folder.exists():
                write_random(name, options.size, folder)
            results[name] = compare(name, options.size, folder, options.repeats)
            if not options.no_memory:
                results[name] |= measure_memory(name, options.size, folder)
            print(json.dumps({name: results[name]}), flush=True)
            if options.folder is None:  # one network's weights at a time on the disk
                for file in folder.iterdir():
                    file.unlink()
    print(report(results))
    if options.out:
        machine = {"threads": options.threads, "torch": torch.__version__, "size": options.size}
        options.out.write_text(json.dumps({"machine": machine, "networks": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
