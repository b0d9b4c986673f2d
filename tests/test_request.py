"""Every value of a request is checked before any work: the bad cases by name, each with what its message must say."""

import math
import time
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest

from unclip_core.errors import RequestError
from unclip_core.loading import DEFAULTS
from unclip_core.request import LONGEST_PROMPT, GenerateRequest, checked, checked_prompt, validate


class Model:
    defaults = DEFAULTS

    def has(self, stage):
        return True


GOOD = GenerateRequest("a red apple")

BAD_PROMPTS = {
    "empty": ("", "empty"),
    "spaces": (" \n\t ", "empty"),
    "one megabyte": ("a" * 1_000_000, "too long"),
    "one character too many": ("가" * (LONGEST_PROMPT + 1), "too long"),
    "NUL": ("a red\0apple", "control"),
    "escape sequence": ("a \x1b[31mred apple", "control"),
    "lone surrogate": ("a red \ud83d apple", "surrogate"),
    "reversed text": ("a red \u202eelppa", "reorder"),
    "isolate": ("a \u2067red\u2069 apple", "reorder"),
    "null": (None, "text"),
    "number": (7, "text"),
    "bytes": (b"a red apple", "text"),
    "list": (["a red apple"], "text"),
}

BAD_VALUES = {
    "n zero": ("n", 0),
    "n minus one": ("n", -1),
    "n too many": ("n", 17),
    "n half": ("n", 1.5),
    "n text": ("n", "4"),
    "n null": ("n", None),
    "n true": ("n", True),
    "n enormous": ("n", 10**5000),
    "n list": ("n", [1]),
    "n decimal": ("n", Decimal(2)),
    "n complex": ("n", 2j),
    "seed minus one": ("seed", -1),
    "seed too large": ("seed", 2**32),
    "seed NaN": ("seed", math.nan),
    "size between": ("size", 128),
    "size text": ("size", "1024"),
    "size infinite": ("size", math.inf),
    "size null": ("size", None),
    "steps zero": ("decoder_steps", 0),
    "steps too many": ("decoder_steps", 251),
    "steps NaN": ("decoder_steps", math.nan),
    "guidance NaN": ("decoder_guidance", math.nan),
    "guidance infinite": ("decoder_guidance", math.inf),
    "guidance minus infinite": ("prior_guidance", -math.inf),
    "guidance negative": ("prior_guidance", -0.1),
    "guidance text": ("decoder_guidance", "3.0"),
    "eta above one": ("eta", 1.01),
    "eta null": ("eta", None),
    "candidates zero": ("candidates", 0),
    "prior unknown": ("prior", "oracle"),
    "prior list": ("prior", ["diffusion"]),
    "sampler unknown": ("sampler", "ddim; rm -rf"),
    "sampler number": ("sampler", 3),
    "upsampler steps too many": ("upsampler_1024_steps", 101),
}


@pytest.mark.parametrize("name", BAD_PROMPTS)
def test_bad_prompts_are_refused_at_once(name):
    prompt, fault = BAD_PROMPTS[name]
    start = time.process_time()
    with pytest.raises(RequestError, match=fault) as error:
        validate(replace(GOOD, prompt=prompt), Model())
    assert time.process_time() - start < 0.5
    assert len(str(error.value)) < 300 and error.value.code
    str(error.value).encode()  # can be shown
    assert validate(GOOD, Model()).prompt == "a red apple"


@pytest.mark.parametrize("name", BAD_VALUES)
def test_bad_values_are_refused_by_name(name):
    field, value = BAD_VALUES[name]
    with pytest.raises(RequestError) as error:
        validate(replace(GOOD, **{field: value}), Model())
    assert error.value.facts["field"] == field
    assert len(str(error.value)) < 300


def test_too_much_work_is_refused():
    with pytest.raises(RequestError, match="work"):
        validate(replace(GOOD, n=16, size=1024, upsampler_1024_steps=100), Model())
    assert validate(replace(GOOD, n=16, size=1024), Model()).n == 16


def test_defaults_are_filled_in():
    request = validate(GOOD, Model())
    assert request.decoder_steps == DEFAULTS["decoder"]["steps"]
    assert request.sampler == DEFAULTS["decoder"]["sampler"]
    assert request.prior_guidance == DEFAULTS["prior"]["guidance"]
    assert validate(request, Model()) == request


def test_whole_floats_and_numpy_numbers_pass():
    request = validate(replace(GOOD, n=4.0, size=256.0, seed=np.int64(3), eta=np.float32(0.5)), Model())
    assert (request.n, request.size, request.seed, request.eta) == (4, 256, 3, 0.5)
    assert all(type(value) in (int, float) for value in (request.n, request.size, request.seed, request.eta))


@pytest.mark.parametrize(
    "prompt",
    ["<script>alert(1)</script>", "빨간 사과", "😎", "שלום", "'; DROP TABLE votes; --", "{0.__class__}", "a\u200db"],
)
def test_markup_and_scripts_of_the_world_are_captions(prompt):
    assert checked_prompt(prompt) == prompt


def test_spaces_are_tidied_and_hangul_composed():
    assert checked_prompt("  a\n red\tapple ") == "a red apple"
    assert checked_prompt("\u1109\u1161") == "사"
    assert checked_prompt("", empty=True) == ""


def test_the_message_names_the_field_and_its_range():
    with pytest.raises(RequestError, match=r"decoder's steps must be a whole number from 1 to 250; it was nan"):
        checked("decoder_steps", math.nan)
