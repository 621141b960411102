"""lungmask 0.2.22: a file of weights, with or without lobes (doi:10.1186/s41747-020-00173-2)."""

from __future__ import annotations

from pathlib import Path

from normnet.lungs.external import EITHER, LEFT, RIGHT, ExternalLungs, Program, hash_file

# By the number of classes, background included, as the section "Semantics of output" of lungmask's
# README describes them.
SIDES = {3: {1: RIGHT, 2: LEFT}, 6: {1: LEFT, 2: LEFT, 3: RIGHT, 4: RIGHT, 5: RIGHT}}


def _recognise(path: Path) -> ExternalLungs | None:
    """A file that holds lungmask's weights."""
    if not path.is_file():
        return None
    import torch

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)  # runs no code of the file
        n_classes = len(state["last.bias"])  # lungmask counts its classes in the same place
    except Exception:  # torch raises many kinds; all mean that the file holds something else
        return None
    sides = SIDES.get(n_classes, dict.fromkeys(range(1, n_classes), EITHER))
    manifest = {
        "kind": "lungmask",
        "name": f"lungmask {path.name}",
        "files": {path.name: hash_file(path)},
    }
    return ExternalLungs(PROGRAM, path, sides, manifest)


def _arguments(external: ExternalLungs, image: Path, result: Path, device: str) -> list[str]:
    """Arguments of ``lungmask``; without ``--cpu`` it takes the GPU."""
    model = str(external.path.absolute())
    cpu = ["--cpu"] if device.partition(":")[0] == "cpu" else []
    return [str(image), str(result), "--modelpath", model, "--noprogress", *cpu]


PROGRAM = Program("lungmask", "lungmask", "lungmask", _recognise, _arguments)
