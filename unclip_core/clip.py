"""CLIP (paper section 2): pictures and captions in one space, through open_clip's own modules.

Letters: B batch, D joint embedding width, L tokens, W text width, S picture side.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from unclip_core.errors import PackError
from unclip_core.pictures import framed

TOKENS, START, END = 49408, 49406, 49407  # open_clip's byte-pair vocabulary and its two marks
BYTES = 512  # its first rows: every byte, and every byte that ends a word
HANGUL = re.compile("([가-힣]+)")


class TextFeatures(NamedTuple):
    """What CLIP makes of B captions: pooled [B, D], tokens [B, L, W], mask [B, L] (True where a token is real)."""

    pooled: Tensor
    tokens: Tensor
    mask: Tensor

    def repeat(self, n: int) -> TextFeatures:
        """Every caption `n` times in a row: [B, ...] -> [B * n, ...]."""
        return TextFeatures(*(part.repeat_interleave(n, dim=0) for part in self))

    def index(self, rows: Any) -> TextFeatures:
        """The captions `rows` (a slice, indices or bools), with at least the batch axis kept."""
        return TextFeatures(*(part[rows] for part in self))

    def to(self, *args: Any, **kwargs: Any) -> TextFeatures:
        """`Tensor.to` on the embeddings; the mask only changes device."""
        pooled, tokens = self.pooled.to(*args, **kwargs), self.tokens.to(*args, **kwargs)
        return TextFeatures(pooled, tokens, self.mask.to(pooled.device))


@dataclass(frozen=True)
class ClipConfig:
    """`vision` and `text` are open_clip's own configs (CLIPVisionCfg, CLIPTextCfg) as plain dicts.

    normalize: embeddings leave as unit vectors (the pocket pack); otherwise raw (Karlo).
    pad_to_context: token states are returned at the full context length, otherwise cut to the longest caption's.
    framed: a small drawing on a plain ground is looked at up close (`pictures.framed`), as the pack's own art is drawn.
    words: Korean words, parted by spaces, with tokens of their own (ids from TOKENS on): byte-pair encoding spells
    Korean nearly byte by byte, which a small text tower is slow to learn.
    """

    embed_dim: int
    vision: dict = field(default_factory=dict)
    text: dict = field(default_factory=dict)
    quick_gelu: bool = False
    normalize: bool = True
    pad_to_context: bool = False
    framed: bool = True
    words: str = ""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)


class Clip(nn.Module):
    """Both encoders, frozen once trained. `vocabulary` [V] int: the byte-pair ids that have a row in the token table.

    A caption's token without a row is spelled out in bytes, which always have one, so any text can be read.
    Raises PackError for a config that open_clip does not take.
    """

    def __init__(self, config: ClipConfig, vocabulary: Tensor | None = None) -> None:
        super().__init__()
        import open_clip  # slow to import: only where a model is made

        self.config = config
        if vocabulary is None:
            vocabulary = torch.arange(config.text.get("vocab_size", TOKENS))
        self.register_buffer("vocabulary", vocabulary.to(torch.int32))
        text = {**config.text, "vocab_size": len(vocabulary)}
        try:
            self.model = open_clip.CLIP(config.embed_dim, dict(config.vision), text, quick_gelu=config.quick_gelu)
        except TypeError as fault:
            raise PackError(f"The pack's CLIP config is not one that open_clip takes: {fault}.") from fault

    @property
    def embed_dim(self) -> int:
        return self.config.embed_dim

    @property
    def width(self) -> int:
        """W, the width of the token states."""
        return self.model.token_embedding.embedding_dim

    @property
    def context_length(self) -> int:
        return self.model.context_length

    @property
    def image_size(self) -> int:
        size = self.config.vision["image_size"]
        return size if isinstance(size, int) else size[0]

    @property
    def logit_scale(self) -> Tensor:
        """The learned inverse temperature that cosines are multiplied by before a softmax."""
        return self.model.logit_scale.exp()

    @property
    def device(self) -> torch.device:
        return self.vocabulary.device

    @cached_property
    def _tokenizer(self) -> Any:
        from open_clip.tokenizer import SimpleTokenizer

        return SimpleTokenizer(context_length=self.context_length)

    @cached_property
    def _rows(self) -> dict[int, int]:
        return {token: row for row, token in enumerate(self.vocabulary.tolist())}

    @cached_property
    def _words(self) -> dict[str, int]:
        return {word: TOKENS + i for i, word in enumerate(self.config.words.split())}

    def _ids(self, caption: str) -> list[int]:
        """Byte-pair ids; in a run of Hangul the longest known word at each place is one token."""
        ids: list[int] = []
        for i, piece in enumerate(HANGUL.split(unicodedata.normalize("NFC", caption)) if self._words else [caption]):
            while i % 2 and piece:
                fits = (n for n in range(len(piece), 0, -1) if piece[:n] in self._words)
                length = next(fits, 0)
                ids += [self._words[piece[:length]]] if length else self._tokenizer.encode(piece[0])
                piece = piece[max(length, 1) :]
            ids += self._tokenizer.encode(piece)
        return ids

    def _spell(self, token: int) -> list[int]:
        """The token itself where it has a row, else its bytes."""
        if token in self._rows:
            return [token]
        word = self._tokenizer.decoder[token]
        body, end = (word[:-4], "</w>") if word.endswith("</w>") else (word, "")
        return [self._tokenizer.encoder[c] for c in body[:-1]] + [self._tokenizer.encoder[body[-1] + end]]

    def tokenize(self, captions: list[str]) -> Tensor:
        """Captions -> [B, context_length] int64 token rows on the CPU; too long a caption is cut, its end mark kept."""
        rows = torch.zeros(len(captions), self.context_length, dtype=torch.int64, device="cpu")
        for i, caption in enumerate(captions):
            ids = [t for token in self._ids(caption) for t in self._spell(token)]
            ids = [START, *ids[: self.context_length - 2], END]
            rows[i, : len(ids)] = torch.tensor([self._rows[t] for t in ids], device="cpu")
        return rows

    def encode_tokens(self, rows: Tensor) -> TextFeatures:
        """[B, L] token rows (L up to the context length, each with its end mark) -> TextFeatures, with gradient."""
        model, (batch, length) = self.model, rows.shape
        end = (rows == len(self.vocabulary) - 1).int().argmax(1)  # the end mark is the last row
        x = model.token_embedding(rows) + model.positional_embedding[:length]  # [B, L, W]
        x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
        tokens = model.ln_final(x)  # [B, L, W]
        pooled = tokens[torch.arange(batch, device=rows.device), end] @ model.text_projection  # [B, D]
        mask = torch.arange(length, device=rows.device) <= end[:, None]
        return TextFeatures(self._finish(pooled), tokens, mask)

    @torch.no_grad()
    def encode_text(self, captions: list[str]) -> TextFeatures:
        """Captions -> TextFeatures, float32. [""] is the empty caption. Case and spacing do not matter."""
        rows = self.tokenize(list(captions)).to(self.device)
        if not self.config.pad_to_context:
            longest = int((rows == len(self.vocabulary) - 1).int().argmax(1).max()) + 1
            rows = rows[:, :longest]
        return self.encode_tokens(rows).to(torch.float32)

    def encode_pixels(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1], any size -> z_i [B, D]; differentiable."""
        if pixels.shape[-1] != self.image_size or pixels.shape[-2] != self.image_size:
            pixels = F.interpolate(pixels, (self.image_size, self.image_size), mode="bicubic", antialias=True).clamp(
                -1, 1
            )
        shift = [(2 * m - 1) for m in self.config.mean]
        scale = [2 * s for s in self.config.std]
        if any(shift) or any(s != 1 for s in scale):  # from [-1, 1] to the tower's own mean and spread
            pixels = (pixels - pixels.new_tensor(shift).view(3, 1, 1)) / pixels.new_tensor(scale).view(3, 1, 1)
        return self._finish(self.model.visual(pixels.to(next(self.model.visual.parameters()).dtype)))

    @torch.no_grad()
    def encode_image(self, pictures: list[Image.Image], close: bool = True) -> Tensor:
        """Pictures of any size -> z_i [B, D] float32. Their middle square is read; where it holds a small drawing on a
        plain ground, up close (unless close is False, or the pack's config says otherwise)."""
        size = self.image_size
        near = close and self.config.framed
        squares = [_square(framed(picture) if near else picture, size) for picture in pictures]
        pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2).to(self.device)
        return self.encode_pixels(pixels.float() / 127.5 - 1).float()

    def _finish(self, embedding: Tensor) -> Tensor:
        return F.normalize(embedding.float(), dim=-1) if self.config.normalize else embedding


def _square(picture: Image.Image, size: int) -> np.ndarray:
    """Shorter side to `size` (bicubic, as CLIP's own preprocessing), middle square, RGB [S, S, 3] uint8."""
    picture = picture.convert("RGB")
    scale = size / min(picture.size)
    wide, high = (max(size, math.floor(s * scale + 0.5)) for s in picture.size)
    picture = picture.resize((wide, high), Image.BICUBIC)
    left, top = (wide - size) // 2, (high - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size)))


def used_vocabulary(captions: list[str], words: str = "") -> Tensor:
    """[V] ids for a small token table: byte pairs the captions use and every byte, then `words`, then the two marks."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    used = {token for caption in set(captions) for token in tokenizer.encode(caption)}
    pairs = sorted({*used, *range(BYTES)} - {START, END})
    return torch.tensor([*pairs, *range(TOKENS, TOKENS + len(words.split())), START, END], dtype=torch.int32)


def korean_words(captions: list[str], least: int = 4) -> str:
    """The Korean words that occur at least `least` times in the captions, most frequent first, parted by spaces."""
    counts = Counter(word for caption in captions for word in HANGUL.findall(caption))
    return " ".join(word for word, count in counts.most_common() if count >= least)
