"""Stand-ins, so that a refused or accepted input costs a fraction of a second."""

import numpy as np
import pytest

from tests.cli.conftest import tiny_models  # noqa: F401 - a fixture of this folder, too
from tests.robustness import inputs


def lungs_by_density(scan, *_):
    """In place of ``find_lungs``: what has the density of lung, and what lies inside of it."""
    from scipy.ndimage import binary_fill_holes

    from normnet.lungs.learned import Lungs

    affine = scan.geometry.affine
    grid = np.indices(scan.shape).reshape(3, -1)
    x_mm = (affine[2, :3] @ grid + affine[2, 3]).reshape(scan.shape)
    inside = binary_fill_holes((scan.volume_hu > -920) & (scan.volume_hu < -300))
    return Lungs(np.where(inside, np.where(x_mm > 0, 2, 1), 0).astype(np.uint8), None)


@pytest.fixture(scope="session")
def libraries():
    """Import what is slow to import, before the time limit of the first row begins."""
    import normnet.pipeline  # noqa: F401
    from normnet.models import load_lungs

    load_lungs()


@pytest.fixture(scope="session")
def segment(tiny_models):  # noqa: F811
    """Run a command, with stand-ins for the models that are not given."""
    from normnet.cli.main import main

    def run(arguments, out, shipped_lungs=False):
        options = dict(zip(("--model", "--lung-model", "--lesion-model"), tiny_models, strict=True))
        options |= {"--device": "cpu", "--out": out}
        if shipped_lungs:
            del options["--lung-model"]
        if arguments[0] == "prepare":
            del options["--model"], options["--lesion-model"], options["--device"]
        given = [str(part) for name, value in options.items() for part in (name, value)
                 if name not in arguments]  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            if not shipped_lungs:
                patch.setattr("normnet.pipeline.find_lungs", lungs_by_density)
            return main([*arguments, *given])

    return run


@pytest.fixture(scope="session")
def plain(segment, tmp_path_factory):
    """The phantom as a good CT, ``ct.nii.gz``, and its result beside it in ``out``."""
    folder = tmp_path_factory.mktemp("plain")
    path = inputs.stored((0, 1, 2), (False, False, False))(folder)
    assert segment(["segment", str(path)], folder / "out") == 0
    return path
