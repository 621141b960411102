"""A tiny untrained model, phantoms on disk, and the phantoms' lungs in place of learned ones."""

import pytest

from tests.phantoms import phantom_lungs

SHAPE, SPACING_MM = (32, 64, 64), (5.0, 5.0, 5.0)


@pytest.fixture(autouse=True)
def phantom_lungs_everywhere(monkeypatch):
    from normnet.lungs.learned import Lungs

    def both(*arguments):
        return Lungs(phantom_lungs(*arguments[:4]), None)

    monkeypatch.setattr("normnet.pipeline.find_lungs", both)
    for place in ("lungs.learned", "training.normals"):
        monkeypatch.setattr(f"normnet.{place}.segment_lungs", phantom_lungs)


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """Folders of an ensemble of two, a lung network and a lesion network, with random weights."""
    import torch

    from normnet.config import Config, NetworkConfig, PreparationConfig, TrainingConfig
    from normnet.network.unet import build_unet
    from normnet.network.weights import save_model, split_settings
    from normnet.training.lungs.segmenter import lung_network

    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    network = NetworkConfig(channels=(4, 8), n_res_units=1)
    config = Config(network=network, preparation=PreparationConfig(spacing_mm=(5, 5, 5)))
    members = {f"member-{n}": build_unet(network).state_dict() for n in (1, 2)}
    save_model(
        root / "ensemble",
        members,
        "normnet",
        network,
        {"name": "tiny", **split_settings(config.model_dump())},
    )
    flat = lung_network(config.lungs, config.lungs_training).model_copy(update={"channels": (4, 8)})
    save_model(
        root / "lungs",
        {"member-1": build_unet(flat).state_dict()},
        "lungs",
        flat,
        {"name": "tiny lungs"},
    )
    lesions = config.model_copy(update={"training": TrainingConfig(target="disease")})
    state = {"member-1": build_unet(network).state_dict()}
    card = {"name": "tiny lesions", **split_settings(lesions.model_dump())}
    save_model(root / "lesions", state, "lesions", network, card)
    return root / "ensemble", root / "lungs", root / "lesions"


@pytest.fixture
def scans(tmp_path):
    """A folder of two CTs and a lesion mask, and one DICOM series beside it."""
    from normnet.io.formats.nifti import write_image
    from tests.phantoms import thorax_phantom, write_dicom, write_nifti

    folder = tmp_path / "scans"
    folder.mkdir()
    for n, name in enumerate("ab"):
        phantom = thorax_phantom(SHAPE, SPACING_MM, seed=n)
        write_nifti(phantom.scan, folder / f"{name}.nii.gz")
    write_image(folder / "a_lesion.nii.gz", phantom.lesion_mask, phantom.scan.geometry)
    write_image(tmp_path / "a_lungs.nii.gz", phantom.lung_mask, phantom.scan.geometry)
    write_dicom(phantom.scan, tmp_path / "series")
    return folder


@pytest.fixture
def segment(tiny_models, tmp_path):
    """Run ``normnet segment`` with the tiny model into ``out``."""
    from normnet.cli.main import main

    def run(*arguments: object, out: str = "out") -> int:
        options = (
            "--model",
            tiny_models[0],
            "--lung-model",
            tiny_models[1],
            "--lesion-model",
            tiny_models[2],
            "--device",
            "cpu",
            "--out",
            tmp_path / out,
        )
        return main([str(a) for a in ("segment", *arguments, *options)])

    return run
