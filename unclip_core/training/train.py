"""The one training script: ``python -m unclip_core train --stage decoder --data data/corpus --runs runs``.

Reads top to bottom; a row of `stages.STAGES` says what is trained. A run lives in ``RUNS/STAGE``: ``last.pt`` (network,
EMA, optimiser, step: what ``--resume`` goes on from), previews, TensorBoard scalars. Several machines: start it by
``torchrun``; a step's micro-batches are shared out among the processes, each with its own random stream, so the number
of processes does not change what is computed.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from unclip_core.errors import UnclipError
from unclip_core.loading import mixed_precision, pick_device
from unclip_core.packs import fill
from unclip_core.training.optimizers import NAMES, make_optimizer
from unclip_core.training.runs import first
from unclip_core.training.stages import STAGES


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line. Numbers left out take the stage's own defaults."""
    parser = argparse.ArgumentParser(prog="python -m unclip_core train", description="Train one stage of a pack.")
    parser.add_argument("--stage", required=True, choices=[*STAGES], help="what to train")
    parser.add_argument(
        "--data", type=Path, default=Path("data/corpus"), help="folder of tar shards (WebDataset, img2dataset)"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("runs"), help="where runs are kept; later stages read earlier ones here"
    )
    parser.add_argument("--pack", help="a pack to take earlier stages from where RUNS has none")
    parser.add_argument("--init", help="a pack, or a folder of runs, to start this stage's weights from")
    parser.add_argument("--resume", action="store_true", help="go on from the run's last checkpoint")
    parser.add_argument("--steps", type=int, help="train up to this step")
    parser.add_argument("--batch", type=int, help="pictures a step")
    parser.add_argument(
        "--micro", type=int, default=1, help="micro-batches a step is split into (a multiple of the processes)"
    )
    parser.add_argument("--lr", type=float, help="peak learning rate")
    parser.add_argument("--optimizer", choices=NAMES, default="adamw", help="muon: for hidden weight matrices")
    parser.add_argument("--warmup", type=int, default=300, help="steps of linear warm-up")
    parser.add_argument(
        "--decay", type=float, default=0.3, help="share of the run over which the rate falls to zero at the end"
    )
    parser.add_argument("--ema", type=float, default=0.999, help="decay of the averaged weights")
    parser.add_argument(
        "--blend",
        type=float,
        default=1,
        help="how far from --init's weights to the trained ones the averaged weights end (0.5: half-way)",
    )
    parser.add_argument("--device", default="cpu", help="auto, cpu or cuda: where to train; the data go there whole")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop (with a checkpoint) after this long")
    parser.add_argument("--save-every", type=float, default=3.0, help="minutes between checkpoints")
    parser.add_argument(
        "--preview-every", type=float, default=10.0, help="minutes between previews and validation figures"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a stage's own option, e.g. weighting=min_snr",
    )
    options = parser.parse_args(arguments)
    options.option = dict(pair.split("=", 1) for pair in options.option)
    return options


def train(options: argparse.Namespace) -> float:
    """Trains one stage and returns the last step's loss. Raises UnclipError for data or runs that cannot be used."""
    device = training_device(options.device)
    with nullcontext() if device.type == "cpu" else device:  # what is made without a device named is made there
        return _train(options, device)


def training_device(name: str) -> torch.device:
    """The device of that name; of several GPUs, torchrun's processes take one each."""
    device = pick_device(name)
    if device.type == "cuda" and device.index is None and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def _train(options: argparse.Namespace, device: torch.device) -> float:
    rank, world = start_processes()
    if options.micro % world:
        raise UnclipError(
            f"--micro {options.micro} cannot be shared out among {world} processes: use a multiple of {world}."
        )
    if options.blend < 1 and not options.init:
        raise UnclipError(f"--blend {options.blend} goes part of the way from --init's weights: name a pack there.")
    torch.manual_seed(options.seed)
    task = STAGES[options.stage](options)
    if options.init:
        fill(task.network, first(options.init, options.stage)[1], f"{options.stage} of {options.init}")
    if hasattr(task, "ready"):
        task.ready()
    network = task.network.train()
    begun = {name: value.clone() for name, value in network.state_dict().items()} if options.blend < 1 else {}
    steps, batch = options.steps or task.steps, options.batch or task.batch
    helper = getattr(task, "helper", None)  # trains beside the network, and is no part of it
    trained = network if helper is None else nn.ModuleList([network, helper])
    optimizer = make_optimizer(options.optimizer, trained, options.lr or task.lr, task.weight_decay, task.betas)
    ema = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(options.ema))
    folder = options.runs / options.stage
    folder.mkdir(parents=True, exist_ok=True)
    step = load_checkpoint(folder / "last.pt", network, ema, optimizer) if options.resume else 0
    scalars = open_scalars(folder) if rank == 0 else None
    stopping = catch_termination()

    started = saved = previewed = time.monotonic()
    running, loss = None, torch.tensor(float("nan"))
    bar = tqdm(
        total=steps, initial=step, desc=options.stage, unit="step", disable=None if rank == 0 else True, mininterval=5
    )
    while step < steps:
        optimizer.set_rate((options.lr or task.lr) * rate(step, steps, options.warmup, options.decay))
        loss = torch.zeros(())
        for micro in range(rank, options.micro, world):
            generator = torch.Generator(device).manual_seed((options.seed * 1_000_003 + step) * 4096 + micro)
            with mixed_precision(task.autocast):
                part = task.loss(task.draw(batch // options.micro, generator), generator) / options.micro
            part.backward()
            loss += part.detach()
        if world > 1:
            for tensor in (loss, *(p.grad for p in trained.parameters() if p.grad is not None)):
                dist.all_reduce(tensor)
        norm = nn.utils.clip_grad_norm_(trained.parameters(), task.clip_norm)
        if torch.isfinite(norm):  # a step that overflowed is skipped, not taken
            optimizer.step()
            ema.update_parameters(network)
        optimizer.zero_grad()
        step += 1
        bar.update()
        running = loss if running is None else running.lerp(loss, 0.01)

        now = time.monotonic()
        done = step == steps or now - started > options.minutes * 60 or stopping.is_set()
        if rank == 0 and (step % 50 == 0 or done):
            speed = batch * 50 / max(now - getattr(bar, "marked", started), 1e-9)
            bar.marked = now
            mean = running.item()
            bar.set_postfix(loss=f"{mean:.4f}")
            for name, value in {"loss": mean, "norm": norm.item(), "pictures_per_second": speed}.items():
                scalars.add_scalar(name, value, step)
            if step % 500 == 0 or done:
                print(
                    f"{options.stage} step {step} loss {mean:.4f} {speed:.0f}/s {(now - started) / 60:.1f} min",
                    flush=True,
                )
        if step == steps:
            blend(ema.module, begun, options.blend)
        previews = rank == 0 and (done or now - previewed > options.preview_every * 60)
        if previews and hasattr(task, "settle"):
            task.settle(ema.module)
        if rank == 0 and (done or now - saved > options.save_every * 60):
            save_checkpoint(folder / "last.pt", network, ema, optimizer, step, task.configs())
            saved = time.monotonic()
        if previews:
            ema.module.eval()
            figures = task.validate(ema.module, folder / f"preview_{step:07d}.png")
            print(f"{options.stage} step {step} " + " ".join(f"{k}={v:.4f}" for k, v in figures.items()), flush=True)
            for name, value in figures.items():
                scalars.add_scalar(f"validation/{name}", value, step)
            ema.module.train()
            previewed = time.monotonic()
        if done:
            break
    bar.close()
    if world > 1:
        dist.barrier()
    return loss.item()


def blend(network: nn.Module, begun: dict[str, Tensor], share: float) -> None:
    """Weights `share` of the way from where they began to where they are: fine-tuned ones keep more of what they knew
    there (Wortsman et al. 2109.01903). `begun` may be empty: nothing happens."""
    now = network.state_dict()
    for name, value in begun.items():
        if value.is_floating_point():
            now[name].lerp_(value, 1 - share)


def rate(step: int, steps: int, warmup: int, decay: float) -> float:
    """Share of the peak learning rate: linear warm-up, flat, then a cosine to zero over the last `decay` of the run."""
    fall = (step - steps * (1 - decay)) / max(steps * decay, 1)
    return min(1.0, (step + 1) / max(warmup, 1)) * (0.5 + 0.5 * math.cos(math.pi * min(max(fall, 0.0), 1.0)))


def start_processes() -> tuple[int, int]:
    """(rank, world size): those of torchrun where it started this process, else (0, 1)."""
    if "RANK" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("gloo")
    return dist.get_rank(), dist.get_world_size()


def catch_termination():
    """An event that SIGTERM sets, so that the loop ends with a checkpoint."""
    import threading

    event = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: event.set())
    return event


def open_scalars(folder: Path):
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "scalars"))


def save_checkpoint(path: Path, network, ema, optimizer, step: int, configs: dict) -> None:
    """Written beside and moved into place: a process killed while saving leaves the last checkpoint whole."""
    state = {
        "step": step,
        "configs": configs,
        "network": network.state_dict(),
        "ema": ema.module.state_dict(),
        "averaged": ema.n_averaged,
        "optimizer": optimizer.state_dict(),
    }
    torch.save(state, path.with_suffix(".partial"))
    path.with_suffix(".partial").replace(path)


def load_checkpoint(path: Path, network, ema, optimizer) -> int:
    """Loads a run's checkpoint and returns its step. Raises UnclipError where there is none, or another network's."""
    if not path.exists():
        raise UnclipError(f"There is no checkpoint at {path} to resume from. Leave --resume out to start anew.")
    state = torch.load(path, weights_only=True, map_location="cpu")
    try:
        network.load_state_dict(state["network"])
        ema.module.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
    except (RuntimeError, ValueError) as fault:
        raise UnclipError(
            f"{path} was made by a different network ({str(fault)[:200]}). Start anew, or use the old options."
        ) from fault
    ema.n_averaged.copy_(state["averaged"])
    return state["step"]


def main(arguments: list[str] | None = None) -> None:
    train(parse(arguments))


if __name__ == "__main__":
    main()
