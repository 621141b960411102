"""Phantoms as a CSV list of cases, and a scale at which a network trains in a second."""

import csv

import numpy as np
import pytest

from tests.phantoms import phantom_lungs

SHAPE, SPACING_MM = (32, 64, 64), (5.0, 5.0, 5.0)
SCALE = """
note = "Tiny."
members = 1
seeds = 2
[settings.preparation]
spacing_mm = [5.0, 5.0, 5.0]
pad_to = "crop"
align_vox = 1
[settings.network]
channels = [4, 8]
n_res_units = 0
[settings.training]
slab_vox = [16, 32, 32]
batch = 1
iterations = 4
[baselines]
size = 32
batch = 4
iterations = 2
restore_steps = 2
[supervised]
size = 64
batch = 8
iterations = 4
learning_rate = 1e-3
"""


@pytest.fixture(autouse=True)
def phantom_lungs_everywhere(monkeypatch):
    monkeypatch.setattr("normnet.experiments.bench.segment_lungs", phantom_lungs)
    monkeypatch.setattr("normnet.training.normals.segment_lungs", phantom_lungs)


def make_data(folder, cases):
    """Write phantoms with cases.csv; ``cases``: name and split, those of "dev" have a lesion."""
    from normnet.io.formats.nifti import write_image
    from tests.phantoms import thorax_phantom, write_nifti

    rows = []
    for seed, (name, split) in enumerate(cases):
        sick = split == "dev"
        phantom = thorax_phantom(SHAPE, SPACING_MM, lesions=sick, seed=seed)
        write_nifti(phantom.scan, folder / f"{name}.nii.gz")
        row = {"case_id": name, "file": f"{name}.nii.gz", "split": split, "lesion_mask": ""}
        if sick:
            row["lesion_mask"] = f"{name}_lesion.nii.gz"
            write_image(folder / row["lesion_mask"], phantom.lesion_mask, phantom.scan.geometry)
        rows.append(row)
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return folder


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with cases.csv: two normal CTs, one of Coronacases, one of Radiopaedia."""
    cases = [("healthy1", "train"), ("healthy2", "")]
    cases += [("coronacases_001", "dev"), ("radiopaedia_5", "dev")]
    return make_data(tmp_path_factory.mktemp("data"), cases)


@pytest.fixture
def supervised(monkeypatch):
    """A double of the supervised networks: they find the reference without its first slice.

    Returns:
        Names of the methods whose predictions were asked for.
    """
    from normnet.experiments.thresholds import reference_on_grid

    asked = []

    def predict_left_out(name, scale, bench, *rest):
        asked.append(name)
        for case in (case for cases in bench.data.tests.values() for case in cases):
            subject = bench.subject(case, scale.config())
            found_mask = reference_on_grid(subject)
            found_mask[np.flatnonzero(found_mask.any(axis=(1, 2)))[0]] = False
            yield subject, found_mask

    monkeypatch.setattr("normnet.experiments.supervised.predict_left_out", predict_left_out)
    monkeypatch.setattr("normnet.experiments.nnunet.predict_left_out_nnunet", predict_left_out)
    return asked


@pytest.fixture(scope="session")
def tiny_scale(tmp_path_factory):
    """A TOML file with the scale."""
    path = tmp_path_factory.mktemp("scale") / "tiny.toml"
    path.write_text(SCALE)
    return path


@pytest.fixture
def bench(data, tmp_path):
    """The CTs and a folder of their own."""
    from normnet.experiments.bench import Bench, find_data

    return Bench(find_data([data], []), tmp_path / "out")
