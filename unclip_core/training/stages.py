"""What each stage trains on and how it is judged on the way: one row of STAGES each (CLIP's are in `clip_tasks`).

A task has: `network`; defaults `steps`, `batch`, `lr`, `weight_decay`, `betas`, `clip_norm`; `draw(n, generator)` -> a
batch; `loss(batch, generator)` -> scalar; `validate(network, path)` -> figures, and a preview grid at `path`;
`configs()` -> what the pack stores beside the weights. Where it needs them also: `helper`, a network that trains beside
and is left behind; `ready()`, called once the first weights are there, before a run is resumed; `settle(network)`, the
last touch to averaged weights.
"""

from __future__ import annotations

import dataclasses
import os
from argparse import Namespace

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.utils import save_image

from unclip_core.clip import Clip, TextFeatures
from unclip_core.decoder import Decoder, DecoderConfig
from unclip_core.errors import UnclipError
from unclip_core.latents import PCA
from unclip_core.loading import mixed_precision
from unclip_core.pictures import to_pictures, to_pixels
from unclip_core.prior_ar import ARPrior, ARPriorConfig
from unclip_core.prior_diffusion import DiffusionPrior, DiffusionPriorConfig
from unclip_core.sampling import PictureNoise, dpm_solver_pp
from unclip_core.schedule import NoiseSchedule
from unclip_core.training.augment import redrawn
from unclip_core.training.clip_tasks import clip_task
from unclip_core.training.data import CLIP_WEIGHTS, PIXEL_WEIGHTS, CaptionTable, ImageText, load, load_split
from unclip_core.training.perceptual import Perceptual
from unclip_core.training.runs import first, load_clip, load_stage
from unclip_core.unet import UNetConfig
from unclip_core.upsampler import Upsampler, UpsamplerConfig

KEPT_VARIANCE = 0.998  # of z_i's, in the principal components that the AR prior predicts


class Encoded:
    """Pictures with their CLIP embeddings, made once by the frozen CLIP, and captions encoded as they are drawn."""

    def __init__(self, options: Namespace, also: str = "") -> None:
        left_over, first_process = options.runs / "clip", os.environ.get("RANK", "0") == "0"
        if options.pack and (left_over / "last.pt").exists() and first_process:
            print(f"Embeddings are by the CLIP of {left_over}, not by that of {options.pack}.", flush=True)
        self.clip = load_clip(options.runs, options.pack).to(torch.get_default_device())
        self.data = load_split(options.data, 64, also=also)
        self.captions = CaptionTable(self.data.captions, self.clip.tokenize)
        self.z_i = encode_pictures(self.clip, self.data)

    def pictures(self, pixels: Tensor) -> Tensor:
        """z_i [B, D] of pixels [B, 3, 64, 64] that are not among the data."""
        with torch.no_grad(), mixed_precision():
            return self.clip.encode_pixels(pixels).float()

    def text(self, chosen: Tensor) -> TextFeatures:
        with torch.no_grad():
            return self.clip.encode_tokens(self.captions.tokens(chosen)).to(torch.float32)

    def pooled(self) -> Tensor:
        """z_t [N, D] of every picture's first caption, to fit statistics on."""
        with torch.no_grad():
            parts = self.captions.first().split(512)
            return torch.cat([self.clip.encode_tokens(self.captions.tokens(rows)).pooled for rows in parts])


def label(data: ImageText, row: int) -> str:
    """What a picture is called in plain English; for pictures of one's own, their first caption."""
    return data.fields[row].get("label", data.captions[row][0])


@torch.no_grad()
def encode_pictures(clip: Clip, data: ImageText, rows: Tensor | None = None) -> Tensor:
    """z_i [N, D] of every picture, or of those in `rows` [N]."""
    rows = torch.arange(len(data)) if rows is None else rows
    with mixed_precision():
        return torch.cat([clip.encode_pixels(data.pixels(some)).float() for some in rows.split(500)])


class PriorTask:
    """The diffusion prior on (z_i, caption) pairs; judged by the cosine of its samples to held-out true z_i."""

    steps, batch, lr, weight_decay, betas, clip_norm, autocast = 12000, 256, 6e-4, 0.02, (0.9, 0.98), 1.0, True

    def __init__(self, options: Namespace) -> None:
        self.encoded = Encoded(options)
        self.held_out = load_split(options.data, 64, held_out=True)
        self.true = encode_pictures(self.encoded.clip, self.held_out)
        self.weights = self.encoded.data.weights(CLIP_WEIGHTS, rest=0.8)
        self.options = options
        self.network = self.make()
        self.fit()

    def fit(self) -> None:
        """The embeddings' statistics, which the network is built on."""
        self.network.fit(self.encoded.z_i)

    def ready(self) -> None:
        """Option refit=1, with --init from a pack of another CLIP: the statistics are this one's."""
        if self.options.option.get("refit") == "1":
            self.fit()

    def make(self) -> DiffusionPrior:
        clip = self.encoded.clip
        return DiffusionPrior(
            DiffusionPriorConfig(
                embed_dim=clip.embed_dim,
                text_width=clip.width,
                context_length=clip.context_length,
                width=256,
                layers=5,
                heads=4,
            )
        )

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, TextFeatures]:
        rows = torch.multinomial(self.weights, n, generator=generator)
        return self.encoded.z_i[rows], self.encoded.text(self.encoded.captions.draw(rows, generator))

    def loss(self, batch: tuple[Tensor, TextFeatures], generator: torch.Generator) -> Tensor:
        return self.network.loss(*batch, generator=generator)

    @torch.no_grad()
    def validate(self, network, path) -> dict[str, float]:
        rows = range(0, len(self.held_out), 8)
        text = self.encoded.clip.encode_text([label(self.held_out, i) for i in rows])
        true = self.true[list(rows)]
        z_i = F.normalize(network.sample(text, 1, 2.0, PictureNoise(0, range(len(rows)))), dim=-1)
        found = (z_i @ true.T).argmax(1) == torch.arange(len(rows))
        return {"cosine": (z_i * true).sum(1).mean().item(), "retrieval": found.float().mean().item(),
                "cosine_of_text": (text.pooled * true).sum(1).mean().item()}  # fmt: skip

    def configs(self) -> dict:
        return {"prior": dataclasses.asdict(self.network.config)}


class ARPriorTask(PriorTask):
    """The autoregressive prior on the same pairs, judged the same way."""

    steps, batch, lr = 6000, 96, 6e-4

    def make(self) -> ARPrior:
        clip = self.encoded.clip
        if self.options.init:
            codes = first(self.options.init, "prior_ar")[0]["n_codes"]
        else:
            codes = int((PCA.fit(self.encoded.z_i).explained < KEPT_VARIANCE).sum()) + 1
        return ARPrior(
            ARPriorConfig(
                embed_dim=clip.embed_dim,
                text_width=clip.width,
                context_length=clip.context_length,
                n_codes=codes,
                width=256,
                layers=5,
                heads=4,
                smoothing=12.0,
            )  # fmt: skip
        )

    def fit(self) -> None:
        self.network.fit(self.encoded.z_i, self.encoded.pooled())

    def configs(self) -> dict:
        return {"prior_ar": dataclasses.asdict(self.network.config)}


def whitened(decoder: Decoder, z_i: Tensor) -> Decoder:
    """The same function of z_i and caption, in a decoder that whitens z_i by the statistics of z_i [N, D]."""
    made = Decoder(dataclasses.replace(decoder.config, whiten=True))
    made.load_state_dict(decoder.state_dict(), strict=False)
    made.fit(z_i)
    own, old = made.clip_std.double()[0], decoder.clip_std.double()[0]
    moved = (made.clip_mean - decoder.clip_mean).double()[0] / old  # in the old decoder's units
    basis = made.clip_basis.double()
    turn = torch.linalg.inv(basis) * own / old[:, None]  # whitened -> standardised [D, D]
    with torch.no_grad():
        for name in ("image_to_time", "image_to_tokens"):
            before, after = getattr(decoder, name), getattr(made, name)
            weight = before.weight.double()
            after.weight.copy_(weight @ turn)
            after.bias.copy_(before.bias.double() + weight @ moved)
        made.null_image.copy_(basis @ ((decoder.null_image.double() - moved) * old) / own)
    return made


def hands_apart(encoded: Encoded) -> Tensor:
    """What other hands do to z_i: of plain drawings, its difference from the mean of the concept's other drawings.

    Raises UnclipError where no concept has two drawings.
    """
    rows, names = [], []
    for i, row in enumerate(encoded.data.fields):
        if row.get("kind", "single") == "single" and "concept" in row:
            rows.append(i)
            names.append(row["concept"])
    if len(set(names)) == len(names):
        raise UnclipError("--option noise needs a concept that is drawn twice, and these data have none; set it to 0.")
    index = {name: i for i, name in enumerate(dict.fromkeys(names))}
    of = torch.tensor([index[name] for name in names])
    z_i, count = encoded.z_i[rows], torch.bincount(of)
    total = torch.zeros(len(index), z_i.shape[1]).index_add_(0, of, z_i)
    several = count[of] > 1
    others = (total[of] - z_i)[several] / (count[of][several] - 1)[:, None]
    return z_i[several] - others


class DecoderTask:
    """The 64 px decoder, on the core world first. Options: widths; blocks; predicts; weighting (a row of
    objective.WEIGHTINGS); shift (see NoiseSchedule); guided (see DecoderConfig); perceptual and embedding (shares
    of the distances in CLIP's feature maps and of its z_i, x0-prediction only); whiten (1: z_i's small components
    are brought to sight); rest, common, composed, tones and icons (weight of drawings outside the core world, of
    everyday things, of composed pictures, of skin tones, and of the corpus's icons, which are left out without it);
    flip (how often a plain drawing is mirrored); noise (how much of the difference between two hands is added to
    z_i at most); redrawn (how often z_i is that of the drawing as another hand might have drawn it)."""

    steps, batch, lr, weight_decay, betas, clip_norm, autocast = 400_000, 32, 6e-4, 0.01, (0.9, 0.99), 1.0, True
    prompts = (
        "a red apple", "smiling face with sunglasses", "빨간 사과", "a dog", "pizza", "rocket", "a cat face", "guitar",
        "strawberry", "an octopus", "a house", "fire engine", "rainbow", "crying face", "penguin", "birthday cake",
    )  # fmt: skip

    def __init__(self, options: Namespace) -> None:
        icons = float(options.option.get("icons", 0))
        self.encoded = Encoded(options, also="icons" if icons else "")
        if icons and not any(row.get("kind") == "icon" for row in self.encoded.data.fields):
            raise UnclipError(
                "--option icons needs the corpus's set `icons`, which is not there: build it, or set it to 0."
            )
        self.held_out = load_split(options.data, 64, held_out=True)
        self.true = encode_pictures(self.encoded.clip, self.held_out)
        self.runs = options.runs
        composed = float(options.option.get("composed", 1))
        kinds = {k: v * (composed if k != "single" else 1) for k, v in PIXEL_WEIGHTS.items()} | {"icon": icons}
        usual = {"rest": 0.1, "common": 1, "tones": 1}
        often = {name: float(options.option.get(name, value)) for name, value in usual.items()}
        self.weights = self.encoded.data.weights(kinds, **often)
        widths = tuple(int(w) for w in options.option.get("widths", "96,256").split(","))
        clip = self.encoded.clip
        blocks = tuple(int(b) for b in options.option.get("blocks", "1,2").split(","))
        unet = UNetConfig(
            patch=4,
            widths=widths,
            blocks=blocks,
            attention=(False, True),
            context_width=256,
            time_width=512,
            resblock_updown=False,
        )
        predicts = options.option.get("predicts", "x0")
        begun = first(options.init, "decoder")[0] if options.init else {}
        shift = options.option.get("shift", begun.get("schedule", {}).get("shift", 1.0))
        guided = options.option["guided"].split(",") if "guided" in options.option else begun.get("guided", (0, 1))
        config = DecoderConfig(
            unet,
            clip.embed_dim,
            clip.width,
            whiten=begun.get("whiten", False),
            schedule=NoiseSchedule("cosine", shift=float(shift)),
            predicts=predicts,
            guided=tuple(float(share) for share in guided),
            known=begun.get("known", 0),
            pull=begun.get("pull", 0.0),
        )
        self.network = Decoder(config).to(memory_format=torch.channels_last)
        self.network.fit(self.encoded.z_i[self.weights > 0])
        self.whiten = options.option.get("whiten") == "1"
        self.weighting = options.option.get("weighting", "x0_as_v" if predicts == "x0" else "flat")
        shares = [float(options.option.get(name, 0)) for name in ("perceptual", "embedding")]
        self.extra = Perceptual(clip, *shares) if any(shares) else None
        self.noise, self.flip, self.redrawn = (
            float(options.option.get(name, 0)) for name in ("noise", "flip", "redrawn")
        )
        self.hands = hands_apart(self.encoded) if self.noise else None
        self.single = torch.tensor([row.get("kind", "single") == "single" for row in self.encoded.data.fields])
        self.turnable = self.single & torch.tensor([row.get("core", True) for row in self.encoded.data.fields])

    def ready(self) -> None:
        if self.whiten and not self.network.config.whiten:
            self.network = whitened(self.network, self.encoded.z_i).to(memory_format=torch.channels_last)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, TextFeatures]:
        rows = torch.multinomial(self.weights, n, generator=generator)
        text = self.encoded.text(self.encoded.captions.draw(rows, generator))
        pixels, z_i = self.encoded.data.pixels(rows), self.encoded.z_i[rows]
        turned = (torch.rand(n, generator=generator) < self.flip) & self.turnable[rows]
        if turned.any():
            pixels[turned] = pixels[turned].flip(-1)
            z_i[turned] = self.encoded.pictures(pixels[turned])
        other = (torch.rand(n, generator=generator) < self.redrawn) & self.single[rows]
        if other.any():
            drawn = redrawn(F.interpolate(pixels[other], scale_factor=2), generator)  # as fine as CLIP learned it
            z_i[other] = self.encoded.pictures(F.avg_pool2d(drawn, 2))
        if self.noise:
            share = self.noise * torch.rand(n, 1, generator=generator)
            other = torch.randint(len(self.hands), (n,), generator=generator)
            z_i = F.normalize(z_i + share * self.hands[other], dim=-1)
        return pixels.contiguous(memory_format=torch.channels_last), z_i, text

    def loss(self, batch: tuple[Tensor, Tensor, TextFeatures], generator: torch.Generator) -> Tensor:
        return self.network.loss(*batch, generator=generator, weighting=self.weighting, extra=self.extra)

    @torch.no_grad()
    def validate(self, network: Decoder, path) -> dict[str, float]:
        """Loss on fixed held-out pictures, noise and levels, and how well decoded pictures keep their z_i. The grid:
        held-out pictures, their decodings; training pictures, theirs; and fixed prompts where a prior has been trained.
        """
        core = [i for i, row in enumerate(self.held_out.fields) if row.get("core", True)][::8][:32]
        pixels, z_i = self.held_out.pixels(torch.tensor(core)), self.true[core]
        text = self.encoded.clip.encode_text([label(self.held_out, i) for i in core])
        seen = torch.nonzero(self.weights == self.weights.max()).flatten()
        seen = seen[:: len(seen) // 16 or 1][:16]
        with mixed_precision():
            losses = [network.loss(pixels, z_i, text, generator=torch.Generator().manual_seed(s)) for s in range(4)]
            made = decode(network, z_i, text, 2.0)
            known = decode(network, self.encoded.z_i[seen], None, 2.0)
            kept = self.encoded.clip.encode_pixels(made)
            rows = [pixels[:16], made[:16], self.encoded.data.pixels(seen), known]
            if (self.runs / "prior" / "last.pt").exists():
                asked = self.encoded.clip.encode_text(list(self.prompts))
                prior = load_stage(self.runs, "prior")
                rows.append(
                    decode(network, prior.sample(asked, 1, 2.0, PictureNoise(0, range(16)), steps=25), asked, 3.0)
                )
        save_grid(path, torch.cat(rows), columns=16)
        return {"loss": torch.stack(losses).mean().item(), "z_i_cosine": (kept * z_i).sum(1).mean().item()}

    def configs(self) -> dict:
        return {"decoder": dataclasses.asdict(self.network.config)}


def decode(decoder: Decoder, z_i: Tensor, text: TextFeatures | None, guidance: float, steps: int = 20) -> Tensor:
    """z_i [B, D] -> pictures [B, 3, S, S], by DPM-Solver++ from fixed noise."""
    size, schedule = decoder.config.image_size, decoder.config.schedule
    x_T = PictureNoise(0, range(len(z_i)))((3, size, size)).to(z_i.device)
    for step in dpm_solver_pp(decoder.denoiser(z_i, text, guidance), x_T, schedule.times(steps), schedule):
        pass
    return step.x.float().clamp(-1, 1)


class UpsamplerTask:
    """An upsampler on crops of 1024 px renderings of the vector art; judged in PSNR against Lanczos on held-out art.
    Options: predicts, weighting (a row of objective.WEIGHTINGS)."""

    steps, batch, lr, weight_decay, betas, clip_norm, autocast = 20_000, 16, 6e-4, 0.01, (0.9, 0.99), 1.0, True
    low, high, limit, crop, corruption = 64, 256, None, 128, "blur"
    unet = UNetConfig(
        in_channels=6,
        patch=4,
        widths=(64, 128),
        blocks=2,
        attention=(False, False),
        mid_attention=False,
        time_width=256,
    )

    def __init__(self, options: Namespace) -> None:
        self.data = load(options.data / "hires", self.high, self.limit)
        self.held_out = load(options.data / "hires_held_out", self.high, 32)
        predicts = options.option.get("predicts", "x0")
        residual = predicts == "x0"
        config = UpsamplerConfig(self.unet, self.low, self.high, self.corruption, predicts=predicts, residual=residual)
        self.network = Upsampler(config).to(memory_format=torch.channels_last)
        self.weighting = options.option.get("weighting", "flat")  # for x0: most where most is unknown

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        """Crops [n, 3, crop, crop] at places that keep the low-resolution grid; an empty crop is drawn again once."""
        factor = self.high // self.low
        rows = torch.randint(len(self.data), (n,), generator=generator).tolist()
        places = torch.randint((self.high - self.crop) // factor + 1, (n, 2, 2), generator=generator) * factor
        crops = []
        for row, tries in zip(rows, places.tolist(), strict=True):
            for top, left in tries:
                crop = torch.from_numpy(self.data.pictures[row, top : top + self.crop, left : left + self.crop].copy())
                if crop.float().std() > 2:
                    break
            crops.append(crop)
        pixels = torch.stack(crops).to(places.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        return pixels.contiguous(memory_format=torch.channels_last)

    def loss(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        return self.network.loss(batch, generator=generator, weighting=self.weighting)

    @torch.no_grad()
    def validate(self, network: Upsampler, path) -> dict[str, float]:
        figures, shown = {"psnr": [], "psnr_lanczos": []}, []
        for i in range(min(8 if self.high > 256 else 24, len(self.held_out))):
            true = self.held_out.pixels(torch.tensor([i]))
            low = F.avg_pool2d(true, self.high // self.low)
            x_T = PictureNoise(0, [i])((3, self.high, self.high)).to(true.device)
            with mixed_precision():
                for step in network.sample_steps(low, x_T, steps=4):
                    pass
            made, plain = step.x.float().clamp(-1, 1), lanczos(low, self.high)
            figures["psnr"].append(psnr(made, true))
            figures["psnr_lanczos"].append(psnr(plain, true))
            shown += [F.avg_pool2d(p, self.high // 256) for p in (true, plain, made)] if i < 8 else []
        save_grid(path, torch.cat(shown), columns=6)
        return {name: sum(values) / len(values) for name, values in figures.items()}

    def configs(self) -> dict:
        return {f"upsampler_{self.high}": dataclasses.asdict(self.network.config)}


class LargeUpsamplerTask(UpsamplerTask):
    """256 to 1024 px: narrower, with the broader corruption."""

    low, high, limit, crop, corruption = 256, 1024, 900, 256, "bsr"
    unet = UNetConfig(
        in_channels=6, patch=8, widths=(64, 96), blocks=1, attention=(False, False), mid_attention=False, time_width=256
    )


def psnr(a: Tensor, b: Tensor) -> float:
    """In dB, for pictures in [-1, 1]."""
    return (10 * torch.log10(4 / F.mse_loss(a, b).clamp(min=1e-10))).item()


def lanczos(low: Tensor, size: int) -> Tensor:
    """[B, 3, h, w] -> [B, 3, size, size] by Pillow's Lanczos filter."""
    enlarged = [picture.resize((size, size), Image.LANCZOS) for picture in to_pictures(low)]
    return to_pixels(enlarged).to(low.device)


def save_grid(path, pixels: Tensor, columns: int) -> None:
    """[N, 3, S, S] in [-1, 1] -> one PNG, `columns` pictures a row."""
    save_image(pixels, path, nrow=columns, normalize=True, value_range=(-1, 1), padding=1)


STAGES = {
    "clip": clip_task,
    "prior": PriorTask,
    "prior_ar": ARPriorTask,
    "decoder": DecoderTask,
    "upsampler_256": UpsamplerTask,
    "upsampler_1024": LargeUpsamplerTask,
}
