"""Model folders: what was written comes back, and everything else is one named error."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from safetensors.torch import save

from normnet.config import NetworkConfig
from normnet.errors import ModelError, OutputError
from normnet.network.unet import build_unet, count_weights
from normnet.network.weights import load_members, read_manifest, save_model

TINY = NetworkConfig(channels=(2, 4), n_res_units=0)


@pytest.fixture
def folder(tmp_path):
    """A model of two members."""
    members = {}
    for seed in range(2):
        torch.manual_seed(seed)
        members[f"member-{seed}"] = build_unet(TINY).state_dict()
    save_model(tmp_path / "model", members, "normnet", TINY, {"licence": "CC0"})
    return tmp_path / "model"


def replace_member(folder, state: dict[str, torch.Tensor]) -> None:
    """Put other weights into the first member and make the manifest agree."""
    import hashlib

    data = save({key: value.contiguous() for key, value in state.items()})
    (folder / "member-0.safetensors").write_bytes(data)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["members"][0]["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))


def fails_with(folder, code: str, kind: str = "normnet") -> ModelError:
    for for_training in (True, False):
        with pytest.raises(ModelError) as caught:
            load_members(folder, kind, for_training)
        assert caught.value.code == code
    assert caught.value.exit_code == 6
    assert "\n" not in str(caught.value)
    return caught.value


def test_round_trip(folder):
    networks, manifest = load_members(folder, "normnet", for_training=True)
    assert len(networks) == 2
    assert not any(network.training for network in networks)
    assert manifest["licence"] == "CC0"
    assert [entry["bytes"] for entry in manifest["members"]] == [
        p.stat().st_size for p in sorted(folder.glob("*.safetensors"))
    ]
    torch.manual_seed(0)
    for name, value in build_unet(TINY).state_dict().items():
        loaded = networks[0].state_dict()[name]
        assert loaded.dtype == value.dtype
        torch.testing.assert_close(loaded, value.half().to(value.dtype), atol=0, rtol=0)
    assert networks[0](torch.zeros(1, 1, 4, 4, 4)).shape == (1, 1, 4, 4, 4)


def test_statistics_beyond_float16_come_back(tmp_path):
    """Residual networks reach variances above 65504 at the bottleneck."""
    state = build_unet(TINY).state_dict()
    name = next(key for key in state if key.endswith("running_var"))
    state[name] = torch.full_like(state[name], 123456.75)
    save_model(tmp_path / "model", {"member-1": state}, "normnet", TINY, {})
    networks, _ = load_members(tmp_path / "model", "normnet", for_training=True)
    torch.testing.assert_close(networks[0].state_dict()[name], state[name], atol=0, rtol=0)


def test_same_weights_same_bytes(folder, tmp_path):
    torch.manual_seed(0)
    save_model(tmp_path / "again", {"member-0": build_unet(TINY).state_dict()}, "normnet", TINY, {})
    assert (tmp_path / "again" / "member-0.safetensors").read_bytes() == (
        folder / "member-0.safetensors"
    ).read_bytes()


def test_no_folder(tmp_path):
    fails_with(tmp_path / "nothing", "NN-MOD-001")


@pytest.mark.parametrize("text", ["", "{", "\0"])
def test_manifest_not_json(folder, text):
    (folder / "manifest.json").write_text(text)
    fails_with(folder, "NN-MOD-001")


@pytest.mark.parametrize(("key", "value"), [("kind", "lungs"), ("format", "2"), ("format", None)])
def test_other_kind_or_format(folder, key, value):
    manifest = json.loads((folder / "manifest.json").read_text()) | {key: value}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    fails_with(folder, "NN-MOD-002")


@pytest.mark.parametrize("kind", ["normnet", "lesions", "lungs"])
@pytest.mark.parametrize("number", [4, 99])
def test_newer_format(folder, kind, number):
    manifest = json.loads((folder / "manifest.json").read_text()) | {"kind": kind, "format": number}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    error = fails_with(folder, "NN-MOD-009", kind)
    assert f"model of format {number}, this version reads up to 3" in str(error)
    assert error.todo == "update normnet"


def test_manifest_is_a_list(folder):
    (folder / "manifest.json").write_text("[]")
    fails_with(folder, "NN-MOD-002")


def test_wrong_kind_asked_for(folder):
    assert "lungs" in str(fails_with(folder, "NN-MOD-002", kind="lungs"))
    assert read_manifest(folder, "normnet")["kind"] == "normnet"


@pytest.mark.parametrize(
    "change",
    [
        {"members": [{"file": "x"}]},
        {"network": {"channels": "many"}},
        {"network": {"depth": 3}},
        {"network": None},
    ],
)
def test_incomplete_manifest(folder, change):
    manifest = json.loads((folder / "manifest.json").read_text()) | change
    (folder / "manifest.json").write_text(json.dumps(manifest))
    fails_with(folder, "NN-MOD-003")


def test_weights_missing(folder):
    (folder / "member-1.safetensors").unlink()
    assert "member-1.safetensors" in str(fails_with(folder, "NN-MOD-004"))


@pytest.mark.parametrize(
    "edit",
    [
        lambda data: data[:-1] + bytes([data[-1] ^ 1]),
        lambda data: data[: len(data) // 2],
        lambda _: b"",
    ],
)
def test_weights_altered_or_truncated(folder, edit):
    path = folder / "member-0.safetensors"
    path.write_bytes(edit(path.read_bytes()))
    fails_with(folder, "NN-MOD-005")


def test_not_safetensors_but_listed(folder):
    import hashlib

    (folder / "member-0.safetensors").write_bytes(b"pickle")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["members"][0]["sha256"] = hashlib.sha256(b"pickle").hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    fails_with(folder, "NN-MOD-006")


def test_other_network(folder):
    replace_member(folder, build_unet(NetworkConfig(channels=(2, 6), n_res_units=0)).state_dict())
    fails_with(folder, "NN-MOD-006")


def test_missing_and_extra_keys(folder):
    state = build_unet(TINY).state_dict()
    replace_member(folder, dict(list(state.items())[1:]))
    fails_with(folder, "NN-MOD-006")
    replace_member(folder, state | {"extra": torch.zeros(1)})
    fails_with(folder, "NN-MOD-006")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_weight(folder, value):
    state = {name: tensor.clone() for name, tensor in build_unet(TINY).state_dict().items()}
    next(tensor for tensor in state.values() if tensor.is_floating_point()).view(-1)[0] = value
    replace_member(folder, state)
    fails_with(folder, "NN-MOD-007")


@pytest.mark.parametrize("value", [-1e-6, -1.0, -1e30])
def test_negative_variance(folder, value):
    """Its root is NaN, and so would be every result."""
    state = {name: tensor.clone() for name, tensor in build_unet(TINY).state_dict().items()}
    name = next(key for key in state if key.endswith("running_var"))
    state[name][-1] = value
    replace_member(folder, state)
    fails_with(folder, "NN-MOD-012")


@pytest.mark.parametrize("dtype", [torch.int16, torch.bool, torch.complex64])
def test_weights_of_another_kind_of_number(folder, dtype):
    state = {name: tensor.clone() for name, tensor in build_unet(TINY).state_dict().items()}
    name = next(key for key in state if key.endswith("conv.weight"))
    state[name] = state[name].to(dtype)
    replace_member(folder, state)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fails_with(folder, "NN-MOD-006")


def test_weights_beyond_float32(folder):
    state = {name: tensor.clone() for name, tensor in build_unet(TINY).state_dict().items()}
    name = next(key for key in state if key.endswith("conv.weight"))
    state[name] = state[name].double() * 1e300
    replace_member(folder, state)
    fails_with(folder, "NN-MOD-007")


def test_small_files_of_large_networks_build_nothing(folder, monkeypatch):
    def build(config):
        raise AssertionError("built")

    monkeypatch.setattr("normnet.network.weights.build_unet", build)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["network"] = {"channels": [512, 512, 512], "n_res_units": 2}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    fails_with(folder, "NN-MOD-006")


@pytest.mark.parametrize(
    "network",
    [
        NetworkConfig(),
        NetworkConfig(n_res_units=0),
        NetworkConfig(spatial_dims=2, in_channels=7),
        NetworkConfig(channels=(4, 8), n_res_units=1),
        NetworkConfig(channels=(5, 4, 4, 7), n_res_units=3, norm="instance"),
        NetworkConfig(channels=(1, 1, 1), n_res_units=2),
    ],
)
def test_weights_are_counted_without_building(network):
    kernels = [value for value in build_unet(network).state_dict().values() if value.ndim > 2]
    assert count_weights(network) == sum(kernel.numel() for kernel in kernels)


def test_files_outside_the_folder_are_not_read(folder, tmp_path):
    """A manifest cannot point anywhere else: only the name counts."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["members"][0]["file"] = "../../etc/passwd"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert str(folder / "passwd") in str(fails_with(folder, "NN-MOD-004"))


def test_full_disk_leaves_no_half_file(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(
        "os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    torch.manual_seed(5)
    with pytest.raises(OutputError):
        save_model(folder, {"member-0": build_unet(TINY).state_dict()}, "normnet", TINY, {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
