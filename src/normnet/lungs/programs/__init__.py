"""Programs that can find the lungs: one file per program, which defines its ``PROGRAM``.

A file that is added to this folder needs no other change.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from normnet.errors import ModelError
from normnet.lungs.external import ExternalLungs, Program
from normnet.network.weights import MANIFEST


def all_programs() -> list[Program]:
    """The programs of this folder, by the names of their files."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
    return [module.PROGRAM for module in modules]


def find_external(path: Path) -> ExternalLungs | None:
    """The model of another program that lies at a path.

    Args:
        path: A folder or a file.

    Returns:
        None where nothing lies, for a model folder of normnet, and for a folder that no program
        recognises.

    Raises:
        ModelError: NN-EXT-001 for a file that no program recognises, 002 for a model of a known
            program that cannot be used.
    """
    if (path / MANIFEST).is_file():
        return None
    programs = all_programs()
    found = (program.recognise(path) for program in programs)
    model = next((model for model in found if model is not None), None)
    if model is None and path.is_file():
        names = " or ".join(program.name for program in programs)
        todo = "give lungmask's .pth, or the folder of a lung model"
        raise ModelError("NN-EXT-001", f"not a lung model of {names}", path.name, todo)
    return model
