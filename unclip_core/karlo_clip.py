"""CLIP as published beside unCLIP weights: open_clip's networks, and the tokenizer, from the folder's own files.

Embeddings are not normalised, and captions are padded to the full context, as the prior and decoder were trained.
"""

from __future__ import annotations

import math
import unicodedata
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from unclip_core.clip import Clip, ClipConfig, TextFeatures
from unclip_core.errors import PackError, RequestError
from unclip_core.karlo_files import Weights, fill, read_json
from unclip_core.karlo_keys import clip_image_keys, clip_text_keys, demand

LOGIT_SCALE = math.log(100.0)  # OpenAI's trained value; text towers are published without it
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_ROLES = {"bos": "<|startoftext|>", "eos": "<|endoftext|>", "unk": "<|endoftext|>", "pad": "<|endoftext|>"}


class Tokenizer:
    """CLIP's byte-pair encoding with the folder's own vocabulary, merges and special tokens.

    Special tokens written in a caption count as such. Karlo pads with "!", token 0, which makes every "!" one of them.
    """

    def __init__(
        self, vocabulary: dict[str, int], merges: list[tuple[str, str]], special: dict[str, str], length: int
    ) -> None:
        import regex
        from open_clip.tokenizer import bytes_to_unicode

        missing = [token for token in special.values() if token not in vocabulary]
        if missing:
            raise PackError(f"tokenizer: the special token {missing[0]!r} is not in its vocabulary.")
        self.vocabulary, self.length = vocabulary, length
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.bos, self.eos, self.unk, self.pad = (vocabulary[special[role]] for role in _ROLES)
        self._letters = bytes_to_unicode()
        self._words = regex.compile(_WORDS)
        names = sorted(set(special.values()), key=len, reverse=True)
        self._special = regex.compile("(" + "|".join(regex.escape(name) for name in names) + ")")

    @classmethod
    def read(cls, folder: Path, positions: int) -> Tokenizer:
        """From tokenizer.json, or vocab.json and merges.txt. `positions`: what the text tower can take at most."""
        settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
        if (folder / "special_tokens_map.json").is_file():
            settings = read_json(folder / "special_tokens_map.json") | settings
        special = {}
        for role, usual in _ROLES.items():
            token = settings.get(f"{role}_token") or usual
            special[role] = token["content"] if isinstance(token, dict) else token
        if (folder / "vocab.json").is_file():
            vocabulary = read_json(folder / "vocab.json")
            try:
                lines = (folder / "merges.txt").read_text("utf-8").strip().split("\n")
            except (OSError, UnicodeDecodeError) as fault:
                raise PackError(f"{folder / 'merges.txt'}: cannot be read ({fault}).") from fault
            lines = [line for line in lines if line and not line.startswith("#version")]
        else:
            model = read_json(folder / "tokenizer.json").get("model", {})
            vocabulary, lines = model.get("vocab", {}), model.get("merges", [])
        merges = [tuple(line.split(" ") if isinstance(line, str) else line) for line in lines]
        if not vocabulary or any(len(pair) != 2 for pair in merges):
            raise PackError(f"{folder}: the vocabulary or the merges are not those of a byte-pair encoding.")
        length = settings.get("model_max_length")
        if not isinstance(length, int) or length > positions:
            length = positions
        return cls(vocabulary, merges, special, length)

    def __call__(self, captions: list[str]) -> tuple[Tensor, Tensor]:
        """Captions -> token numbers [B, L] int64, padded, and mask [B, L], True where a token is real."""
        ids = torch.full((len(captions), self.length), self.pad, dtype=torch.int64)
        mask = torch.zeros(len(captions), self.length, dtype=torch.bool)
        for row, caption in enumerate(captions):
            tokens = [self.bos, *self.encode(caption)[: self.length - 2], self.eos]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = True
        return ids, mask

    def encode(self, caption: str) -> list[int]:
        """One caption's tokens, without the marks of start and end."""
        tokens: list[int] = []
        for i, part in enumerate(self._special.split(caption)):
            if i % 2:  # the separators, special tokens, stand at the odd places
                tokens.append(self.vocabulary[part])
                continue
            for word in self._words.findall(unicodedata.normalize("NFC", part).lower()):
                letters = [self._letters[byte] for byte in word.encode("utf-8", "replace")]
                tokens += [self.vocabulary.get(piece, self.unk) for piece in self._merged(letters)]
        return tokens

    def _merged(self, letters: list[str]) -> list[str]:
        """One word's letters, joined pair by pair in the order of the merges; "</w>" ends a word."""
        pieces = [*letters[:-1], letters[-1] + "</w>"]
        while len(pieces) > 1:
            ranked = [(self.ranks.get(pair, math.inf), i) for i, pair in enumerate(zip(pieces, pieces[1:]))]
            rank, i = min(ranked)
            if rank == math.inf:
                break
            pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
        return pieces


class KarloClip(Clip):
    """The published CLIP. Without an image tower (text-to-image folders have none) pictures cannot be encoded."""

    def __init__(self, config: ClipConfig, tokenizer: Tokenizer, eos_id: int, has_image_tower: bool) -> None:
        super().__init__(config)
        self.tokenizer, self.eos_id = tokenizer, eos_id
        if not has_image_tower:
            self.model.visual = None

    @property
    def context_length(self) -> int:
        return self.tokenizer.length

    @property
    def device(self) -> torch.device:
        return self.model.positional_embedding.device

    @torch.no_grad()
    def encode_text(self, captions: list[str]) -> TextFeatures:
        """Captions -> TextFeatures at the full context length. [""] is the empty caption."""
        ids, mask = (part.to(self.device) for part in self.tokenizer(list(captions)))
        return self._encode(ids, mask)

    def _encode(self, ids: Tensor, mask: Tensor) -> TextFeatures:
        """The same from token numbers [B, L]."""
        model, length = self.model, ids.shape[1]
        x = model.token_embedding(ids) + model.positional_embedding[:length]  # [B, L, W]
        x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
        tokens = model.ln_final(x)  # [B, L, W]
        # Configs written before 2023 name 2 as the end mark; the mark then is the highest number in the row.
        end = ids.argmax(1) if self.eos_id == 2 else (ids == self.eos_id).int().argmax(1)
        pooled = tokens[torch.arange(len(ids), device=ids.device), end] @ model.text_projection  # [B, D]
        return TextFeatures(pooled, tokens, mask)

    def encode_image(self, pictures: list[Image.Image], close: bool = True) -> Tensor:
        """Pictures of any size (their middle square is read) -> z_i [B, D] float32, not normalised."""
        if self.model.visual is None:
            raise RequestError(
                "These weights came without an image encoder, so pictures cannot be read: put the folder "
                "'image_encoder' of the image-variation weights beside 'text_encoder'.",
                "stage",
                stage="image_encoder",
            )
        return super().encode_image(pictures, close)


def load_clip(
    text: Path,
    tokenizer: Path,
    image: Path | None,
    weights: dict[str, Weights],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> Clip:
    """Folders text_encoder, tokenizer and, where there is one, image_encoder -> CLIP.

    weights: those of "text_encoder" and "image_encoder". Raises PackError.
    """
    settings = read_json(text / "config.json")
    text_tower, quick = _tower(settings, "text_encoder", 512, 2048, 8)
    text_tower |= {
        "context_length": settings.get("max_position_embeddings", 77),
        "vocab_size": settings.get("vocab_size", 49408),
        "heads": settings.get("num_attention_heads", 8),
    }
    embed_dim = settings.get("projection_dim", 512)
    image_settings = {} if image is None else read_json(image / "config.json")
    image_tower, image_quick = _tower(image_settings, "image_encoder", 768, 3072, 12)
    image_tower |= {
        "head_width": image_tower["width"] // image_settings.get("num_attention_heads", 12),
        "patch_size": image_settings.get("patch_size", 32),
        "image_size": image_settings.get("image_size", 224),
    }
    if image is not None:
        demand(
            {"projection_dim": image_settings.get("projection_dim", 512)},
            "image_encoder",
            {"projection_dim": (embed_dim,)},
        )
    config = ClipConfig(
        embed_dim,
        image_tower,
        text_tower,
        quick,
        normalize=False,
        pad_to_context=True,
        framed=False,
        **_preprocessing(image, image_tower["image_size"]),
    )
    words = Tokenizer.read(tokenizer, text_tower["context_length"])
    if max(words.vocabulary.values()) >= text_tower["vocab_size"]:
        raise PackError("tokenizer: its vocabulary is larger than the text encoder's.")
    with torch.device("meta"):
        clip = KarloClip(config, words, settings.get("eos_token_id", 49407), image is not None)
        if image is not None and image_quick != quick:
            other = ClipConfig(embed_dim, image_tower, text_tower, image_quick)
            clip.model.visual = Clip(other).model.visual
    _fill_towers(clip, weights, text_tower["layers"], image_tower["layers"], device, dtype)
    return clip


def _tower(settings: dict[str, Any], where: str, width: int, inner: int, layers: int) -> tuple[dict[str, Any], bool]:
    """open_clip's settings that both towers share, and whether the activation is quick GELU."""
    activation = settings.get("hidden_act", "quick_gelu")
    demand({"hidden_act": activation}, where, {"hidden_act": ("quick_gelu", "gelu")})
    width = settings.get("hidden_size", width)
    tower = {
        "width": width,
        "layers": settings.get("num_hidden_layers", 12),
        # open_clip takes a ratio and cuts the product to a whole number: the half keeps rounding from losing one.
        "mlp_ratio": (settings.get("intermediate_size", inner) + 0.5) / width,
        "norm_kwargs": {"eps": settings.get("layer_norm_eps", 1e-5)},
    }
    return tower, activation == "quick_gelu"


def _preprocessing(image: Path | None, side: int) -> dict[str, tuple[float, ...]]:
    """The pictures' mean and spread that the image tower, `side` pixels wide, expects."""
    usual = {"image_mean": (0.48145466, 0.4578275, 0.40821073), "image_std": (0.26862954, 0.26130258, 0.27577711)}
    settings = {}
    if image is not None and (path := image.parent / "feature_extractor" / "preprocessor_config.json").is_file():
        settings = read_json(path)
        wanted = {f"do_{step}": (True, None) for step in ("resize", "center_crop", "rescale", "normalize")}
        sizes = (side, {"shortest_edge": side}, {"height": side, "width": side}, None)
        demand(settings, path.parent.name, {**wanted, "resample": (3, None), "size": sizes, "crop_size": sizes})
    return {name[6:]: tuple(settings.get(name, value)) for name, value in usual.items()}


def _fill_towers(
    clip: KarloClip,
    weights: dict[str, Weights],
    text_layers: int,
    image_layers: int,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    model, visual = clip.model, clip.model.visual
    model.visual, model.logit_scale = None, None  # what is left is the text tower
    fill(model, clip_text_keys(text_layers), weights["text_encoder"], device, lambda name: dtype)
    if visual is not None:
        fill(visual, clip_image_keys(image_layers), weights["image_encoder"], device, lambda name: dtype)
    model.visual = visual
    model.logit_scale = torch.nn.Parameter(torch.tensor(LOGIT_SCALE, device=device), requires_grad=False)
    length = model.positional_embedding.shape[0]
    model.attn_mask = torch.full((length, length), -math.inf, dtype=dtype, device=device).triu_(1)
    clip.vocabulary = torch.arange(len(model.token_embedding.weight), dtype=torch.int32, device=device)
    clip.eval().requires_grad_(False)
