"""Packs: written and read back, and every kind of damage named with its file."""

import json
import pickle
import shutil
import time

import pytest
import safetensors.torch
import torch
from tiny import tiny_configs, tiny_stages, write_tiny_pack

from unclip_core.configs import config_from_dict, config_to_dict
from unclip_core.errors import PackError
from unclip_core.loading import STAGES
from unclip_core.packs import SHARD_BYTES, find_pack, read_pack, update_pack, write_pack
from unclip_core.pipeline import UnCLIP


@pytest.fixture
def copy(tiny_pack, tmp_path):
    return shutil.copytree(tiny_pack, tmp_path / "copy")


def edit_index(folder, change):
    path = folder / "pack.json"
    index = json.loads(path.read_text("utf-8"))
    change(index)
    path.write_text(json.dumps(index), "utf-8")


def rehash(folder, name):
    """As someone would who wants the damage to pass."""
    import hashlib

    data = (folder / name).read_bytes()
    facts = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    edit_index(folder, lambda index: index["files"].update({name: facts}))


SHARD = "decoder-000.safetensors"


def missing_index(folder):
    (folder / "pack.json").unlink()


def index_not_json(folder):
    (folder / "pack.json").write_text("{")


def index_deeply_nested(folder):
    (folder / "pack.json").write_text("[" * 100_000)


def index_a_list(folder):
    (folder / "pack.json").write_text("[]")


def index_not_utf8(folder):
    (folder / "pack.json").write_bytes(b"\xff\xfe{}")


def index_huge(folder):
    (folder / "pack.json").write_text(" " * 5_000_000)


def newer_schema(folder):
    edit_index(folder, lambda index: index.update(schema=2))


def no_schema(folder):
    edit_index(folder, lambda index: index.pop("schema"))


def missing_key(folder):
    edit_index(folder, lambda index: index.pop("licence"))


def unknown_key(folder):
    edit_index(folder, lambda index: index.update(extra=1))


def unknown_stage(folder):
    edit_index(folder, lambda index: index["stages"].update(oracle={"config": {}, "files": []}))


def unlisted_file(folder):
    edit_index(folder, lambda index: index["stages"]["decoder"]["files"].append("other.safetensors"))


def path_upwards(folder):
    edit_index(folder, lambda index: index["files"].update({"../x.safetensors": {"bytes": 1, "sha256": "0" * 64}}))


def absolute_path(folder):
    edit_index(folder, lambda index: index["files"].update({"/etc/passwd": {"bytes": 1, "sha256": "0" * 64}}))


def pickle_suffix(folder):
    edit_index(folder, lambda index: index["files"].update({"model.bin": {"bytes": 1, "sha256": "0" * 64}}))


def markup_name(folder):
    edit_index(folder, lambda index: index.update(name="<b>pocket</b>"))


def bad_hash_entry(folder):
    edit_index(folder, lambda index: index["files"][SHARD].update(sha256="short"))


def bad_default(folder):
    edit_index(folder, lambda index: index["defaults"]["decoder"].update(steps=10_000))


def unknown_default(folder):
    edit_index(folder, lambda index: index["defaults"]["decoder"].update(stepz=10))


def missing_shard(folder):
    (folder / SHARD).unlink()


def truncated_shard(folder):
    data = (folder / SHARD).read_bytes()
    (folder / SHARD).write_bytes(data[: len(data) // 2])


def flipped_bit(folder):
    data = bytearray((folder / SHARD).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / SHARD).write_bytes(data)


def pickle_renamed(folder):
    (folder / SHARD).write_bytes(pickle.dumps({"weights": list(range(1000))}))
    rehash(folder, SHARD)


def zip_renamed(folder):
    torch.save({"a": torch.zeros(3)}, folder / SHARD)
    rehash(folder, SHARD)


def noise_rehashed(folder):
    (folder / SHARD).write_bytes(bytes(range(256)) * 40)
    rehash(folder, SHARD)


def header_too_long(folder):
    (folder / SHARD).write_bytes((2**62).to_bytes(8, "little") + b"{}")
    rehash(folder, SHARD)


def changed_tensors(folder, change):
    tensors = safetensors.torch.load_file(folder / SHARD)
    tensors = {key: tensor.clone() for key, tensor in tensors.items()}
    change(tensors)
    safetensors.torch.save_file(tensors, folder / SHARD)
    rehash(folder, SHARD)


def not_a_number(folder):
    changed_tensors(folder, lambda tensors: tensors["null_image"].fill_(float("nan")))


def infinite(folder):
    changed_tensors(folder, lambda tensors: tensors["null_text"][:1].fill_(float("inf")))


def tensor_gone(folder):
    changed_tensors(folder, lambda tensors: tensors.pop("null_image"))


def tensor_unknown(folder):
    changed_tensors(folder, lambda tensors: tensors.update(surplus=torch.zeros(2)))


def tensor_misshapen(folder):
    changed_tensors(folder, lambda tensors: tensors.update(null_image=torch.zeros(3)))


def unknown_config_key(folder):
    edit_index(folder, lambda index: index["stages"]["decoder"]["config"].update(wings=2))


def unknown_nested_key(folder):
    edit_index(folder, lambda index: index["stages"]["decoder"]["config"]["unet"].update(wings=2))


def config_lacks_key(folder):
    edit_index(folder, lambda index: index["stages"]["decoder"]["config"].pop("embed_dim"))


def config_wrong_type(folder):
    edit_index(folder, lambda index: index["stages"]["decoder"]["config"].update(embed_dim="32"))


def config_enormous(folder):
    edit_index(folder, lambda index: index["stages"]["decoder"]["config"].update(embed_dim=10**12))


def config_impossible(folder):
    edit_index(folder, lambda index: index["stages"]["prior_ar"]["config"].update(n_codes=500))


def config_unknown_schedule(folder):
    edit_index(folder, lambda index: index["stages"]["decoder"]["config"]["schedule"].update(kind="zigzag"))


def no_clip(folder):
    edit_index(folder, lambda index: index["stages"].pop("clip"))


DAMAGE = {
    missing_index: "pack.json: missing",
    index_not_json: "pack.json: not valid JSON",
    index_deeply_nested: "pack.json: not valid JSON",
    index_a_list: "pack.json: should hold",
    index_not_utf8: "pack.json: not valid JSON",
    index_huge: "pack.json: too large",
    newer_schema: "newer program",
    no_schema: "schema",
    missing_key: "licence",
    unknown_key: "extra",
    unknown_stage: "oracle",
    unlisted_file: "other.safetensors",
    path_upwards: r"'\.\./x\.safetensors' is not allowed",
    absolute_path: "/etc/passwd' is not allowed",
    pickle_suffix: "model.bin' is not allowed",
    markup_name: "name may hold",
    bad_hash_entry: SHARD,
    bad_default: "decoder.steps",
    unknown_default: "decoder.stepz",
    missing_shard: f"{SHARD}: missing",
    truncated_shard: f"{SHARD}: cut short",
    flipped_bit: f"{SHARD}: damaged",
    pickle_renamed: f"{SHARD}: a Python pickle",
    zip_renamed: f"{SHARD}: a Python pickle",
    noise_rehashed: f"{SHARD}: not a safetensors file",
    header_too_long: f"{SHARD}: not a safetensors file",
    not_a_number: f"{SHARD}: null_image .* not finite",
    infinite: f"{SHARD}: null_text .* not finite",
    tensor_gone: "decoder: .*missing.*null_image",
    tensor_unknown: "decoder: .*surplus",
    tensor_misshapen: "decoder: 'null_image' has the shape",
    unknown_config_key: "decoder: unknown config key 'wings'",
    unknown_nested_key: "decoder.unet: unknown config key 'wings'",
    config_lacks_key: "decoder: the config lacks 'embed_dim'",
    config_wrong_type: "decoder.embed_dim should be int",
    config_enormous: "decoder.embed_dim is out of range",
    config_impossible: "prior_ar: .*n_codes",
    config_unknown_schedule: "zigzag",
    no_clip: "no CLIP",
}


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_damage_is_named(damage, copy):
    damage(copy)
    start = time.process_time()
    with pytest.raises(PackError, match=DAMAGE[damage]):
        UnCLIP.load(copy, device="cpu")
    assert time.process_time() - start < 2


def test_what_is_written_is_read_back(tiny_pack):
    pack = read_pack(tiny_pack)
    stages = tiny_stages()
    for name, config in tiny_configs().items():
        assert config_from_dict(STAGES[name][0], pack.config(name), name) == config
        for key, tensor in pack.tensors(name).items():
            wanted = stages[name].state_dict()[key]
            assert tensor.dtype in (torch.float32, torch.bfloat16, wanted.dtype)
            torch.testing.assert_close(tensor.to(wanted.dtype), wanted, rtol=4e-3, atol=0)
    assert pack.licence == "Apache-2.0" and len(pack.hash) == 16
    assert not list(tiny_pack.parent.glob("*.partial"))


def test_the_same_weights_give_the_same_files(tiny_pack, tmp_path):
    again = write_tiny_pack(tmp_path / "tiny")
    assert read_pack(again).hash == read_pack(tiny_pack).hash


def test_large_weights_are_bfloat16_in_shards(tmp_path):
    state = {f"w{i}": torch.randn(1000, 1000) for i in range(12)} | {"bias": torch.randn(1000)}
    write_pack(tmp_path / "p", name="p", licence="", attribution="", stages={"pca": ({}, state)}, defaults={})
    files = sorted((tmp_path / "p").glob("*.safetensors"))
    assert len(files) == 3 and all(file.stat().st_size < 9_500_000 for file in files)
    back = read_pack(tmp_path / "p").tensors("pca")
    assert back["w3"].dtype == torch.bfloat16 and back["bias"].dtype == torch.float32
    assert torch.equal(back["bias"], state["bias"])


def test_what_cannot_be_packed(tmp_path):
    def packed(tensor):
        stages = {"pca": ({}, {"a": tensor})}
        write_pack(tmp_path / "p", name="p", licence="", attribution="", stages=stages, defaults={})

    with pytest.raises(PackError, match="not finite"):
        packed(torch.tensor([1.0, float("nan")]))
    with pytest.raises(PackError, match="larger than"):
        packed(torch.zeros(SHARD_BYTES))
    assert not (tmp_path / "p").exists()


def test_update_puts_one_stage_in_place(copy):
    before = read_pack(copy)
    config, tensors = before.config("decoder"), before.tensors("decoder")
    tensors["null_image"] = torch.ones_like(tensors["null_image"])
    update_pack(copy, {"decoder": (config, tensors)}, {"decoder": {"steps": 5}})
    after = read_pack(copy)
    assert after.hash != before.hash and after.defaults["decoder"] == {"steps": 5}
    assert after.tensors("decoder")["null_image"].eq(1).all()
    assert after.config("prior") == before.config("prior")
    assert UnCLIP.load(copy, device="cpu").defaults["decoder"]["steps"] == 5


@pytest.mark.parametrize("name", ["", "no-such-pack", "../../no/such", "a\0b", "x" * 5000, "<script>"])
def test_a_pack_that_is_not_there(name):
    with pytest.raises(PackError):
        find_pack(name)


def test_a_folder_that_is_no_pack(tmp_path):
    with pytest.raises(PackError, match="pack.json"):
        UnCLIP.load(tmp_path)


def test_configs_survive_json():
    for name, config in tiny_configs().items():
        plain = json.loads(json.dumps(config_to_dict(config)))
        assert config_from_dict(STAGES[name][0], plain, name) == config


def test_a_pack_loads_in_a_moment(tiny_pack):
    start = time.process_time()
    UnCLIP.load(tiny_pack, device="cpu")
    assert time.process_time() - start < 2
