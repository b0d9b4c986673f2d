"""What CLIP trains on: both towers together, then each with the other one locked.

Both together (`ClipTask`) is CLIP as published. The corpus holds out known things in an unknown hand, and there it
over-fits before it is good enough. So the picture tower goes on alone, against every concept at once and held to what a
network sees that was trained on photographs (`PictureTowerTask`); then the text tower follows it (`TextTowerTask`).
"""

from __future__ import annotations

import copy
import dataclasses
from argparse import Namespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from unclip_core.clip import Clip, ClipConfig, korean_words, used_vocabulary
from unclip_core.configs import config_from_dict
from unclip_core.errors import UnclipError
from unclip_core.training.augment import MixStyle, augment, redrawn, smaller
from unclip_core.training.data import CLIP_WEIGHTS, CaptionTable, ImageText, load_split
from unclip_core.training.runs import first


class ClipTask:
    """Contrastive training of both encoders with open_clip's loss; judged by retrieval among held-out pairs.
    Options: korean (share of Korean captions), train (both, picture or text: which towers)."""

    steps, batch, lr, weight_decay, betas, clip_norm, autocast = 5000, 384, 1.5e-3, 0.1, (0.9, 0.98), 1.0, True
    config = ClipConfig(
        embed_dim=256,
        vision={"layers": (2, 3, 4, 2), "width": 32, "head_width": 64, "image_size": 64},
        text={"context_length": 48, "width": 256, "heads": 4, "layers": 4},
    )

    def __init__(self, options: Namespace) -> None:
        from open_clip.loss import ClipLoss

        self.data = load_split(options.data, 128, also="line")
        self.held_out = load_split(options.data, 128, held_out=True)
        captions = [c for group in self.data.captions for c in group]
        if options.init:  # its token table with it, whatever words these captions use
            config, weights = first(options.init, "clip")
            self.config, vocabulary = config_from_dict(ClipConfig, config, "clip"), weights["vocabulary"]
        else:
            self.config = dataclasses.replace(self.config, words=korean_words(captions))
            vocabulary = used_vocabulary(captions, self.config.words)
        self.network = Clip(self.config, vocabulary).to(torch.get_default_device(), memory_format=torch.channels_last)
        self.captions = CaptionTable(self.data.captions, self.network.tokenize)
        self.weights = self.data.weights(CLIP_WEIGHTS, rest=0.8)
        codes: dict[str, int] = {}  # one number a concept; composed pictures are each their own
        self.concepts = torch.tensor(
            [codes.setdefault(row.get("concept") or f"row {i}", len(codes)) for i, row in enumerate(self.data.fields)]
        )
        self.korean_share = float(options.option.get("korean", 0.4))
        self.contrast = ClipLoss()
        visual, mix = self.network.model.visual, MixStyle()
        for name in ("layer1", "layer2"):
            if hasattr(visual, name):  # a ResNet's
                getattr(visual, name).register_forward_hook(mix)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """No concept twice, as far as there are enough: a caption is not told that its own concept is another's."""
        rows = torch.multinomial(self.weights, min(2 * n, len(self.weights)), generator=generator)
        seen = torch.zeros(int(self.concepts.max()) + 1, dtype=torch.long)
        seen[self.concepts[rows.flip(0)]] = torch.arange(len(rows)).flip(0)  # where each concept comes first
        first = seen[self.concepts[rows]] == torch.arange(len(rows))
        rows = torch.cat([rows[first], rows[~first]])[:n]
        pixels = augment(self.data.pixels(rows), self.network.image_size, generator)
        chosen = self.captions.draw(rows, generator, self.korean_share)
        return pixels.contiguous(memory_format=torch.channels_last), self.captions.tokens(chosen)

    def loss(self, batch: tuple[Tensor, Tensor], generator: torch.Generator) -> Tensor:
        pixels, tokens = batch
        network = self.network
        network.model.logit_scale.data.clamp_(max=4.6052)  # at most 100
        return self.contrast(network.encode_pixels(pixels), encode_by_length(network, tokens), network.logit_scale)

    @torch.no_grad()
    def validate(self, network: Clip, path) -> dict[str, float]:
        """Share of held-out pairs whose caption finds its own picture first among all of them."""
        rows = torch.arange(len(self.held_out))
        z_i = encode_plain(network, self.held_out, rows)
        pairs = [*zip(self.held_out.fields, self.held_out.captions, strict=True)]
        asked = {
            "english": [row.get("label", texts[0]) for row, texts in pairs],
            "korean": [row.get("label_ko", texts[-1]) for row, texts in pairs],
            "english_with_style": [next((t for t in texts if t.endswith(" style")), texts[0]) for _, texts in pairs],
        }
        figures = {}
        for name, captions in asked.items():
            z_t = torch.cat([network.encode_text([captions[i] for i in r]).pooled for r in rows.split(250)])
            figures[name] = ((z_t @ z_i.T).argmax(1) == rows).float().mean().item()
        return figures

    def configs(self) -> dict:
        return {"clip": dataclasses.asdict(self.config)}


def plain(data: ImageText, rows: Tensor) -> Tensor:
    """Pictures as they are, [B, 3, 64, 64]: the ones in memory are twice as large, for augmentation."""
    return F.avg_pool2d(data.pixels(rows), 2)


def encode_plain(clip: Clip, data: ImageText, rows: Tensor) -> Tensor:
    """z_i [B, D] float32 of pictures as they are."""
    return torch.cat([clip.encode_pixels(plain(data, part)).float() for part in rows.split(250)])


def encode_by_length(clip: Clip, tokens: Tensor, parts: int = 4) -> Tensor:
    """Token rows [B, L] -> pooled embeddings [B, D]; captions of like length run together to save padding."""
    lengths = (tokens == len(clip.vocabulary) - 1).int().argmax(1) + 1
    order = torch.argsort(lengths)
    pooled = [clip.encode_tokens(tokens[rows, : int(lengths[rows].max())]).pooled for rows in order.chunk(parts)]
    return torch.cat(pooled)[torch.argsort(order)]


class _LockedTask(ClipTask):
    """One tower trains, the other stays as it is.

    begin() reads, once the weights are loaded, what the locked tower says; `towards` is the loss from there on.
    """

    begun = False

    def __init__(self, options: Namespace) -> None:
        super().__init__(options)
        if not any("concept" in row for row in self.data.fields):
            raise UnclipError("--option train=picture and train=text need a corpus whose pictures name their concept.")
        self.single = torch.tensor([row.get("kind", "single") == "single" for row in self.data.fields])
        self.drawings = torch.nonzero(self.single).flatten()
        self.known = torch.unique(self.concepts[self.drawings])  # concepts with a drawing of their own
        self.place = torch.full((int(self.concepts.max()) + 1,), -1)
        self.place[self.known] = torch.arange(len(self.known))

    def lock(self, picture: bool) -> None:
        """Freeze the picture tower, or all the rest."""
        visual = {id(p) for p in self.network.model.visual.parameters()}
        for parameter in self.network.parameters():
            parameter.requires_grad_((id(parameter) in visual) != picture)

    def loss(self, batch: tuple[Tensor, ...], generator: torch.Generator) -> Tensor:
        if not self.begun:
            training, self.begun = self.network.training, True
            with torch.no_grad():
                self.begin(self.network.eval())
            self.network.train(training)
        return self.towards(*batch)

    def prototypes(self, network: Clip) -> Tensor:
        """The mean direction [C, D] of each known concept's drawings."""
        total = torch.zeros(len(self.known), network.embed_dim)
        total.index_add_(0, self.place[self.concepts[self.drawings]], encode_plain(network, self.data, self.drawings))
        return F.normalize(total, dim=1)


class PictureTowerTask(_LockedTask):
    """The picture tower, text locked: every concept is a class. Its direction lies between those of its captions and of
    its drawings. Composed pictures join with their own captions. Options: teacher (weight of the teacher, 0 for none);
    keep (weight of staying where each picture was, so that priors and decoder still understand it); redrawn and smaller
    (shares of drawings that are shown as another hand might draw them, and with more of the page left empty).
    """

    batch, lr = 192, 7e-4

    def __init__(self, options: Namespace) -> None:
        super().__init__(options)
        self.lock(picture=False)
        self.share = float(options.option.get("teacher", 2))
        self.keep = float(options.option.get("keep", 0))
        self.redrawn, self.smaller = (float(options.option.get(name, 0)) for name in ("redrawn", "smaller"))
        if self.share:
            if not hasattr(self.network.model.visual, "layer4"):
                raise UnclipError("--option teacher needs a CLIP with a ResNet picture tower; set it to 0.")
            from unclip_core.training.teacher import Teacher

            self.teacher = Teacher(self.data, self.drawings, self.concepts)
            last = self.network.model.visual.layer4
            self.helper = nn.Linear(last[-1].conv3.out_channels, self.teacher.width)
            last.register_forward_hook(lambda module, arguments, maps: setattr(self, "maps", maps))

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        rows = torch.multinomial(self.weights, n, generator=generator)
        pixels, as_is = self.data.pixels(rows), n // 4 if self.keep else 0
        other = self.single[rows] & (torch.rand(n, generator=generator) < self.redrawn)
        other[:as_is] = False
        pixels[other] = redrawn(pixels[other], generator)
        small = self.single[rows] & (torch.rand(n, generator=generator) < self.smaller)
        if small.any():
            pixels[small] = smaller(pixels[small], generator)
        pixels = torch.cat(
            [F.avg_pool2d(pixels[:as_is], 2), augment(pixels[as_is:], self.network.image_size, generator)]
        )
        composed = rows[~self.single[rows]]
        tokens = self.captions.tokens(self.captions.draw(composed, generator, self.korean_share))
        return pixels.contiguous(memory_format=torch.channels_last), tokens, rows

    def begin(self, network: Clip) -> None:
        first = {int(self.concepts[row]): int(row) for row in self.drawings.flip(0)}
        said = []
        for concept in self.known.tolist():
            row = self.data.fields[first[concept]]
            captions = [row["label"]] * 2 + row["captions"][:4] + [row.get("label_ko", row["label"])] * 2
            said.append(network.encode_text(captions).pooled.mean(0))
        said = F.normalize(torch.stack(said), dim=1)
        self.classes = F.normalize(said + self.prototypes(network), dim=1)
        if self.keep:
            self.before = encode_plain(network, self.data, torch.arange(len(self.data)))

    def towards(self, pixels: Tensor, tokens: Tensor, rows: Tensor) -> Tensor:
        network, single = self.network, self.single[rows]
        z_i = network.encode_pixels(pixels).float()
        with torch.no_grad():
            composed = network.encode_tokens(tokens).pooled.float() if len(tokens) else self.classes[:0]
        wanted = self.place[self.concepts[rows]]
        wanted[~single] = len(self.classes) + torch.arange(len(composed))
        said, scale = torch.cat([self.classes, composed]), network.logit_scale.detach()
        loss = 0.6 * F.cross_entropy(scale * z_i @ said.T, wanted)
        others = (wanted[:, None] == wanted) & ~torch.eye(len(rows), dtype=torch.bool)  # the same thing drawn twice
        found = (scale * said[wanted] @ z_i.T).masked_fill(others, -1e4)
        loss = loss + 0.4 * F.cross_entropy(found, torch.arange(len(rows)))
        if self.keep:
            loss = loss + self.keep * (1 - F.cosine_similarity(z_i, self.before[rows])).mean()
        if self.share and single.any():
            seen = self.helper(self.maps.float().mean((2, 3)))[single]
            loss = loss + self.share * (1 - F.cosine_similarity(seen, self.teacher(rows[single]))).mean()
        return loss

    @torch.no_grad()
    def settle(self, network: Clip) -> None:
        """Batch-norm statistics of averaged weights, half over pictures as they are, half as they were trained on."""
        generator, count = torch.Generator(torch.get_default_device()).manual_seed(0), min(256, len(self.weights))
        batches = [self.draw(count, generator)[0] for _ in range(10)]
        for _ in range(10):
            batches.append(plain(self.data, torch.multinomial(self.weights, count, generator=generator)))
        update_bn(batches, network.model.visual)


class TextTowerTask(_LockedTask):
    """The text tower, pictures locked: each caption moves to the middle between where it was and its concept's drawings
    (a composed picture is its own), and tells its concept from all others."""

    batch, lr = 384, 6e-4

    def __init__(self, options: Namespace) -> None:
        super().__init__(options)
        self.lock(picture=True)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        rows = torch.multinomial(self.weights, n, generator=generator)
        return self.captions.tokens(self.captions.draw(rows, generator, self.korean_share)), rows

    def begin(self, network: Clip) -> None:
        self.before = copy.deepcopy(network)
        self.classes = self.prototypes(network)

    def towards(self, tokens: Tensor, rows: Tensor) -> Tensor:
        single = self.single[rows]
        with torch.no_grad():
            before = encode_by_length(self.before, tokens).float()
            own = torch.empty_like(before)
            own[single] = self.classes[self.place[self.concepts[rows[single]]]]
            if not single.all():
                own[~single] = self.before.encode_pixels(plain(self.data, rows[~single])).float()
        z_t = encode_by_length(self.network, tokens).float()
        told = F.cross_entropy(
            self.network.logit_scale.detach() * z_t[single] @ self.classes.T, self.place[self.concepts[rows[single]]]
        )
        return 10 * (1 - F.cosine_similarity(z_t, before + own)).mean() + 0.1 * told


def clip_task(options: Namespace) -> ClipTask:
    """The task that ``--option train=...`` names. Raises UnclipError for another name."""
    tasks = {"both": ClipTask, "picture": PictureTowerTask, "text": TextTowerTask}
    name = options.option.get("train", "both")
    if name not in tasks:
        raise UnclipError(f"--option train={name} is not one of {', '.join(tasks)}.")
    return tasks[name](options)
