"""The CLIP wrapper: any text can be read, padding changes nothing, embeddings are what they say."""

import pytest
import torch
from PIL import Image

from unclip_core.clip import END, START, TOKENS, Clip, ClipConfig, korean_words, used_vocabulary

CAPTIONS = ["a red apple", "빨간 사과", "", "ZÜRICH 🍎 ☃", "a " * 200]


@pytest.fixture(scope="module")
def clip(tiny_model):
    return tiny_model.stages["clip"]


def test_every_caption_begins_and_ends_with_its_marks(clip):
    rows = clip.tokenize(CAPTIONS)
    assert rows.shape == (len(CAPTIONS), clip.context_length)
    last = len(clip.vocabulary) - 1
    for row in rows.tolist():
        assert row[0] == last - 1 and row.count(last) == 1


def test_tokens_without_a_row_are_spelled_in_bytes(clip):
    # The tiny vocabulary holds bytes alone: "dog" is d, o, g-that-ends-a-word.
    row = clip.tokenize(["dog"])[0].tolist()
    assert [clip._tokenizer.decoder[int(clip.vocabulary[r])] for r in row[1:4]] == ["d", "o", "g</w>"]


def test_features_do_not_depend_on_the_company(clip):
    alone = clip.encode_text(["a dog"])
    among = clip.encode_text(["a dog", "a very long caption"])
    length = alone.tokens.shape[1]
    assert alone.mask.all() and among.mask[0].sum() == length
    torch.testing.assert_close(alone.pooled[0], among.pooled[0], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone.tokens[0], among.tokens[0, :length], atol=1e-5, rtol=1e-4)


def test_case_and_spacing_do_not_matter(clip):
    a, b = clip.encode_text(["a  Red APPLE "]), clip.encode_text(["a red apple"])
    torch.testing.assert_close(a.pooled, b.pooled)


def test_embeddings_are_unit_vectors_of_any_picture_size(clip):
    pictures = [Image.new("RGB", size, "red") for size in ((64, 64), (300, 200), (20, 50))]
    z_i = clip.encode_image(pictures)
    assert z_i.shape == (3, clip.embed_dim) and z_i.dtype == torch.float32
    torch.testing.assert_close(z_i.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(z_i[0], z_i[1], atol=1e-4, rtol=1e-3)  # a plain colour looks the same at any size


def test_a_small_drawing_is_read_up_close(clip):
    pages = []
    for room in (0, 30, 60):
        page = Image.new("RGB", (120 + 2 * room, 120 + 2 * room), "white")
        page.paste("navy", (room + 3, room + 10, room + 117, room + 110))
        page.paste("gold", (room + 20, room + 20, room + 50, room + 90))
        pages.append(page)
    z_i = clip.encode_image(pages)
    torch.testing.assert_close(z_i[1:], z_i[:1].expand(2, -1), atol=0.02, rtol=0)
    far = clip.encode_image(pages, close=False)
    assert torch.equal(far[0], z_i[0]) and far[2] @ far[0] < z_i[2] @ z_i[0]


def test_used_vocabulary_keeps_bytes_and_marks():
    vocabulary = used_vocabulary(["a red apple", "빨간 사과"])
    assert set(range(512)) <= set(vocabulary.tolist()) and vocabulary[-2:].tolist() == [START, END]
    assert vocabulary.tolist() == sorted(set(vocabulary.tolist()))


def test_korean_words_have_tokens_of_their_own():
    words = korean_words(["빨간 사과", "초록 사과", "사과", "사과", "빨간 차", "빨간", "빨간", "무지개"])
    assert words == "빨간 사과"
    config = ClipConfig(32, {"layers": 1, "width": 32, "head_width": 16, "image_size": 32, "patch_size": 8},
                        {"context_length": 24, "width": 32, "heads": 2, "layers": 1}, words=words)  # fmt: skip
    clip = Clip(config, used_vocabulary(["dog"], words))
    red, apple = (clip._rows[TOKENS + i] for i in range(2))
    row = clip.tokenize(["빨간 사과"])[0].tolist()
    assert row[1:3] == [red, apple] and row[3] == len(clip.vocabulary) - 1
    particle = clip.tokenize(["사과를 dog"])[0].tolist()  # the particle is spelled in bytes
    assert particle[1] == apple and len([r for r in particle if r]) > 5
    composed, split = clip.tokenize(["사과"]), clip.tokenize(["\u1109\u1161\u1100\u116a"])  # decomposed Hangul
    assert torch.equal(composed, split)
