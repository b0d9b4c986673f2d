"""Karlo's networks here against diffusers, side by side in one run: same random weights, inputs and threads.

    python benchmarks/karlo.py                        # full size, one network at a time: about 10 minutes, 12 GB
    python benchmarks/karlo.py --size small           # the same code on small networks, in seconds
    python benchmarks/karlo.py --networks prior decoder --out report.json
    python benchmarks/karlo.py --devices cuda         # left out: the CPU, and CUDA where there is any
    python benchmarks/karlo.py --profile --networks upsampler    # where a step's time goes, beside the cores' peak

Needs diffusers (a development dependency). Theirs is run as they run it, in float32 and in bfloat16. Time is the least
of the repeats, ours and theirs taking turns, after one run of each that pays for what is paid once. Ours is timed as it
is used: the context's keys and values, and the caption's in the prior, are made once, and that time is counted once a
picture; padding after the caption is left out. Peak memory is that of a process which loads the network from disk and
runs one step.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from safetensors.torch import load_file
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
TOKENS = 12  # real caption tokens, marks included; the rest is padding (--tokens 77: none)
PIXELS = {"decoder": {"full": 64, "small": 16}, "upsampler": {"full": 256, "small": 32}}
STEPS = {"prior": 25, "decoder": 25, "upsampler": 7}
REPEATS = {"prior": 3, "decoder": 2, "upsampler": 1}  # the longer a step, the less its time varies
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


def load_theirs(name: str, size: str, folder: Path, device: str = "cpu") -> nn.Module:
    """Without a second copy of the weights on the way, as diffusers loads where accelerate is installed."""
    network = their_network(name, size)
    network.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"), assign=True)
    if name == "prior":  # its mask is no weight, and is made with the network
        shallow = type(network).from_config({**network.config, "num_layers": 0})
        network.causal_attention_mask = shallow.causal_attention_mask
    return network.eval().requires_grad_(False).to(device)


def load_ours(name: str, folder: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> nn.Module:
    settings = read_json(folder / "config.json")
    with torch.device("meta"):
        if name == "prior":
            network = DiffusionPrior(prior_config(settings, 5.0, 1000))
            keys = prior_keys(network.config)
        else:
            config = decoder_unet_config(settings) if name == "decoder" else upsampler_unet_config(settings, name)
            network, keys = UNet(config), unet_keys(config)
    return fill(network, keys, read_weights(folder), torch.device(device), lambda key: dtype)


def inputs(name: str, size: str, settings: dict, tokens: int, device: str = "cpu") -> dict[str, Tensor]:
    """One picture, with both halves of guidance where the stage has it."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device)

    def mask(length: int, before: int = 0) -> Tensor:
        real = torch.tensor([[before + 2], [before + min(tokens, length - before)]])
        return (torch.arange(length) < real).to(device)

    if name == "prior":
        width, length = settings["embedding_dim"], settings["num_embeddings"]
        x = draw(1, width).expand(2, -1)
        return {"x": x, "pooled": draw(2, width), "tokens": draw(2, length, width), "mask": mask(length)}
    pixels = PIXELS[name][size]
    if name == "upsampler":
        return {"x": draw(1, 6, pixels, pixels)}
    width, length = settings["cross_attention_dim"], CONTEXT[size]
    return {
        "x": draw(1, 3, pixels, pixels).expand(2, -1, -1, -1),
        "context": draw(2, length, width),
        "extra": draw(2, 4 * settings["block_out_channels"][0]),
        "mask": mask(length, 4),
    }


def their_step(name: str, network: nn.Module, given: dict[str, Tensor]) -> Callable[[], Tensor]:
    given = {key: tensor if tensor.dtype == torch.bool else tensor.to(network.dtype) for key, tensor in given.items()}
    t = torch.tensor(500, device=given["x"].device)
    if name == "prior":
        arguments = (given["x"], t, given["pooled"], given["tokens"], given["mask"])
        return lambda: network(*arguments).predicted_image_embedding
    if name == "upsampler":
        return lambda: network(given["x"], t).sample
    options = {"class_labels": given["extra"], "attention_mask": given["mask"]}
    return lambda: network(given["x"], t, given["context"], **options).sample


def our_step(name: str, network: nn.Module, given: dict[str, Tensor]) -> tuple[float, Callable[[], Tensor]]:
    """Seconds for what is made once a picture, and the step."""
    t = torch.full((len(given["x"]),), 500, device=given["x"].device)
    if name == "prior":
        text = TextFeatures(given["pooled"], given["tokens"], given["mask"])
        once, prefix = timed(lambda: network.prepare(text))
        return once, lambda: network.step(given["x"], t, prefix)
    if name == "upsampler":
        return 0.0, lambda: network(given["x"], t)
    dtype = network.conv_in.weight.dtype
    longest = int(given["mask"].any(0).nonzero().max()) + 1
    context, mask = given["context"][:, :longest].to(dtype), given["mask"][:, :longest]
    once, prepared = timed(lambda: network.prepare_context(context, mask))
    return once, lambda: network(given["x"], t, given["extra"].to(dtype), prepared)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of one run, and what it gave."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    started = time.perf_counter()
    out = work()
    wait()
    return time.perf_counter() - started, out


@torch.inference_mode()
def compare(
    name: str, size: str, folder: Path, device: str, repeats: int | None = None, tokens: int = TOKENS
) -> dict[str, float]:
    """Seconds a step of both in both dtypes, their ratios, and how far ours is from their float32."""
    result: dict[str, float] = {}
    given = inputs(name, size, read_json(folder / "config.json"), tokens, device)
    steps, expected = STEPS[name], None
    for kind, dtype in (("", torch.float32), ("_bfloat16", torch.bfloat16)):
        theirs, ours = load_theirs(name, size, folder, device).to(dtype), load_ours(name, folder, dtype, device)
        our_step(name, ours, given)  # pages the weights in
        step, (once, own) = their_step(name, theirs, given), our_step(name, ours, given)
        pairs = [(timed(step), timed(own)) for _ in range(1 + (repeats or REPEATS[name]))]
        expected = pairs[0][0][1] if expected is None else expected
        result[f"error{kind or '_float32'}"] = distance(pairs[0][1][1].float(), expected)
        result[f"theirs{kind}_s"], result[f"ours{kind}_s"] = (min(pair[i][0] for pair in pairs[1:]) for i in (0, 1))
        result[f"once{kind}_s"] = once
        result[f"ours{kind}_all_s"] = steps * result[f"ours{kind}_s"] + once
        result[f"ratio{kind}"] = result[f"ours{kind}_all_s"] / (steps * result["theirs_s"])  # to their float32
        del theirs, ours, step, own
    result["ratio_both_bfloat16"] = result["ours_bfloat16_all_s"] / (steps * result["theirs_bfloat16_s"])
    return result


def distance(a: Tensor, b: Tensor) -> float:
    """Relative, in the root mean square."""
    return ((a - b).norm() / b.norm()).item()


@torch.inference_mode()
def profile(name: str, size: str, folder: Path) -> str:
    """A table: a step's seconds in both, in float32 and bfloat16, how much of it is convolutions and matrix products,
    and how near those come to the rate of one large matrix product in the same run."""
    from torch.profiler import ProfilerActivity
    from torch.utils.flop_counter import FlopCounterMode

    given, rows = inputs(name, size, read_json(folder / "config.json"), TOKENS), []
    for dtype in (torch.float32, torch.bfloat16):
        square = torch.randn(4096, 4096).to(dtype)
        most = 2 * 4096**3 / min(timed(partial(torch.matmul, square, square))[0] for _ in range(4)) / 1e9
        theirs = their_step(name, load_theirs(name, size, folder).to(dtype), given)
        with FlopCounterMode(display=False) as counted:  # also the run that is not counted
            theirs()
        ours = our_step(name, load_ours(name, folder, dtype), given)[1]
        ours()
        for whose, step in (("theirs", theirs), ("ours", ours)):
            with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as seen:
                step()
            times = {event.key: event.self_cpu_time_total / 1e6 for event in seen.key_averages()}
            heavy = sum(s for key, s in times.items() if re.search("conv|mm|linear|attention", key))
            total = sum(times.values())
            rows.append(
                f"| {name}, {whose}, {str(dtype)[6:]} | {total:.2f} | {heavy:.2f} ({heavy / total:.0%}) | "
                f"{counted.get_total_flops() / heavy / 1e9:.0f} | {most:.0f} | {total - heavy:.2f} |"
            )
        del theirs, ours, step
    head = "| | seconds | products in it | their GFLOP/s | the cores' | all else |"
    return "\n".join([head, "|---|---|---|---|---|---|", *rows])


@torch.inference_mode()
def peak(name: str, size: str, folder: Path, whose: str) -> None:
    """In a process of its own: load, run one step, print the peak of resident memory and its anonymous part, in GB."""
    given = inputs(name, size, read_json(folder / "config.json"), TOKENS)
    if whose == "theirs":
        their_step(name, load_theirs(name, size, folder), given)()
    else:
        dtype = torch.bfloat16 if whose == "ours_bfloat16" else torch.float32
        our_step(name, load_ours(name, folder, dtype), given)[1]()
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps({key: int(lines[key].split()[0]) / 1e6 for key in ("VmHWM", "RssAnon")}))


def measure_memory(name: str, size: str, folder: Path) -> dict[str, float]:
    found = {}
    for whose in ("theirs", "ours", "ours_bfloat16"):
        command = [sys.executable, __file__, "--peak", whose, "--size", size, "--networks", name, "--folder", folder]
        out = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True).stdout
        numbers = json.loads(out.strip().splitlines()[-1])
        found[f"peak_{whose}_gb"], found[f"anonymous_{whose}_gb"] = numbers["VmHWM"], numbers["RssAnon"]
    return found


def report(results: dict[str, dict[str, float]], device: str) -> str:
    """A table for reading; the numbers in full are in the JSON."""
    rows = [
        f"### {device}, seconds a step (bounds in brackets are for the CPU)\n",
        "| network | theirs float32, bfloat16 | ours float32, bfloat16 | float32 to theirs | bfloat16 to their float32 "
        "| bfloat16 to theirs | error | peak GB theirs / ours / bfloat16 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, r in results.items():
        bounds = [f" (≤ {bound})" if bound and device == "cpu" else "" for bound in BOUNDS[name]]
        peaks = [r.get(f"peak_{whose}_gb") for whose in ("theirs", "ours", "ours_bfloat16")]
        told = " / ".join(f"{peak:.1f}" for peak in peaks) if all(peaks) else ""
        rows.append(
            f"| {name} | {r['theirs_s']:.3f}, {r['theirs_bfloat16_s']:.3f} | {r['ours_s']:.3f}, "
            f"{r['ours_bfloat16_s']:.3f} | {r['ratio']:.3f}{bounds[0]} | {r['ratio_bfloat16']:.3f}{bounds[1]} | "
            f"{r['ratio_both_bfloat16']:.3f} | {r['error_float32']:.1e}, {r['error_bfloat16']:.1%} | {told} |"
        )
    if set(results) == set(STEPS):
        for kind in ("", "_bfloat16"):
            theirs = sum(STEPS[name] * r[f"theirs{kind}_s"] for name, r in results.items())
            ours = sum(r[f"ours{kind}_all_s"] for r in results.values())
            both = f"theirs {theirs:.4g} s, ours {ours:.4g} s: {ours / theirs:.2f}"
            rows.append(f"\n25 + 25 + 7 steps from the parts, {kind[1:] or 'float32'}: {both}")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", choices=LEVELS, default="full")
    parser.add_argument("--networks", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--devices", nargs="+", default=["cpu", *(["cuda"] if torch.cuda.is_available() else [])])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=TOKENS, help="real tokens of the caption")
    parser.add_argument("--repeats", type=int, help=f"timed runs of each network (default: {REPEATS})")
    parser.add_argument("--no-memory", action="store_true", help="leave out the peak-memory runs")
    parser.add_argument("--folder", type=Path, help="where the random weights are kept (default: a temporary folder)")
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON")
    parser.add_argument("--profile", action="store_true", help="where the time goes, and nothing else; on the CPU")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        peak(options.networks[0], options.size, options.folder / f"{options.size}-{options.networks[0]}", options.peak)
        return
    results: dict[str, dict[str, dict[str, float]]] = {device: {} for device in options.devices}
    with tempfile.TemporaryDirectory() as scratch:
        for name in options.networks:
            kept = options.folder or Path(scratch)
            folder = kept / f"{options.size}-{name}"
            if not folder.exists():
                write_random(name, options.size, folder)
            if options.profile:
                print(profile(name, options.size, folder), flush=True)
                continue
            for device, found in results.items():
                found[name] = compare(name, options.size, folder, device, options.repeats, options.tokens)
                if device == "cpu" and not options.no_memory:
                    found[name] |= measure_memory(name, options.size, kept)
                print(json.dumps({device: {name: found[name]}}), flush=True)
            if options.folder is None:  # one network's weights at a time on the disk
                shutil.rmtree(folder)
    if options.profile:
        return
    print("\n\n".join(report(found, device) for device, found in results.items()))
    if options.out:
        machine = {"threads": options.threads, "torch": torch.__version__, "size": options.size}
        machine["tokens"] = options.tokens
        options.out.write_text(json.dumps({"machine": machine, "devices": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
