"""Models outlive settings: folders of every format load, with the settings that exist."""

from __future__ import annotations

import json
import os
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from normnet.config import (
    Config,
    InferenceConfig,
    LungsConfig,
    NetworkConfig,
    PostprocessingConfig,
    TrainingConfig,
    WindowConfig,
)
from normnet.errors import ModelError
from normnet.lungs.learned import predict_lungs
from normnet.models import (
    load_lungs,
    load_model,
    read_manifests,
    settings_of,
    shipped,
    with_lungs,
)
from normnet.network.unet import build_unet
from normnet.network.weights import (
    FORMAT,
    GROWTH,
    MIGRATIONS,
    load_members,
    read_manifest,
    save_model,
    split_settings,
)
from normnet.pipeline import segment
from tests.phantoms import thorax_phantom

USED = {"window", "lungs", "preparation", "inference", "postprocessing"}
OLD_NORMNET = r"^model old_normnet: [^\n]* left out: haze, [^\n]*postprocessing\.thick_slice_mm"
TRAINED = {"synthesis", "ground_glass", "training", "variation", "lungs_training"}


MANIFESTS = Path(__file__).parent / "data" / "manifests"  # commit / kind.json, as they shipped


def edit_manifest(folder, **changes) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def write_model(folder, kind="normnet") -> Config:
    """A model of the newest format; returns the settings that it was trained with."""
    config = Config(
        network=NetworkConfig(channels=(4, 8), n_res_units=0),
        training=TrainingConfig(iterations=7),
        inference=InferenceConfig(prob_normal=0.8),
        postprocessing=PostprocessingConfig(k_d=5, prob_possible=0.6),
    )
    card = {"name": "new", **split_settings(config.model_dump())}
    save_model(
        folder, {"member-1": build_unet(config.network).state_dict()}, kind, config.network, card
    )
    return config


@pytest.fixture
def new_model(tmp_path):
    write_model(tmp_path / "new")
    return tmp_path / "new"


@pytest.fixture
def new_lesions(tmp_path):
    write_model(tmp_path / "new_lesions", "lesions")
    return tmp_path / "new_lesions"


# --- formats ---


def test_a_saved_model_gives_back_what_it_is_used_with(tmp_path):
    folder, config = tmp_path, write_model(tmp_path)
    on_disk = json.loads((folder / "manifest.json").read_text())
    assert on_disk["format"] == 3
    assert "config" not in on_disk
    networks, manifest = load_members(folder, "normnet")
    assert len(networks) == 1
    assert manifest == on_disk
    loaded, unknown = settings_of(manifest, folder)
    assert unknown == []
    assert loaded == config.model_copy(update={"training": TrainingConfig()})
    assert manifest["provenance"]["training"]["iterations"] == 7


def test_every_section_has_its_place():
    parts = split_settings(Config().model_dump())
    assert {name: set(part) for name, part in parts.items()} == {
        "inference": USED,
        "provenance": TRAINED,
    }
    assert USED | TRAINED | {"network"} == set(Config.model_fields)


def test_an_old_manifest_is_read_as_a_new_one(old_model):
    folder = old_model()
    on_disk = json.loads((folder / "manifest.json").read_text())
    manifest = read_manifest(folder, "normnet")
    assert manifest["format"] == 3
    assert "config" not in manifest
    assert set(manifest["inference"]) == {
        *USED,
        "haze",
    }  # what no version knew as training may have been used
    assert manifest["inference"]["window"] == on_disk["config"]["window"]
    assert set(manifest["provenance"]) == {"synthesis", "training"}
    assert all(
        manifest[key] == on_disk[key]
        for key in ("kind", "members", "name", "network", "training", "version")
    )


def test_every_format_has_a_way_to_the_newest():
    assert set(MIGRATIONS) == set(range(1, FORMAT))
    assert [after({})["format"] for after in MIGRATIONS.values()] == [
        before + 1 for before in MIGRATIONS
    ]


def test_lungs_of_format_1_had_one_neighbour_each_way(old_model):
    lungs = json.loads((old_model() / "manifest.json").read_text())["config"]["lungs"]
    ways = {"lungs": lungs, "normnet": {"lungs": lungs}, "lesions": {"lungs": lungs}}
    for kind, config in ways.items():
        manifest = MIGRATIONS[1]({"kind": kind, "config": config, "network": {}})
        loaded, unknown = settings_of(manifest, Path())
        assert unknown == []
        assert loaded.lungs.neighbours_mm == (6,)
        assert loaded.lungs.threshold == 0.4


def test_growth_is_left_out_without_a_word(old_model):
    """It is no more, and ``prob_possible`` meant something else; a model of today keeps its own."""
    folder = old_model()
    assert (
        set(json.loads((folder / "manifest.json").read_text())["config"]["postprocessing"]) > GROWTH
    )
    manifest = read_manifest(folder, "normnet")
    assert not GROWTH & set(manifest["inference"]["postprocessing"])
    config, unknown = settings_of(manifest, folder)
    assert not GROWTH & {name.rpartition(".")[2] for name in unknown}
    assert config.postprocessing.prob_possible == PostprocessingConfig().prob_possible != 0.6
    for post in (None, 3):  # left to the check of values
        assert (
            MIGRATIONS[1]({"config": {"postprocessing": post}})["inference"]["postprocessing"]
            is post
        )


@pytest.mark.parametrize("kind", ["normnet", "lesions", "lungs"])
def test_shipped_models_hold_settings_that_exist(kind):
    folder = shipped(kind)
    manifest = read_manifest(folder, kind)
    config, unknown = settings_of(manifest, folder)
    assert unknown == []
    assert list(config.network.channels) == manifest["network"]["channels"]
    assert config.lungs.threshold == manifest["inference"]["lungs"]["threshold"]


def test_null_of_format_2_is_a_word_now():
    used = {
        "inference": {"min_votes": None, "max_members": None, "prob_normal": 0.9},
        "preparation": {"pad_to": None, "align_vox": 16},
    }
    new = MIGRATIONS[2]({"inference": used})["inference"]
    words = {"min_votes": "majority", "max_members": "all", "prob_normal": 0.9}
    assert new == {"inference": words, "preparation": {"pad_to": "crop", "align_vox": 16}}
    assert used["preparation"]["pad_to"] is None
    numbers = {"inference": {"min_votes": 3}, "preparation": {"pad_to": [512, 512]}}
    assert MIGRATIONS[2]({"inference": numbers})["inference"] == numbers
    for damaged in (None, [], {"inference": 3, "preparation": None}):
        assert MIGRATIONS[2]({"inference": damaged})["inference"] == damaged


def test_padding_to_nothing_was_a_crop_without_alignment():
    used = {"preparation": {"pad_to": [0, 0], "align_vox": 16, "pool_vox": 2}}
    new = MIGRATIONS[2]({"inference": used})["inference"]
    assert new == {"preparation": {"pad_to": "crop", "align_vox": 1, "pool_vox": 2}}


# --- models of older commits ---


def write_old(folder: Path, commit: str, kind: str) -> Path:
    """A model folder with the manifest of a commit and one member of random weights."""
    manifest = json.loads((MANIFESTS / commit / f"{kind}.json").read_text())
    network = NetworkConfig(**manifest["network"])
    torch.manual_seed(0)
    save_model(folder, {"member-1": build_unet(network).state_dict()}, kind, network, {})
    members = json.loads((folder / "manifest.json").read_text())["members"]
    (folder / "manifest.json").write_text(json.dumps({**manifest, "members": members}))
    return folder


@pytest.mark.parametrize(
    ("commit", "number", "neighbours_mm", "lesion_networks", "left_out"),
    [
        ("04985e4", 1, (), False, ["inference.halo_vox"]),
        ("bf88a3e", 1, (6.0,), True, []),
        ("63a733c", 2, (6.0,), True, []),
    ],
)
def test_models_of_older_commits_segment(
    tmp_path, new_lesions, commit, number, neighbours_mm, lesion_networks, left_out
):
    """The models of 2026-11-23, 24 and 27; slabs of the first overlapped by a halo."""
    folders = {
        kind: write_old(tmp_path / kind, commit, kind)
        for kind in ("normnet", "lungs", "lesions")
        if (MANIFESTS / commit / f"{kind}.json").exists()
    }
    assert json.loads((folders["normnet"] / "manifest.json").read_text())["format"] == number
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        lesions = folders.get("lesions", new_lesions)
        model = load_model(folders["normnet"], folders["lungs"], lesions)
    told = [str(warning.message).split(": ")[-1] for warning in caught]
    assert told == left_out
    assert model.config.lungs == LungsConfig(neighbours_mm=neighbours_mm)
    assert model.config.network.channels == (16, 32, 64, 128)
    assert model.config.preparation.pad_to == "crop"
    votes = model.config.inference
    assert (votes.min_votes, votes.max_members) == ("majority", "all")
    post = model.config.postprocessing
    assert (post.dilation_vox, post.lesion_networks) == (5, lesion_networks)
    phantom = thorax_phantom((24, 40, 40), (4.0, 4.0, 4.0))
    volume = phantom.scan.volume_hu.astype(np.float32)
    prob = predict_lungs(volume, 4.0, model.lungs.networks, model.config.lungs)
    assert prob.shape == volume.shape
    assert 0 < prob.min() < prob.max() < 1
    found = segment(phantom.scan, model, lung_labels=phantom.lung_mask.astype(np.uint8))
    assert found.lesion_mask.shape == phantom.scan.shape
    assert found.n_votes_normal.max() <= 1
    assert found.volumes["both"]["lung_ml"] > 0


# --- the lungs' own settings ---

SEVEN = {"neighbours_mm": [6.0, 20.0, 50.0], "threshold": 0.45}


def write_lungs(folder: Path, in_channels: int, settings: dict | None) -> Path:
    network = NetworkConfig(spatial_dims=2, in_channels=in_channels, channels=(4, 8), n_res_units=0)
    card = {} if settings is None else {"inference": {"lungs": settings}}
    save_model(folder, {"member-1": build_unet(network).state_dict()}, "lungs", network, card)
    return folder


def test_a_lung_model_brings_its_own_settings():
    before = Config(
        lungs=LungsConfig(threshold=0.3, pixel_mm=2.0), window=WindowConfig(bright_hu=-480)
    )
    config = with_lungs(before, {"inference": {"lungs": SEVEN}})
    assert config.lungs == LungsConfig(neighbours_mm=(6, 20, 50), threshold=0.45)
    assert config.model_copy(update={"lungs": before.lungs}) == before
    assert before.lungs.threshold == 0.3


@pytest.mark.parametrize("manifest", [{}, {"inference": {}}, {"name": "another program's"}])
def test_a_lung_model_without_settings_has_the_default_ones(manifest):
    assert with_lungs(Config(lungs=LungsConfig(threshold=0.3)), manifest).lungs == LungsConfig()


def test_settings_of_lungs_that_are_no_more_are_left_out():
    assert (
        with_lungs(Config(), {"inference": {"lungs": {**SEVEN, "haze": 3}}}).lungs.threshold == 0.45
    )
    with pytest.raises(ModelError, match=r"NN-MOD-010: .*'lungs\.threshold'"):
        with_lungs(Config(), {"inference": {"lungs": {"threshold": "low"}}})


def test_unknown_settings_of_lungs_are_named(tmp_path, new_model, new_lesions):
    folder = write_lungs(tmp_path / "lungs", 7, {**SEVEN, "haze": 3})
    edit_manifest(folder, inference={"lungs": {**SEVEN, "haze": 3}, "fog": {}})
    wanted = r"^model lungs: settings unknown to this version are left out: lungs\.haze, fog$"
    with pytest.warns(UserWarning, match=wanted) as caught:
        load_lungs(folder)
    assert len(caught) == 1
    with pytest.warns(UserWarning, match=wanted) as caught:
        model = load_model(new_model, folder, new_lesions)
    assert len(caught) == 1
    assert model.config.lungs.threshold == 0.45


@pytest.mark.parametrize("sections", [None, [], 3])
def test_lungs_with_a_damaged_manifest_are_refused(tmp_path, sections):
    folder = write_lungs(tmp_path / "lungs", 3, {})
    edit_manifest(folder, inference=sections)
    with pytest.raises(ModelError) as caught:
        load_lungs(folder)
    assert caught.value.code == "NN-MOD-003"


def test_a_loaded_model_has_the_settings_of_its_lungs(tmp_path, new_model, new_lesions):
    model = load_model(new_model, write_lungs(tmp_path / "lungs", 7, SEVEN), new_lesions)
    assert model.config.lungs == LungsConfig(neighbours_mm=(6, 20, 50), threshold=0.45)
    assert model.config.postprocessing.k_d == 5
    assert (
        load_model(new_model, lesions=new_lesions).config.lungs
        == with_lungs(Config(), shipped_lungs()).lungs
    )


def shipped_lungs() -> dict:
    return read_manifest(shipped("lungs"), "lungs")


@pytest.mark.parametrize(
    ("in_channels", "neighbours_mm"),
    [(3, [6.0]), (5, [6.0, 20.0]), (7, [6.0, 20.0, 50.0]), (1, None), (3, [6.0, 20.0])],
)
def test_a_lung_network_sees_what_its_settings_say(tmp_path, in_channels, neighbours_mm):
    """None: what settings say where nothing is said."""
    settings = None if neighbours_mm is None else {"neighbours_mm": neighbours_mm}
    folder = write_lungs(tmp_path / "lungs", in_channels, settings)
    n_seen = 2 * len(neighbours_mm or LungsConfig().neighbours_mm) + 1
    if n_seen == in_channels:
        assert len(load_lungs(folder).networks) == 1
        return
    with pytest.raises(
        ModelError, match=f"sees {in_channels} slices, its settings say {n_seen}"
    ) as caught:
        load_lungs(folder)
    assert caught.value.code == "NN-MOD-008"


# --- settings that are no more ---


def test_an_old_model_segments_with_one_warning(old_model, new_lesions):
    with pytest.warns(UserWarning, match=OLD_NORMNET) as caught:
        model = load_model(old_model(), lesions=new_lesions)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    config = model.config
    assert config.network == NetworkConfig(channels=(4, 8), n_res_units=0)
    assert (config.window.bright_hu, config.inference.prob_normal) == (-480, 0.9)
    assert (config.preparation.spacing_mm, config.preparation.margin_vox) == ((4, 3, 3), 3)
    assert config.preparation.breath_limits == (0, 0)  # nothing was undone then
    assert (config.postprocessing.dilation_vox, config.postprocessing.rim_vox) == (5, 1)
    phantom = thorax_phantom((32, 72, 80), (5.0, 4.4, 4.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = segment(phantom.scan, model, lung_labels=phantom.lung_mask.astype(np.uint8))
    assert found.lesion_mask.shape == phantom.scan.shape
    assert found.n_votes_normal.max() <= 1
    assert found.volumes["both"]["lung_ml"] > 0


def test_old_lesion_networks_keep_their_window_and_grid(old_model, new_model):
    with pytest.warns(
        UserWarning, match=OLD_NORMNET.replace("old_normnet", "old_lesions")
    ) as caught:
        config = load_model(new_model, lesions=old_model("lesions")).lesions.config
    assert len(caught) == 1
    assert config.network.stride == 2
    assert (
        config.window.bright_hu,
        config.preparation.spacing_mm,
        config.preparation.pool_vox,
    ) == (-480, (4, 3, 3), 2)


def test_nothing_is_said_of_a_new_model(new_model, new_lesions):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_model(new_model, lesions=new_lesions)
    assert (model.config.postprocessing.k_d, model.lesions.config.postprocessing.k_d) == (5, 5)


def test_how_it_was_trained_is_never_checked(new_model):
    edit_manifest(new_model, provenance={"training": {"target": "nothing we know"}, "dreams": 3})
    assert settings_of(read_manifest(new_model, "normnet"), new_model)[1] == []


@pytest.mark.parametrize(
    ("sections", "setting"),
    [
        ({"postprocessing": {"k_d": "many"}}, "postprocessing.k_d"),
        ({"window": 3}, "window"),
        ({"inference": {"slab_vox": -32}}, "inference.slab_vox"),
        ({"inference": {"prob_normal": float("nan")}}, "inference.prob_normal"),
        ({"preparation": {"spacing_mm": [0, 0.8, 0.8]}}, "preparation.spacing_mm"),
        ({"window": {"low_hu": 200.0}}, "window.high_hu"),
    ],
)
def test_wrong_values_are_refused_all_the_same(new_model, sections, setting):
    edit_manifest(new_model, inference=sections)
    with pytest.raises(ModelError, match=f"'{setting}'") as caught:
        settings_of(read_manifest(new_model, "normnet"), new_model)
    assert caught.value.code == "NN-MOD-010"
    assert caught.value.exit_code == 6
    assert str(new_model) in str(caught.value)


@pytest.mark.parametrize("sections", [None, [], 3])
def test_a_model_without_settings_is_refused(new_model, sections):
    edit_manifest(new_model, inference=sections)
    with pytest.raises(ModelError) as caught:
        settings_of(read_manifest(new_model, "normnet"), new_model)
    assert caught.value.code == "NN-MOD-003"


@pytest.mark.parametrize("config", [None, []])
def test_an_old_model_without_settings_is_refused(old_model, config):
    folder = old_model()
    edit_manifest(folder, config=config)
    with pytest.raises(ModelError) as caught:
        settings_of(read_manifest(folder, "normnet"), folder)
    assert caught.value.code == "NN-MOD-003"


# --- manifests that lie ---


def is_refused(new_model, **folders) -> ModelError:
    """The error of a model, found before any network is loaded; loading finds the same."""
    errors = []
    for read in (read_manifests, load_model):
        start = time.process_time()
        with pytest.raises(ModelError) as caught:
            read(**{"folder": new_model, **folders})
        assert time.process_time() - start < 2
        assert caught.value.exit_code == 6
        assert "\n" not in str(caught.value)
        errors.append(caught.value)
    assert errors[0].code == errors[1].code
    return errors[0]


@pytest.mark.parametrize(
    ("network", "code"),
    [
        (None, "NN-MOD-003"),
        ([], "NN-MOD-003"),
        ({"channels": []}, "NN-MOD-003"),
        ({"channels": [4]}, "NN-MOD-003"),
        ({"channels": [4, -8]}, "NN-MOD-003"),
        ({"channels": [4, 8.5]}, "NN-MOD-003"),
        ({"channels": "48"}, "NN-MOD-003"),
        ({"channels": [4, 8] * 1000}, "NN-MOD-003"),
        ({"channels": [4, 10**9]}, "NN-MOD-003"),
        ({"channels": [4096] * 8, "n_res_units": 8}, "NN-MOD-010"),
        ({"channels": [512, 1024, 2048]}, "NN-MOD-010"),
        ({"channels": [4, 8], "n_res_units": 10**6}, "NN-MOD-003"),
        ({"channels": [4, 8], "n_res_units": -1}, "NN-MOD-003"),
        ({"channels": [4, 8], "in_channels": 0}, "NN-MOD-003"),
        ({"channels": [4, 8], "in_channels": 3}, "NN-MOD-010"),
        ({"channels": [4, 8], "spatial_dims": 2}, "NN-MOD-010"),
        ({"channels": [4, 8], "spatial_dims": 4}, "NN-MOD-003"),
        ({"channels": [4, 8], "norm": "none"}, "NN-MOD-003"),
        ({"channels": [4, 8], "start_logit": float("inf")}, "NN-MOD-003"),
    ],
)
def test_networks_that_cannot_be(new_model, network, code):
    edit_manifest(new_model, network=network)
    assert is_refused(new_model).code == code


@pytest.mark.parametrize(
    "members",
    [
        None,
        [],
        {},
        "member-1",
        [3],
        [{}],
        [{"file": "member-1.safetensors"}],
        [{"sha256": "0" * 64}],
        [{"file": "", "sha256": "0" * 64}],
        [{"file": ["x"], "sha256": "0" * 64}],
        [{"file": "member-1.safetensors", "sha256": 5}],
        [{"file": "member-1.safetensors", "sha256": "0" * 64}] * 2,
        [{"file": f"member-{n}.safetensors", "sha256": "0" * 64} for n in range(1000)],
    ],
)
def test_lists_of_members_that_cannot_be(new_model, members):
    edit_manifest(new_model, members=members)
    assert is_refused(new_model).code == "NN-MOD-003"


@pytest.mark.parametrize("name", ["../other/w", "/etc/passwd", "..", ".", "a\0b", "x" * 5000])
def test_files_of_weights_lie_in_the_folder(new_model, name):
    edit_manifest(new_model, members=[{"file": name, "sha256": "0" * 64}])
    assert is_refused(new_model).code == "NN-MOD-004"


@pytest.mark.parametrize("kind", ["pipe", "endless", "huge"])
def test_files_of_weights_are_files(new_model, kind):
    path = new_model / "member-1.safetensors"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    else:
        with path.open("wb") as handle:
            handle.truncate(12 * 2**30)
    assert is_refused(new_model).code == ("NN-MOD-011" if kind == "huge" else "NN-MOD-004")


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"a": ' * 100_000, b"\xff\xfe", b" " * (2**22 + 1), b"1" * 10_000],
    ids=["lists", "objects", "no text", "too long", "digits"],
)
def test_manifests_that_are_no_manifests(new_model, content):
    (new_model / "manifest.json").write_bytes(content)
    assert is_refused(new_model).code == "NN-MOD-001"


@pytest.mark.parametrize("kind", ["pipe", "endless", "folder"])
def test_manifests_that_are_no_files(new_model, kind):
    path = new_model / "manifest.json"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    assert is_refused(new_model).code == "NN-MOD-001"


@pytest.mark.parametrize(
    ("network", "neighbours_mm", "code"),
    [
        ({"channels": [4, 8], "spatial_dims": 3, "in_channels": 3}, [6.0], "NN-MOD-010"),
        ({"channels": [4, 8], "spatial_dims": 2, "in_channels": 0}, [6.0], "NN-MOD-003"),
        ({"channels": [4, 8], "spatial_dims": 2, "in_channels": 5}, [6.0], "NN-MOD-008"),
        ({"channels": [4, 8], "spatial_dims": 2, "in_channels": 3}, [-6.0], "NN-MOD-010"),
        ({"channels": [4, 8], "spatial_dims": 2, "in_channels": 3}, [1.0] * 99, "NN-MOD-010"),
    ],
)
def test_lungs_that_cannot_be(new_model, tmp_path, network, neighbours_mm, code):
    folder = write_lungs(tmp_path / "lungs", 3, SEVEN)
    edit_manifest(folder, network=network, inference={"lungs": {"neighbours_mm": neighbours_mm}})
    assert is_refused(new_model, lungs=folder).code == code


@pytest.mark.parametrize("format_", [True, 0, -1, 1.0, "1", None, 10**30])
def test_formats_that_cannot_be(new_model, format_):
    edit_manifest(new_model, format=format_)
    assert is_refused(new_model).code in ("NN-MOD-002", "NN-MOD-009")
