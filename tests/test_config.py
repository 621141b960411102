"""The paper's numbers, typed out here once more, and what happens to settings that do not exist."""

from __future__ import annotations

import math
import os
import types
import typing

import pytest
from pydantic import AfterValidator
from pydantic.fields import FieldInfo

from normnet.config import (
    MAX_BYTES,
    Config,
    InferenceConfig,
    PreparationConfig,
    known_keys,
    load_config,
    override,
    parse_config,
    parse_manifest_config,
    read_layers,
)
from normnet.errors import ConfigError

PAPER = {
    # Sec. III-A
    ("window", "low_hu"): -800,
    ("window", "high_hu"): 100,
    ("window", "bright_hu"): -500,
    # Sec. IV-B: 0.8 x 0.8 x 1 mm, 512 x 512
    ("preparation", "spacing_mm"): (1, 0.8, 0.8),
    ("preparation", "pad_to"): (512, 512),
    # Sec. III-C1
    ("synthesis", "n_small"): (5, 10),
    ("synthesis", "n_medium"): (5, 10),
    ("synthesis", "prob_large"): 0.2,
    ("synthesis", "axes_small_vox"): (3, 10),
    ("synthesis", "axes_medium_vox"): (10, 32),
    ("synthesis", "axes_large_vox"): (32, 64),
    ("synthesis", "rotate"): True,
    # Eqs. 4, 6, 7, 8
    ("synthesis", "sigma_b_fine_vox"): (0.8, 2),
    ("synthesis", "sigma_b_coarse_vox"): (2, 5),
    ("synthesis", "prob_fine"): 0.7,
    ("synthesis", "mu0"): (0.4, 0.8),
    ("synthesis", "mean_above"): 0.2,
    ("synthesis", "sigma_a_vox"): (3, 15),
    ("synthesis", "a_limits"): (0, 0.3),
    ("synthesis", "a_gap"): 0.15,
    # Sec. IV-B3; the network is that of MONAI's spleen tutorial
    ("network", "spatial_dims"): 3,
    ("network", "channels"): (16, 32, 64, 128, 256),
    ("network", "n_res_units"): 2,
    ("network", "norm"): "batch",
    ("training", "slab_vox"): (32, 512, 512),
    ("training", "batch"): 8,
    ("training", "iterations"): 2000,
    ("training", "learning_rate"): 3e-4,
    ("training", "schedule"): "constant",
    ("training", "members"): 5,
    # "no more augmentation is needed"
    ("training", "flip"): False,
    ("training", "prob_thick"): 0,
    ("training", "prob_noise"): 0,
    ("inference", "prob_normal"): 0.95,
    ("inference", "min_votes"): 3,
    ("postprocessing", "k_d"): 9,
    ("postprocessing", "k_f"): 7,
    ("postprocessing", "t_d"): 0.2,
    ("postprocessing", "t_f"): 0.15,
    ("postprocessing", "normalised"): False,
}


@pytest.mark.parametrize(("section", "key"), PAPER)
def test_paper(section, key):
    assert getattr(getattr(load_config("paper"), section), key) == PAPER[section, key]


def test_tau_is_a_third():
    assert load_config("paper").window.tau == pytest.approx(0.3333, abs=1e-4)


def test_names():
    assert load_config() == load_config("default") == load_config(None)
    assert load_config("paper") != load_config()


def test_default_keeps_the_papers_generator():
    default, paper = load_config(), load_config("paper")
    assert default.synthesis == paper.synthesis
    assert default.window == paper.window


@pytest.mark.parametrize(
    ("text", "unknown", "nearest"),
    [
        ("[postprocessing]\nkd = 9", "postprocessing.kd", "postprocessing.k_d"),
        ("[trainin]\nbatch = 2", "trainin", "training"),
        ("[training]\nlearningrate = 1", "training.learningrate", "training.learning_rate"),
        ("bright_hu = 3", "bright_hu", "window.bright_hu"),
    ],
)
def test_unknown_key_names_the_nearest(tmp_path, text, unknown, nearest):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.code == "NN-CFG-001"
    assert f"'{unknown}'" in str(caught.value)
    assert f"did you mean '{nearest}'?" in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[training]\nbatch = 'many'", "training.batch"),
        ("[training]\nbatch = 2.5", "training.batch"),
        ("[training]\nslab_vox = [32, 512]", "training.slab_vox"),
        ("[training]\nschedule = 'linear'", "training.schedule"),
        ("[synthesis]\nmu0 = 0.4", "synthesis.mu0"),
        ("[network]\nspatial_dims = 4", "network.spatial_dims"),
        ("[postprocessing]\nt_d = [0.2]", "postprocessing.t_d"),
        ("training = 3", "training"),
    ],
)
def test_wrong_types_are_named(tmp_path, text, key):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.code == "NN-CFG-002"
    assert f"'{key}" in str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "code"),
    [(None, "NN-CFG-003"), (b"[training", "NN-CFG-004"), (b"\xff\xfe", "NN-CFG-004")],
)
def test_files_that_are_no_config(tmp_path, content, code):
    path = tmp_path / "mine.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert caught.value.code == code


def test_single_keys_override_the_default(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[training]\nmembers = 1\n")
    config = load_config(path)
    assert config.training.members == 1
    assert config.model_copy(update={"training": load_config().training}) == load_config()


def test_a_manifest_gives_the_config_back():
    config = load_config()
    assert parse_config(config.model_dump(mode="json"), "manifest") == config
    assert parse_manifest_config(config.model_dump(mode="json"), "manifest") == (config, [])


def test_a_manifest_may_hold_settings_that_are_no_more():
    values = {
        "postprocessing": {"k_d": 5, "kd": 9},
        "haze": {"prob": 1.0},
        "window.low_hu": 3,
        "lungs": {},
    }
    config, unknown = parse_manifest_config(values, "manifest")
    assert config.model_dump() == parse_config({"postprocessing": {"k_d": 5}}, "").model_dump()
    assert unknown == ["postprocessing.kd", "haze", "window.low_hu"]
    assert values["postprocessing"] == {"k_d": 5, "kd": 9}
    with pytest.raises(ConfigError, match=r"'postprocessing\.k_d'.*manifest"):
        parse_manifest_config({"postprocessing": {"k_d": "many", "kd": 9}}, "manifest")
    with pytest.raises(ConfigError, match=r"unknown setting 'postprocessing\.kd'"):
        parse_config(values, "manifest")


def test_settings_never_change():
    config = Config()
    with pytest.raises(ValueError, match="frozen"):
        config.training.batch = 3


# --- ranges ---


def limits_of(metadata) -> dict[str, float]:
    """``ge``, ``gt``, ``le``, ``min_length`` ... of a type's annotations."""
    flat = [
        part for one in metadata for part in (one.metadata if isinstance(one, FieldInfo) else [one])
    ]
    names = ("ge", "gt", "le", "lt", "min_length", "max_length")
    return {name: getattr(part, name) for part in flat for name in names if hasattr(part, name)}


def example_of(kind) -> object:
    """The lowest value of a number with a range."""
    inner, *metadata = typing.get_args(kind)
    limits = limits_of(metadata)
    return inner(limits.get("ge", limits.get("le")))


def faults_of(kind, metadata=()) -> list[object]:
    """Values that a setting of this type must refuse: NaN, beyond its range, of a wrong type."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        return faults_of(arguments[0], [*metadata, *arguments[1:]])
    if origin in (types.UnionType, typing.Union):
        return [fault for one in arguments for fault in faults_of(one)]
    if origin is typing.Literal:
        return ["no such word", math.nan, [1]]
    if kind is bool:
        return ["yes", 1, 0.0, math.nan]
    limits = limits_of(metadata)
    if kind is str:
        return ["", 3, math.nan, True, "x" * (limits["max_length"] + 1)]
    if origin is tuple and arguments[-1] is Ellipsis:
        fewest, good = limits.get("min_length", 0), example_of(arguments[0])
        faults = [[good] * fewest + [fault] for fault in faults_of(arguments[0])]
        faults += [[good] * (limits["max_length"] + 1), {"a": 1}, "text", math.nan]
        return faults + ([[good] * (fewest - 1)] if fewest else [])
    if origin is tuple:
        good = [example_of(one) for one in arguments]
        faults = [
            [*good[:place], fault, *good[place + 1 :]]
            for place, one in enumerate(arguments)
            for fault in faults_of(one)
        ]
        faults += [[*good, good[0]], [], "text"]
        if any(isinstance(part, AfterValidator) for part in metadata):  # a pair in order
            faults.append([limits_of(typing.get_args(arguments[0])[1:])["le"], good[1]])
        return faults
    assert kind in (int, float), kind
    low, high = limits.get("ge", limits.get("gt")), limits["le"]
    below = [low - 1e-3 if kind is float else low - 1] + ([low] if "gt" in limits else [])
    above = high + 1e-3 if kind is float else high + 1
    wrong = ["text", "1", True, None, [], math.nan, math.inf, -math.inf, 10**400]
    return [*below, above, *wrong, *([low + 0.5] if kind is int else [])]


@pytest.mark.parametrize("name", known_keys())
def test_every_key_has_its_range(name):
    section, key = name.split(".")
    field = Config.model_fields[section].annotation.model_fields[key]
    faults = faults_of(field.annotation, field.metadata)
    assert len(faults) > 2
    for fault in faults:
        with pytest.raises(ConfigError) as caught:
            parse_config({section: {key: fault}}, "mine.toml")
        assert caught.value.code == "NN-CFG-002", fault
        assert f"'{name}'" in str(caught.value), fault
        assert "\n" not in str(caught.value)
        assert caught.value.exit_code == 2


@pytest.mark.parametrize("size", [2, 8, 98])
@pytest.mark.parametrize("key", ["k_d", "k_f"])
def test_kernels_are_odd(key, size):
    with pytest.raises(ConfigError, match=rf"'postprocessing\.{key}': the number is even"):
        parse_config({"postprocessing": {key: size}}, "")


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"window": {"low_hu": 100.0}}, "window.high_hu"),
        ({"window": {"high_hu": -900.0}}, "window.high_hu"),
        ({"window": {"bright_hu": 101}}, "window.bright_hu"),
        ({"window": {"low_hu": -450}}, "window.bright_hu"),
        ({"lungs": {"high_hu": -1024}}, "lungs.high_hu"),
        ({"synthesis": {"a_gap": 0.3}}, "synthesis.a_gap"),
        ({"synthesis": {"a_limits": [0.2, 0.2]}}, "synthesis.a_gap"),
        ({"ground_glass": {"prob_mottled": 0.9}}, "ground_glass.prob_clumped"),
    ],
)
def test_settings_that_do_not_fit_each_other(values, key):
    with pytest.raises(ConfigError, match=f"wrong value of '{key}'") as caught:
        override(load_config(), values, "mine.toml")
    assert caught.value.code == "NN-CFG-002"


def test_a_layer_need_not_fit_before_it_is_merged(tmp_path):
    """Its other half may stand in the file that it extends."""
    (tmp_path / "b.toml").write_text("[window]\nlow_hu = -1000\nbright_hu = -700\n")
    (tmp_path / "a.toml").write_text("extends = 'b.toml'\n[window]\nhigh_hu = -600\n")
    window = load_config(tmp_path / "a.toml").window
    assert (window.low_hu, window.bright_hu, window.high_hu) == (-1000, -700, -600)


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("[training]\nslab_vox = [32, 160, 100]", "training.slab_vox"),
        ("[network]\nchannels = [4, 8, 16, 32, 64, 128, 256]", "training.slab_vox"),
        ("[lungs_training]\ncrop_px = 100", "lungs_training.crop_px"),
    ],
)
def test_slabs_fit_the_strides_of_their_network(tmp_path, text, key):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(ConfigError, match=rf"'{key}': not a multiple of \d+"):
        load_config(tmp_path / "mine.toml")


def test_lung_networks_have_five_levels_at_most(tmp_path):
    """So many the slices of a CT are padded for."""
    (tmp_path / "mine.toml").write_text("[lungs_training]\nchannels = [8, 8, 8, 8, 8, 8]")
    with pytest.raises(ConfigError, match=r"'lungs_training.channels': more than five levels"):
        load_config(tmp_path / "mine.toml")


@pytest.mark.parametrize(("min_votes", "n_members"), [(3, 2), (1, 0), (100, 5)])
def test_no_more_votes_than_members(min_votes, n_members):
    with pytest.raises(ConfigError, match=rf"'inference\.min_votes': {min_votes} votes needed"):
        InferenceConfig(min_votes=min_votes).votes_needed(n_members)


@pytest.mark.parametrize(
    "text", ["batch = 1_000_000_000_000", "learning_rate = nan", "batch = inf"]
)
def test_ranges_hold_in_files(tmp_path, text):
    (tmp_path / "mine.toml").write_text(f"[training]\n{text}\n")
    with pytest.raises(ConfigError, match=r"'training\.") as caught:
        load_config(tmp_path / "mine.toml")
    assert caught.value.code == "NN-CFG-002"


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"a = " + b"[" * 100_000, "NN-CFG-004"),
        (b"a = 1" + b"0" * 10_000, "NN-CFG-004"),
        (b"#" * (MAX_BYTES + 1), "NN-CFG-004"),
        (b"\x7fELF\x00\x01\xff", "NN-CFG-004"),
    ],
)
def test_files_that_are_no_toml(tmp_path, content, code):
    (tmp_path / "mine.toml").write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "mine.toml")
    assert caught.value.code == code
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["", ".", "folder", "pipe", "endless", "broken link", "a\0b"])
def test_paths_that_are_no_files(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "endless").symlink_to("/dev/zero")
    (tmp_path / "broken link").symlink_to(tmp_path / "nothing")
    with pytest.raises(ConfigError) as caught:
        load_config(kind)
    assert caught.value.code == "NN-CFG-003"


# --- words in place of None ---


def test_words_and_numbers(tmp_path):
    default = load_config()
    assert default.inference.min_votes == "majority"
    assert default.inference.max_members == "all"
    assert default.preparation.pad_to == "crop"
    assert default.preparation.padded_yx_vox is None
    path = tmp_path / "mine.toml"
    path.write_text("[preparation]\npad_to = 512\n[inference]\nmin_votes = 3\nmax_members = 2\n")
    mine = load_config(path)
    assert mine.preparation.padded_yx_vox == (512, 512)
    assert PreparationConfig(pad_to=(160, 150)).padded_yx_vox == (160, 150)
    assert (mine.inference.min_votes, mine.inference.max_members) == (3, 2)


@pytest.mark.parametrize(
    ("min_votes", "n_members", "needed"),
    [("majority", 1, 1), ("majority", 4, 3), ("majority", 5, 3), (0, 5, 0), (4, 5, 4)],
)
def test_votes_needed(min_votes, n_members, needed):
    assert InferenceConfig(min_votes=min_votes).votes_needed(n_members) == needed


@pytest.mark.parametrize(("max_members", "voting"), [("all", 5), (1, 1), (5, 5), (9, 5)])
def test_members_voting(max_members, voting):
    assert InferenceConfig(max_members=max_members).members_voting(5) == voting


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[inference]\nmin_votes = 'most'", r"'inference\.min_votes': .*'majority', or .*integer"),
        ("[inference]\nmin_votes = -1", r"'inference\.min_votes': .*greater than or equal to 0"),
        ("[inference]\nmax_members = 0", r"'inference\.max_members': .*greater than or equal to 1"),
        ("[preparation]\npad_to = [0, 0]", r"'preparation\.pad_to': .*'crop'"),
    ],
)
def test_wrong_words_are_named(tmp_path, text, told):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=told) as caught:
        load_config(path)
    assert caught.value.code == "NN-CFG-002"


# --- extends ---


def test_a_file_extends_a_shipped_one(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("extends = 'lesions'\n[training]\nmembers = 1\n")
    mine, lesions = load_config(path), load_config("lesions")
    assert mine.training.members == 1
    assert mine.model_copy(update={"training": lesions.training}) == lesions


def test_a_file_extends_another_one_beside_it(tmp_path, monkeypatch):
    """The path is that from the file, not from where the command runs."""
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "b.toml").write_text(
        "extends = 'paper'\n[training]\nbatch = 3\nmembers = 2\n"
    )
    (tmp_path / "a.toml").write_text("extends = 'base/b.toml'\n[training]\nbatch = 4\n")
    monkeypatch.chdir("/")
    config = load_config(tmp_path / "a.toml")
    assert (config.training.batch, config.training.members) == (4, 2)
    assert config.synthesis == load_config("paper").synthesis
    assert config.preparation.pad_to == (512, 512)
    assert [layer.name for layer in read_layers(tmp_path / "a.toml")] == [
        "paper.toml",
        str(tmp_path / "base" / "b.toml"),
        str(tmp_path / "a.toml"),
    ]


@pytest.mark.parametrize(
    ("files", "code", "where"),
    [
        ({"a": "extends = 'a.toml'"}, "NN-CFG-006", "a.toml"),
        ({"a": "extends = 'b.toml'", "b": "extends = 'a.toml'"}, "NN-CFG-006", "b.toml"),
        ({"a": "extends = 'lesion'"}, "NN-CFG-005", "a.toml"),
        ({"a": "extends = 'b.toml'", "b": "extends = 'c.toml'"}, "NN-CFG-005", "b.toml"),
        ({"a": "extends = 3"}, "NN-CFG-005", "a.toml"),
        ({"a": "extends = ['paper']"}, "NN-CFG-005", "a.toml"),
        ({"a": "extends = ''"}, "NN-CFG-005", "a.toml"),
        ({"a": "extends = 'b.toml'", "b": "[training]\nbach = 3"}, "NN-CFG-001", "b.toml"),
        ({"a": "extends = 'b.toml'", "b": "["}, "NN-CFG-004", "b.toml"),
    ],
)
def test_what_cannot_be_extended(tmp_path, files, code, where):
    for name, text in files.items():
        (tmp_path / f"{name}.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "a.toml")
    assert caught.value.code == code
    assert caught.value.where.endswith(where)
    assert "\n" not in str(caught.value)


# --- every number in a TOML ---


@pytest.mark.parametrize("name", ["default", "lesions"])
def test_every_key_is_set_by_a_file(name):
    """``config.py`` alone speaks of keys that the paper does not use, and in old models."""
    layers = read_layers(name)
    told = {
        f"{section}.{key}"
        for layer in layers
        for section, keys in layer.values.items()
        for key in keys
    }
    assert told == set(known_keys())


def test_training_of_the_lungs_is_the_same_everywhere():
    assert (
        load_config().lungs_training
        == Config().lungs_training
        == load_config("paper").lungs_training
    )
