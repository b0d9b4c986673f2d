"""Karlo's original checkpoints: the same weights, put back into that layout, load to the same networks."""

import pickle
import shutil

import peers
import pytest
import torch

from unclip_core.errors import PackError
from unclip_core.karlo import is_karlo
from unclip_core.karlo_checkpoints import HEAD_WIDTH
from unclip_core.pipeline import UnCLIP

# The layout says nothing of head width (64) and group count (32), so these are kept; all else is small.
SHAPE = peers.Shape(
    embed_dim=32,
    prior={"num_attention_heads": 2, "attention_head_dim": 64},
    decoder={
        "block_out_channels": (64, 128, 192),
        "down_block_types": ("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D", "SimpleCrossAttnDownBlock2D"),
        "up_block_types": ("SimpleCrossAttnUpBlock2D", "SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        "attention_head_dim": 64,
        "layers_per_block": 2,
        "sample_size": 64,
    },
    upsampler={"add_attention": False, "sample_size": 256, "layers_per_block": 1},
)
RENAMED = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2", "proj_in": "clip_img_proj", "embedding_proj": "text_emb_proj",
    "encoder_hidden_states_proj": "text_enc_proj", "norm_out": "final_ln", "proj_to_clip_embeddings": "out_proj",
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection", "group_norm": "norm", "to_out.0": "proj_out",
}  # fmt: skip


def interleaved(parts):
    """Projections one after another -> one, head by head."""
    heads = [part.unflatten(0, (-1, HEAD_WIDTH)) for part in parts]
    return torch.stack(heads, dim=1).flatten(0, 2)


def block(state, published, original):
    """A residual block, or an attention, under its original names."""
    out, found = {}, {name[len(published) + 1 :]: t for name, t in state.items() if name.startswith(published + ".")}
    for part in ("weight", "bias"):
        linear = (lambda t: t[..., None]) if part == "weight" else (lambda t: t)
        if f"to_q.{part}" in found:
            out[f"{original}.qkv.{part}"] = linear(interleaved([found.pop(f"to_{p}.{part}") for p in "qkv"]))
            kv = [found.pop(f"add_{p}_proj.{part}") for p in "kv"]
            out[f"{original}.encoder_kv.{part}"] = linear(interleaved(kv))
            out[f"{original}.proj_out.{part}"] = linear(found.pop(f"to_out.0.{part}"))
    for name, tensor in found.items():
        stem, part = name.rsplit(".", 1)
        out[f"{original}.{RENAMED[stem]}.{part}"] = tensor
    return out


def unet(module):
    """A UNet's state as the flat lists input_blocks and output_blocks."""
    state, levels = module.state_dict(), len(module.config.block_out_channels)
    n = module.config.layers_per_block
    out = {}
    for name in ("time_embedding.linear_1", "time_embedding.linear_2", "conv_in", "conv_norm_out", "conv_out"):
        out |= {f"{RENAMED[name]}.{part}": state[f"{name}.{part}"] for part in ("weight", "bias")}
    at = 1
    for level in range(levels):
        for i in range(n):
            out |= block(state, f"down_blocks.{level}.resnets.{i}", f"input_blocks.{at}.0")
            out |= block(state, f"down_blocks.{level}.attentions.{i}", f"input_blocks.{at}.1")
            at += 1
        if level + 1 < levels:
            out |= block(state, f"down_blocks.{level}.downsamplers.0", f"input_blocks.{at}.0")
            at += 1
    at = 0
    for level in range(levels):
        attends = f"up_blocks.{level}.attentions.0.group_norm.weight" in state
        for i in range(n + 1):
            out |= block(state, f"up_blocks.{level}.resnets.{i}", f"output_blocks.{at}.0")
            out |= block(state, f"up_blocks.{level}.attentions.{i}", f"output_blocks.{at}.1")
            if i == n and level + 1 < levels:
                out |= block(state, f"up_blocks.{level}.upsamplers.0", f"output_blocks.{at}.{2 if attends else 1}")
            at += 1
    attends = "mid_block.attentions.0.group_norm.weight" in state
    out |= block(state, "mid_block.resnets.0", "middle_block.0") | block(
        state, "mid_block.attentions.0", "middle_block.1"
    )
    return out | block(state, "mid_block.resnets.1", f"middle_block.{2 if attends else 1}")


def prior(module):
    state, out = dict(module.state_dict()), {}
    statistics = [state.pop(name)[0] for name in ("clip_mean", "clip_std")]
    out["prd_emb"], out["positional_embedding"] = state.pop("prd_embedding"), state.pop("positional_embedding")
    layer = {"attn1.to_out.0": "attn.c_proj", "norm1": "ln_1", "norm3": "ln_2"}
    layer |= {"ff.net.0.proj": "mlp.c_fc", "ff.net.2": "mlp.c_proj"}
    for name, tensor in state.items():
        stem, part = name.rsplit(".", 1)
        if not stem.startswith("transformer_blocks."):
            out[f"{RENAMED[stem]}.{part}"] = tensor
            continue
        _, i, rest = stem.split(".", 2)
        if rest == "attn1.to_q":
            parts = [state[f"transformer_blocks.{i}.attn1.to_{p}.{part}"] for p in "qkv"]
            out[f"transformer.resblocks.{i}.attn.c_qkv.{part}"] = interleaved(parts)
        elif rest in layer:
            out[f"transformer.resblocks.{i}.{layer[rest]}.{part}"] = tensor
    return out, statistics


def conditioning(module):
    names = {
        "encoder_hidden_states_proj": "text_seq_proj.0", "text_encoder_hidden_states_norm": "text_seq_proj.1",
        "clip_extra_context_tokens_proj": "clip_tok_proj", "embedding_proj": "text_feat_proj",
        "clip_image_embeddings_project_to_time_embeddings": "clip_emb",
    }  # fmt: skip
    out = {"cf_param": module.learned_classifier_free_guidance_embeddings.data}
    for published, original in names.items():
        out |= {f"{original}.{part}": module.state_dict()[f"{published}.{part}"] for part in ("weight", "bias")}
    return out


def under(prefix, state):
    return {prefix + name: tensor.clone() for name, tensor in state.items()}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same weights in both layouts."""
    published = tmp_path_factory.mktemp("both") / "published"
    pipeline = peers.write_folder(published, SHAPE)
    original = published.with_name("original")
    for name in ("text_encoder", "tokenizer"):
        shutil.copytree(published / name, original / name)
    weights, statistics = prior(pipeline.prior)
    torch.save({"state_dict": under("model.", weights)}, original / "prior-ckpt-step=01000000-of-01000000.ckpt")
    torch.save(tuple(statistics), original / "ViT-L-14_stats.th")
    decoder = unet(pipeline.decoder) | conditioning(pipeline.text_proj)
    torch.save({"state_dict": under("model.", decoder)}, original / "decoder-ckpt-step=01000000-of-01000000.ckpt")
    both = under("model_first_steps.", unet(pipeline.super_res_first))
    both |= under("model_last_step.", unet(pipeline.super_res_last))
    torch.save({"state_dict": both}, original / "improved-sr-ckpt-step=1.2M.ckpt")
    return published, original


def test_both_layouts_load_to_the_same_networks(folders):
    assert all(is_karlo(folder) for folder in folders)
    published, original = (UnCLIP.load(folder).stages for folder in folders)
    for name in ("prior", "decoder"):
        a, b = published[name].state_dict(), original[name].state_dict()
        assert set(a) == set(b)
        assert all(torch.equal(a[key], b[key]) for key in a), name
        assert published[name].config == original[name].config
    for which in ("first", "last"):
        a, b = (getattr(stages["upsampler_256"], which)().state_dict() for stages in (published, original))
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert published["decoder"].config.schedule == original["decoder"].config.schedule
    assert published["prior"].schedule == original["prior"].schedule


def test_low_memory_reads_a_stage_when_it_is_needed(folders):
    stages = UnCLIP.load(folders[1], low_memory=True).stages
    assert set(stages._ready) <= {"clip"}
    assert stages["decoder"].null_image.isfinite().all() and set(stages._ready) == {"decoder"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "ViT-L-14_stats.th").unlink(), "ViT-L-14_stats.th: missing"),
        (lambda f: shutil.rmtree(f / "text_encoder"), "text_encoder and tokenizer"),
        (lambda f: shutil.copy(next(f.glob("decoder-ckpt*")), f / "decoder-ckpt-other.ckpt"), "leave the one"),
        (lambda f: next(f.glob("prior-ckpt*")).write_bytes(pickle.dumps({"a": print})), "cannot be read safely"),
        (lambda f: torch.save({"state_dict": {"model.a": torch.zeros(1)}}, next(f.glob("prior-ckpt*"))), "is missing"),
    ],
)
def test_faults_are_named(folders, tmp_path, change, message):
    folder = shutil.copytree(folders[1], tmp_path / "copy")
    change(folder)
    with pytest.raises(PackError, match=message):
        UnCLIP.load(folder)
