"""What may be asked: plain request types, and one check of every value before any work is done.

The page's own limits are not checked by the server that shows it (NaN passes a slider), so the command line, the page
and the API all come through here.
"""

import dataclasses
import numbers
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from unclip_core.errors import RequestError

SIZES = (64, 256, 1024)
PRIORS = ("diffusion", "ar", "text", "caption")  # text: z_t in place of z_i; caption: no z_i at all
SAMPLERS = ("ddim", "dpm++", "ddpm")
LONGEST_PROMPT = 1000
MOST_WORK = 500_000_000  # pictures x steps x pixels: some minutes of two cores at the most


@dataclass(frozen=True)
class GenerateRequest:
    """Caption to pictures. None means the pack's default; `validate` fills it in."""

    prompt: str
    n: int = 1
    size: int = 64
    seed: int = 0
    prior: str = "diffusion"
    prior_steps: int | None = None
    prior_guidance: float | None = None
    candidates: int | None = None
    decoder_steps: int | None = None
    decoder_guidance: float | None = None
    sampler: str | None = None
    eta: float = 0.0
    upsampler_256_steps: int | None = None
    upsampler_1024_steps: int | None = None

    @property
    def pull(self) -> bool:
        """Whether the decoder may pull what it gets (`Decoder.pulled`): z_t is no image embedding."""
        return self.prior != "text"


class Limit(NamedTuple):
    """What a number may be, and how a person calls it."""

    label: str
    low: float
    high: float
    whole: bool = True


LIMITS: dict[str, Limit] = {
    "n": Limit("the number of pictures", 1, 16),
    "seed": Limit("the seed", 0, 2**32 - 1),
    "prior_steps": Limit("the prior's steps", 1, 250),
    "prior_guidance": Limit("the prior's guidance", 0, 20, whole=False),
    "candidates": Limit("the prior's candidates", 1, 16),
    "decoder_steps": Limit("the decoder's steps", 1, 250),
    "decoder_guidance": Limit("the decoder's guidance", 0, 20, whole=False),
    "eta": Limit("eta", 0, 1, whole=False),
    "upsampler_256_steps": Limit("the steps to 256 px", 1, 100),
    "upsampler_1024_steps": Limit("the steps to 1024 px", 1, 100),
    "invert_steps": Limit("the inversion's steps", 1, 250),
    "refine": Limit("the inversion's refinements", 0, 8),
    "preview_every": Limit("the steps between previews", 1, 1000),
    "temperature": Limit("the temperature", 0.05, 2, whole=False),
    "theta": Limit("theta", 0, 1, whole=False),
}
CHOICES: dict[str, tuple[str, tuple[Any, ...]]] = {
    "size": ("the size", SIZES),
    "prior": ("the prior", PRIORS),
    "sampler": ("the sampler", SAMPLERS),
}


class Able(Protocol):
    """What `validate` needs to know of a model."""

    defaults: Mapping[str, Mapping[str, Any]]

    def has(self, stage: str) -> bool: ...


def checked(field: str, value: Any) -> Any:
    """The value of one field of LIMITS or CHOICES, brought to int, float or the choice itself.

    Raises RequestError that names the field and what it may hold.
    """
    if field in CHOICES:
        label, choices = CHOICES[field]
        usable = isinstance(value, (str, numbers.Real)) and not isinstance(value, bool)
        if not usable or value not in choices:
            listed = ", ".join(str(choice) for choice in choices)
            raise RequestError(
                f"{_start(label)} must be one of {listed}; it was {_brief(value)}.", "choice", field=field
            )
        return choices[choices.index(value)]
    return checked_number(LIMITS[field], value, field)


def checked_number(limit: Limit, value: Any, field: str) -> int | float:
    """A number within its limit, as int or float. Raises RequestError that says what it may be."""
    label, low, high, whole = limit
    span = f"{_start(label)} must be a {'whole ' if whole else ''}number from {low:g} to {high:.10g}"
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    # NaN fails the comparison; a whole number too large for a float passes through it.
    if not number or not low <= value <= high or (whole and value != int(value)):
        raise RequestError(f"{span}; it was {_brief(value)}.", "range", field=field, low=low, high=high)
    return int(value) if whole else float(value)


def checked_prompt(prompt: Any, empty: bool = False) -> str:
    """A caption, its spaces tidied; `empty` allows "", the null caption. Raises RequestError for what is none."""
    if not isinstance(prompt, str):
        raise RequestError("The caption must be text.", "prompt_type")
    if len(prompt) > LONGEST_PROMPT:
        raise RequestError(
            f"The caption is too long: {len(prompt):,} characters, at most {LONGEST_PROMPT:,}.",
            "prompt_long",
            length=len(prompt),
            most=LONGEST_PROMPT,
        )
    kinds = {unicodedata.category(c) for c in prompt if c not in "\t\n\r"}
    if "Cs" in kinds:
        raise RequestError("The caption holds half of a character (a lone surrogate): type it anew.", "prompt_broken")
    if "Cc" in kinds:
        raise RequestError("The caption holds control characters: type it anew.", "prompt_control")
    if any(unicodedata.bidirectional(c) in _DIRECTION_MARKS for c in prompt):
        raise RequestError("The caption holds invisible marks that reorder text: type it anew.", "prompt_bidi")
    prompt = " ".join(unicodedata.normalize("NFC", prompt).split())
    if not prompt and not empty:
        raise RequestError("The caption is empty: type what the picture should show.", "prompt_empty")
    return prompt


_DIRECTION_MARKS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})


def validate(request: GenerateRequest, model: Able) -> GenerateRequest:
    """The request with every value checked and the pack's defaults filled in. Raises RequestError."""
    values = {field.name: getattr(request, field.name) for field in dataclasses.fields(request)}
    values["prompt"] = checked_prompt(request.prompt)
    values["prior"] = checked("prior", request.prior)
    for field, (stage, key) in _FILLED.items():
        if field == "prior_guidance" and values["prior"] == "ar":
            stage = "prior_ar"
        if values[field] is None:
            values[field] = model.defaults[stage][key]
    numbers_and_names = {name: value for name, value in values.items() if name in LIMITS or name in CHOICES}
    values |= {name: checked(name, value) for name, value in numbers_and_names.items()}
    request = GenerateRequest(**values)
    _check_stages(request, model)
    check_work(
        request.n, request.size, request.decoder_steps, request.upsampler_256_steps, request.upsampler_1024_steps
    )
    return request


# Where each default stands in the pack.
_FILLED = {
    "prior_steps": ("prior", "steps"),
    "prior_guidance": ("prior", "guidance"),
    "candidates": ("prior", "candidates"),
    "decoder_steps": ("decoder", "steps"),
    "decoder_guidance": ("decoder", "guidance"),
    "sampler": ("decoder", "sampler"),
    "upsampler_256_steps": ("upsampler_256", "steps"),
    "upsampler_1024_steps": ("upsampler_1024", "steps"),
}
STAGE_NAMES = {
    "clip": "CLIP",
    "prior": "diffusion prior",
    "prior_ar": "autoregressive prior",
    "decoder": "decoder",
    "upsampler_256": "upsampler to 256 px",
    "upsampler_1024": "upsampler to 1024 px",
    "pca": "PCA of its embeddings",
}
_OTHER_WAYS = {
    "prior_ar": "take the diffusion prior",
    "upsampler_1024": "ask for 256 px, or for a stand-in (plain Lanczos resizing, or the pocket pack's upsampler)",
    "pca": "fit one on pictures of your own",
}


def need(model: Able, stage: str) -> None:
    """Raises RequestError if the model lacks the stage."""
    if not model.has(stage):
        way = _OTHER_WAYS.get(stage, "choose another way")
        raise RequestError(f"This pack has no {STAGE_NAMES[stage]}: {way}.", "stage", stage=stage)


def _check_stages(request: GenerateRequest, model: Able) -> None:
    needed = ["clip", "decoder"]
    needed += {"diffusion": ["prior"], "ar": ["prior_ar"]}.get(request.prior, [])
    needed += stages_to(request.size)
    for stage in needed:
        need(model, stage)


def stages_to(size: int) -> list[str]:
    """The upsamplers on the way to a size."""
    return {64: [], 256: ["upsampler_256"], 1024: ["upsampler_256", "upsampler_1024"]}[size]


def check_work(n: int, size: int, decoder_steps: int, steps_256: int, steps_1024: int) -> None:
    """Raises RequestError if n pictures of that size and those steps are more work than one request may ask for."""
    work = decoder_steps * 64**2
    work += steps_256 * 256**2 if size >= 256 else 0
    work += steps_1024 * 1024**2 if size >= 1024 else 0
    if (share := n * work / MOST_WORK) > 1:
        raise RequestError(
            f"That is {share:.1f} times more work than one request may ask for: fewer pictures, steps or pixels.",
            "work",
            share=round(share, 1),
        )


def _start(label: str) -> str:
    return label[0].upper() + label[1:]


def _brief(value: Any) -> str:
    if isinstance(value, str):
        value = value.encode("utf-8", "backslashreplace").decode()
    try:
        text = repr(value)
    except ValueError:  # Python does not print whole numbers of more than some thousand digits
        text = "an enormous number"
    return text if len(text) <= 40 else text[:37] + "..."
