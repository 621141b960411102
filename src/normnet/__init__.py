"""normnet: label-free lesion segmentation in lung CT. Research use only, not a medical device.

    >>> import normnet
    >>> scan = normnet.read_ct("ct.nii.gz")
    >>> model = normnet.load_model()
    >>> found = normnet.segment(scan, model)
    >>> normnet.write_results(found, scan, "results/ct", model)

The public names, each loaded when it is first used:

- ``read_ct``: a DICOM folder, NIfTI, NRRD or MetaImage file as a ``Scan``.
- ``Scan``: a volume in HU with its geometry and the name the user gave it.
- ``Geometry``: spacing, origin and direction of a volume, all in (z, y, x) order.
- ``load_model``: the shipped ensemble and lung networks, or those of your own folders.
- ``Model``: loaded networks with their settings and manifests.
- ``segment``: find the lesions of a scan.
- ``Segmentation``: lesions, lungs, anomaly, votes and volumes on the scan's own grid.
- ``write_results``: a folder with masks, ``preview.png`` and ``result.json``.
- ``load_config``: settings by name (``"default"``, ``"paper"``) or from a TOML file.
- ``Config``: the settings of every stage.
- ``NormNetError``: base of everything normnet raises on purpose; ``str()`` is one line with an id.
"""

from normnet.version import __version__

# Nothing else is imported here: Ctrl-C is handled from the first line of ``__main__.py`` on.
TYPE_CHECKING = False  # type checkers take it for True

__all__ = [
    "Config",
    "Geometry",
    "Model",
    "NormNetError",
    "Scan",
    "Segmentation",
    "__version__",
    "load_config",
    "load_model",
    "read_ct",
    "segment",
    "write_results",
]

_HOMES = {
    "Config": "config",
    "Geometry": "scan",
    "Model": "models",
    "NormNetError": "errors",
    "Scan": "scan",
    "Segmentation": "pipeline",
    "load_config": "config",
    "load_model": "models",
    "read_ct": "io.read",
    "segment": "pipeline",
    "write_results": "results.folder",
}

if TYPE_CHECKING:
    from typing import Any

    from normnet.config import Config, load_config
    from normnet.errors import NormNetError
    from normnet.io.read import read_ct
    from normnet.models import Model, load_model
    from normnet.pipeline import Segmentation, segment
    from normnet.results.folder import write_results
    from normnet.scan import Geometry, Scan


def __getattr__(name: str) -> "Any":
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module 'normnet' has no attribute '{name}'")
    value = getattr(import_module(f"normnet.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
