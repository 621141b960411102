"""The picture sheet of `normnet synthesize`."""

from __future__ import annotations

import numpy as np
import pytest

from normnet.config import Config, SynthesisConfig
from normnet.errors import InputError
from normnet.report.synthesis_sheet import NORMAL, draw_sheet
from tests.training.test_slabs import make_case

CONFIG = Config(synthesis=SynthesisConfig(axes_medium_vox=(5, 12), axes_large_vox=(12, 20)))


def test_a_sheet_shows_lesions_and_target():
    case = make_case(shape=(36, 80, 96))
    sheet = draw_sheet(case, CONFIG, seed=1)
    assert sheet.mode == "RGB"
    assert sheet.width == 1840
    pixels = np.asarray(sheet)
    assert (pixels == NORMAL).all(-1).sum() > 1000
    np.testing.assert_array_equal(pixels, np.asarray(draw_sheet(case, CONFIG, seed=1)))
    assert sheet.tobytes() != draw_sheet(case, CONFIG, seed=2).tobytes()


def test_few_slices_are_enough():
    assert draw_sheet(make_case(shape=(6, 40, 48)), CONFIG, seed=0).height > 600


def test_no_lung_and_no_lesion_are_named():
    case = make_case()
    none = CONFIG.model_copy(
        update={"synthesis": SynthesisConfig(n_small=(0, 0), n_medium=(0, 0), prob_large=0)}
    )
    with pytest.raises(InputError, match="NN-SYN-002"):
        draw_sheet(case, none, seed=0)
    case.usable[:] = False
    with pytest.raises(InputError, match="NN-SYN-001"):
        draw_sheet(case, CONFIG, seed=0)
