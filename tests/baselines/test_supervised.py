"""COPLE-Net and Inf-Net: losses worked out by hand, learning, and files of released checkpoints."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from normnet.baselines import coplenet, infnet, supervised
from normnet.baselines.released import convert_checkpoint, rename
from normnet.baselines.supervised import (
    SUPERVISED,
    Labelled,
    LabelledSampler,
    SupervisedSettings,
    as_trained,
    cut_slices,
    find_supervised,
    load_trained,
    predict_lesions,
    save_trained,
    slice_size,
    train_supervised,
)
from normnet.errors import ConfigError, InputError, ModelError

TINY = SupervisedSettings(size=32, batch=2, iterations=3, learning_rate=1e-3)
NAMES = list(SUPERVISED)


class Fixed(nn.Module):
    """Returns the same logits for every slice."""

    def __init__(self, logits, edge=None):
        super().__init__()
        self.logits, self.edge = logits, edge

    def forward(self, slices):
        return self.logits

    def find(self, slices):
        return [self.logits] * 4, self.edge


@pytest.fixture
def disc():
    """A CT with a bright disc as lesion that moves from slice to slice; 96 x 96 pixels of 4 mm."""
    z, y, x = np.ogrid[:6, :96, :96]
    lesion_mask = (y - 40 - 3 * z) ** 2 + (x - 36 - 4 * z) ** 2 < 12**2
    lung_mask = np.broadcast_to((y - 48) ** 2 + (x - 48) ** 2 < 40**2, lesion_mask.shape).copy()
    rng = np.random.default_rng(0)
    volume_hu = np.where(lung_mask, -850, 40) + 20 * rng.normal(size=lesion_mask.shape)
    volume_hu[lesion_mask] = -300
    prepared = SimpleNamespace(
        volume_hu=volume_hu.astype(np.float32), lung_mask=lung_mask, spacing_mm=(6.0, 4.0, 4.0)
    )
    return prepared, lesion_mask & lung_mask


def count_weights(network):
    return sum(weights.numel() for weights in network.parameters())


def test_sizes():
    """10.5 million; 33.1 million in the paper with the classifier of the backbone, unused there."""
    assert count_weights(coplenet.COPLENet()) == pytest.approx(10.52e6, rel=1e-3)
    classifier = 2048 * 1000 + 1000
    assert count_weights(infnet.InfNet()) + classifier == pytest.approx(33.12e6, rel=1e-3)


def test_unknown_name():
    with pytest.raises(ConfigError, match="NN-BAS-020"):
        find_supervised("u-net")


def test_size_is_a_multiple_of_the_stride():
    method = SUPERVISED["inf-net"]
    assert slice_size(method, SupervisedSettings(size=1000)) == 352
    assert slice_size(method, SupervisedSettings(size=100)) == 96
    assert slice_size(method, SupervisedSettings(size=1)) == 32


def test_noise_robust_dice():
    """Probability 1/2 on four pixels: 4 * 0.5^1.5 / (4 * 0.25 + n), of which n = 1 is lesion."""
    lesions = torch.zeros(1, 1, 2, 2)
    lesions[..., 0, 0] = 1
    loss = coplenet.compute_loss(Fixed(torch.zeros(1, 1, 2, 2)), lesions, lesions)
    of_lesion, of_background = (4 * 0.5**1.5 / (1 + n) for n in (1, 3))
    assert float(loss) == pytest.approx((of_lesion + of_background) / 2, rel=1e-4)


def test_infnet_loss():
    """No lesion, probability 1/2: log 2 for five maps; 1 - 1 / (n / 2 + 1) for four of them."""
    empty = torch.zeros(1, 1, 8, 8)
    loss = infnet.compute_loss(Fixed(empty, empty), empty, empty)
    expected = 5 * np.log(2) + 4 * (1 - 1 / (64 / 2 + 1))
    assert float(loss) == pytest.approx(expected, rel=1e-5)


def test_pixels_near_a_boundary_count_more():
    """The same error costs more beside a lesion than far from it."""
    lesions = torch.zeros(1, 1, 64, 64)
    lesions[..., 10:20, 10:20] = 1
    right = 20 * lesions - 10

    def loss(x):
        logits = right.clone()
        logits[..., 15, x] *= -1
        return float(infnet._compute_map_loss(logits, lesions, weights))

    near = nn.functional.avg_pool2d(lesions, 31, 1, 15)
    weights = 1 + 5 * (near - lesions).abs()
    assert loss(22) > 1.2 * loss(60)


def test_edge_is_the_outline():
    """A certain edge of the right pixels costs nothing, the filled lesion does."""
    lesions = torch.zeros(1, 1, 16, 16)
    lesions[..., 4:10, 4:10] = 1
    outline = torch.zeros_like(lesions)
    outline[..., 3:11, 3:11] = 1
    outline[..., 5:9, 5:9] = 0
    sure = 40 * lesions - 20
    right = infnet.compute_loss(Fixed(sure, 40 * outline - 20), lesions, lesions)
    assert float(right) == pytest.approx(0, abs=1e-3)
    assert float(infnet.compute_loss(Fixed(sure, sure), lesions, lesions)) > 1


def test_an_empty_slice_stays_dark(disc):
    """Slices are not scaled one by one: lung alone never reaches 1."""
    prepared, lesion_mask = disc
    prepared.volume_hu[:] = -900
    cut = cut_slices(SUPERVISED["inf-net"], prepared, lesion_mask, 96)
    assert int(cut.slices.max()) == round(255 * 500 / 1500)


def test_cut_slices(disc):
    prepared, lesion_mask = disc
    prepared.lung_mask[2] = False
    cut = cut_slices(SUPERVISED["cople-net"], prepared, lesion_mask, 96)
    assert cut.slices.shape == (5, 96, 96)
    assert cut.lesions.numpy().tolist() == lesion_mask[[0, 1, 3, 4, 5]].tolist()


def test_half_of_the_slices_show_lesions():
    """One of 50 slices of a CT has a lesion, and half of what is drawn; CTs are drawn equally."""
    rng = torch.Generator().manual_seed(0)
    slices, lesions = torch.zeros((50, 8, 8), dtype=torch.uint8), torch.zeros(50, 8, 8).bool()
    lesions[7, 2:6, 2:6] = True
    bright = Labelled(slices[:10] + 255, torch.zeros(10, 8, 8).bool())
    seen, found = LabelledSampler([Labelled(slices, lesions), bright], "cpu").sample(1000, rng)
    from_bright = seen[:, 0, 4, 4] > 0.5
    assert float(from_bright.float().mean()) == pytest.approx(0.5, abs=0.05)
    assert not found[from_bright].any()
    assert float(found[~from_bright].flatten(1).any(1).float().mean()) == pytest.approx(
        0.51, abs=0.06
    )


def test_no_lesion_to_learn_from():
    healthy = Labelled(torch.zeros((3, 32, 32), dtype=torch.uint8), torch.zeros(3, 32, 32).bool())
    with pytest.raises(InputError, match="NN-BAS-021"):
        train_supervised(SUPERVISED["cople-net"], [healthy], TINY)


@pytest.mark.parametrize("name", NAMES)
def test_train_save_load_predict(name, disc, tmp_path):
    """The same seed gives the same mask, also when stopped and resumed; a file changes nothing."""
    prepared, lesion_mask = disc
    method = SUPERVISED[name]
    learned = [cut_slices(method, prepared, lesion_mask, 32)]
    state = train_supervised(method, learned, TINY, seed=1)
    assert state.step == 3
    first = train_supervised(
        method, learned, TINY, seed=1, checkpoints=tmp_path / "c", stop=lambda: True
    )
    assert first.step == 1
    again = train_supervised(method, learned, TINY, seed=1, checkpoints=tmp_path / "c")
    trained = as_trained(method, state, 32)
    save_trained(tmp_path / "network.safetensors", trained)
    loaded = load_trained(tmp_path / "network.safetensors")
    assert loaded.method is method
    assert (loaded.size, loaded.facts["iterations"]) == (32, "3")
    masks = [
        predict_lesions(one, prepared) for one in (trained, as_trained(method, again, 32), loaded)
    ]
    assert masks[0].shape == prepared.lung_mask.shape
    assert not (masks[0] & ~prepared.lung_mask).any()
    assert all((mask == masks[0]).all() for mask in masks)
    probabilities = [one.network(torch.full((1, 1, 32, 32), 0.4)) for one in (trained, loaded)]
    assert probabilities[0].equal(probabilities[1])


@pytest.mark.parametrize("name", NAMES)
def test_learns_a_bright_disc(name, disc):
    prepared, lesion_mask = disc
    method = SUPERVISED[name]
    settings = SupervisedSettings(size=64, batch=4, iterations=40, learning_rate=1e-3)
    state = train_supervised(
        method, [cut_slices(method, prepared, lesion_mask, 64)], settings, seed=0
    )
    found = predict_lesions(as_trained(method, state, 64), prepared)
    dice = 2 * (found & lesion_mask).sum() / (found.sum() + lesion_mask.sum())
    # Inf-Net's map has an eighth of the slice's pixels per side, so its edges are coarse.
    assert dice > {"cople-net": 0.8, "inf-net": 0.75}[name]


def public_names(name):
    """The names of the weights in the public code, from the network of this package.

    They were noted from the public code, which is written out here rule by rule.
    """
    import re

    rules = {
        "cople-net": [
            (r"^first\.(.*)", r"in_conv.conv_conv.\1"),
            (r"^(down|up)\.(\d)\.(.*)", r"\1\2.conv.conv_conv.\3"),
            (r"^narrow\.(\d)\.(.*)", r"up\1.conv1x1.\2"),
            (r"^bridge\.(\d)\.(.*)", r"bridge\1.conv.\2"),
            (r"^pyramid\.(\d)\.(.*)", r"aspp.conv_\1.\2"),
            (r"^mix\.(.*)", r"aspp.conv_1x1.\1"),
            (r"^last\.(.*)", r"out_conv.\1"),
            (r"\.7\.layers\.", ".7.se_layers."),
        ],
        "inf-net": [
            (r"^backbone\.stem\.7\.", "resnet.bn1."),
            (r"^backbone\.stem\.", "resnet.conv1."),
            (r"^(backbone\.stages.*)\.first\.0\.", r"\1.conv1."),
            (r"^(backbone\.stages.*)\.first\.1\.", r"\1.bn1."),
            (r"^(backbone\.stages.*)\.groups\.(\d)\.0\.", r"\1.convs.\2."),
            (r"^(backbone\.stages.*)\.groups\.(\d)\.1\.", r"\1.bns.\2."),
            (r"^(backbone\.stages.*)\.last\.0\.", r"\1.conv3."),
            (r"^(backbone\.stages.*)\.last\.1\.", r"\1.bn3."),
            (r"^(backbone\.stages.*)\.shortcut\.", r"\1.downsample."),
            (r"^backbone\.stages\.(\d)\.", r"resnet.layer\1."),
            (r"^decoder\.last\.1\.", "ParDec.conv5."),
            (r"^(context|decoder|reverse|edge)\.(.*)\.0\.(\w+)$", r"\1.\2.conv.\3"),
            (r"^(context|decoder|reverse|edge)\.(.*)\.1\.(\w+)$", r"\1.\2.bn.\3"),
            (r"^decoder\.last\.0\.", "ParDec.conv4."),
            (r"^decoder\.up\.", "ParDec.conv_upsample"),
            (r"^decoder\.join\.", "ParDec.conv_concat"),
            (r"^context\.(\d)\.branches\.", r"rfb\1_1.branch"),
            (r"^context\.(\d)\.merge\.", r"rfb\1_1.conv_cat."),
            (r"^context\.(\d)\.shortcut\.", r"rfb\1_1.conv_res."),
            (r"^reverse\.(\d)\.", r"ra\1_conv"),
            (r"^edge\.", "edge_conv"),
        ],
    }[name]
    renamed = {}
    for key in SUPERVISED[name].build().state_dict():
        public = key
        for pattern, theirs in rules:
            public = re.sub(pattern, theirs, public)
        renamed[key] = public
    return renamed


PUBLIC = {  # some names as they stand in the public code, by ours
    "cople-net": {
        "first.0.weight": "in_conv.conv_conv.0.weight",
        "first.7.layers.1.bias": "in_conv.conv_conv.7.se_layers.1.bias",
        "down.4.5.running_mean": "down4.conv.conv_conv.5.running_mean",
        "bridge.0.1.weight": "bridge0.conv.1.weight",
        "up.1.7.layers.3.weight": "up1.conv.conv_conv.7.se_layers.3.weight",
        "narrow.4.bias": "up4.conv1x1.bias",
        "pyramid.3.weight": "aspp.conv_3.weight",
        "mix.0.weight": "aspp.conv_1x1.0.weight",
        "last.weight": "out_conv.weight",
    },
    "inf-net": {
        "backbone.stem.6.weight": "resnet.conv1.6.weight",
        "backbone.stem.7.running_var": "resnet.bn1.running_var",
        "backbone.stages.1.0.first.0.weight": "resnet.layer1.0.conv1.weight",
        "backbone.stages.3.5.groups.2.1.bias": "resnet.layer3.5.bns.2.bias",
        "backbone.stages.4.2.last.1.weight": "resnet.layer4.2.bn3.weight",
        "backbone.stages.2.0.shortcut.1.weight": "resnet.layer2.0.downsample.1.weight",
        "context.4.branches.0.0.0.weight": "rfb4_1.branch0.0.conv.weight",
        "context.2.branches.3.3.1.weight": "rfb2_1.branch3.3.bn.weight",
        "context.3.merge.0.weight": "rfb3_1.conv_cat.conv.weight",
        "context.3.shortcut.1.bias": "rfb3_1.conv_res.bn.bias",
        "decoder.up.5.0.weight": "ParDec.conv_upsample5.conv.weight",
        "decoder.join.3.1.weight": "ParDec.conv_concat3.bn.weight",
        "decoder.last.0.0.weight": "ParDec.conv4.conv.weight",
        "decoder.last.1.bias": "ParDec.conv5.bias",
        "reverse.4.5.1.weight": "ra4_conv5.bn.weight",
        "reverse.2.1.0.weight": "ra2_conv1.conv.weight",
        "edge.4.0.weight": "edge_conv4.conv.weight",
    },
}


@pytest.mark.parametrize("name", NAMES)
def test_names_of_the_public_code(name):
    names = public_names(name)
    assert {ours: names[ours] for ours in PUBLIC[name]} == PUBLIC[name]
    for ours, public in names.items():
        assert rename(public, name) == ours


@pytest.mark.parametrize(
    ("name", "prefix", "wrap"), [("cople-net", "", "model_state_dict"), ("inf-net", "module.", "")]
)
def test_convert_checkpoint(name, prefix, wrap, disc, tmp_path):
    """Random weights under the public names become the same network."""
    torch.manual_seed(3)
    network = SUPERVISED[name].build().eval()
    names = public_names(name)
    content = {prefix + names[key]: value for key, value in network.state_dict().items()}
    if name == "inf-net":
        content |= {
            "module.resnet.fc.weight": torch.zeros(1000, 2048),
            "module.total_ops": torch.ones(1),
        }
    torch.save({wrap: content, "iteration": 7} if wrap else content, tmp_path / "released.pth")
    convert_checkpoint(tmp_path / "released.pth", name, tmp_path / "ours.safetensors")
    loaded = load_trained(tmp_path / "ours.safetensors")
    assert loaded.facts == {"source": "released checkpoint"}
    assert loaded.size == SUPERVISED[name].size
    stored = loaded.network.state_dict()
    assert all(stored[key].equal(value) for key, value in network.state_dict().items())


def test_convert_is_strict(tmp_path):
    network = SUPERVISED["cople-net"].build()
    names = public_names("cople-net")
    content = {names[key]: value for key, value in network.state_dict().items()}
    del content["out_conv.bias"]
    content["head.weight"] = torch.zeros(1)
    content["out_conv.weight"] = torch.zeros(3, 32, 3, 3)
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ModelError) as caught:
        convert_checkpoint(tmp_path / "other.pth", "cople-net", tmp_path / "out.safetensors")
    assert str(caught.value).startswith(
        "NN-BAS-024: not the weights of cople-net: 1 missing (last.bias), 1 unknown (head.weight), "
        "1 of another shape (last.weight); other.pth"
    )
    assert not (tmp_path / "out.safetensors").exists()


class Harmful:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kind", ["harmful", "text", "empty", "number", "missing"])
def test_what_is_no_state_dict(kind, tmp_path):
    path, trace = tmp_path / "file.pth", tmp_path / "trace"
    contents = {"harmful": {"a": Harmful(trace)}, "empty": {}, "number": 3}
    if kind == "text":
        path.write_text("no pickle")
    elif kind != "missing":
        torch.save(contents[kind], path)
    with pytest.raises(ModelError, match="NN-BAS-023"):
        convert_checkpoint(path, "inf-net", tmp_path / "out.safetensors")
    assert not trace.exists()


def test_load_refuses_other_files(tmp_path):
    path = tmp_path / "network.safetensors"
    for content in (b"", b"nothing", supervised.save({"a": torch.zeros(1)}, {"method": "inf-net"})):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="NN-BAS-022"):
            load_trained(path)
