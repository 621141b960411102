"""Stand-ins for lungmask 0.2.22 and nnunetv2 2.8.1: they find a phantom's lungs by their HU."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np

from normnet.lungs.programs import all_programs

SCRIPT = """#!{python}
import argparse, json, os, subprocess, sys, time
from pathlib import Path

import nibabel
import numpy as np

parser = argparse.ArgumentParser()
if Path(sys.argv[0]).name == "lungmask":
    parser.add_argument("input")
    parser.add_argument("output")
    names = ["R231", "LTRCLobes", "LTRCLobes_R231", "R231CovidWeb"]
    parser.add_argument("--modelname", choices=names, default="R231")
    parser.add_argument("--modelpath")
    parser.add_argument("--batchsize", type=int, default=20)
    for flag in ("--cpu", "--nopostprocess", "--noprogress", "--removemetadata"):
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args()
    image, result = Path(given.input), Path(given.output)
    assert Path(given.modelpath).is_file()
else:
    for option in ("-i", "-o", "-m"):
        parser.add_argument(option, required=True)
    parser.add_argument("-f", nargs="+", default=(0, 1, 2, 3, 4))
    parser.add_argument("-step_size", type=float, default=0.5)
    parser.add_argument("-chk", default="checkpoint_final.pth")
    parser.add_argument("-npp", type=int, default=3)
    parser.add_argument("-nps", type=int, default=3)
    parser.add_argument("-prev_stage_predictions")
    parser.add_argument("-device", choices=["cpu", "cuda", "mps"], default="cuda")
    for flag in ("--disable_tta", "--verbose", "--save_probabilities", "--disable_progress_bar",
                 "--not_on_device"):
        parser.add_argument(flag, action="store_true")
    given = parser.parse_args()
    (image,) = Path(given.i).glob("*_0000.nii.gz")
    result = Path(given.o, image.name.replace("_0000", ""))
    for fold in given.f:
        assert Path(given.m, f"fold_{{fold}}", given.chk).is_file()
    Path(given.o, "plans.json").write_text("{{}}")

stored = nibabel.load(image)
hu = np.asarray(stored.dataobj)
mode = oct(Path(os.environ["TMPDIR"]).stat().st_mode)
log = {{**vars(given), "image": str(image), "mode": mode, "hu": int(hu.sum()),
       "environment": dict(os.environ)}}
Path(os.environ["STAND_IN_LOG"]).write_text(json.dumps(log))

kind = os.environ["STAND_IN"]
print("working hard")
if kind == "fails":
    raise RuntimeError("no room for /home/someone/model/ct_0000.nii.gz")
if kind == "is killed":
    os.kill(os.getpid(), 9)
if kind == "hangs":
    child = subprocess.Popen(["sleep", "600"])
    Path(os.environ["STAND_IN_LOG"]).write_text(str(child.pid))
    time.sleep(600)
lungs = (hu > -950) & (hu < -700)
voxels = np.stack([*(i.ravel() for i in np.indices(hu.shape)), np.ones(hu.size)])
x, y, z = (c.reshape(hu.shape) for c in (stored.affine @ voxels)[:3])
left_lobes, right_lobes = np.where(z > 0, 1, 2), np.where(z > 20, 3, np.where(z > -20, 4, 5))
labels = {{
    "one": lungs * 1,
    "sides": lungs * np.where(x > 0, 1, 2),
    "mirrored": lungs * np.where(x > 0, 2, 1),
    "lobes": lungs * np.where(x > 0, right_lobes, left_lobes),
    "organs": lungs * np.where(x > 0, 7, 8) + (hu > 300),
    "finds nothing": lungs * 0,
    "other grid": (lungs * 1)[::2],
    "fractions": lungs * 0.5,
}}.get(kind)
if labels is not None:
    dtype = np.float32 if kind == "fractions" else np.uint8
    nibabel.save(nibabel.Nifti1Image(labels.astype(dtype), stored.affine), result)
"""


class StandIns:
    """Both commands at the front of the PATH.

    Args:
        folder: Where they are written.
        monkeypatch: Sets the environment.
    """

    def __init__(self, folder: Path, monkeypatch):
        self.folder, self.monkeypatch, self.log_file = (
            folder / "bin",
            monkeypatch,
            folder / "call.json",
        )
        self.folder.mkdir()
        for name in (program.command for program in all_programs()):
            (self.folder / name).write_text(SCRIPT.format(python=sys.executable))
            (self.folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(self.folder), prepend=os.pathsep)
        monkeypatch.setenv("STAND_IN_LOG", str(self.log_file))

    def behave(self, kind: str) -> None:
        self.monkeypatch.setenv("STAND_IN", kind)

    def uninstall(self) -> None:
        self.monkeypatch.setenv("PATH", "/nowhere")

    def call(self) -> dict:
        return json.loads(self.log_file.read_text())


def write_lungmask(path: Path, n_classes: int = 3, value: float = 0.0) -> Path:
    """A file of weights as lungmask reads it, without most of the weights."""
    import torch

    torch.save(
        {"last.weight": torch.zeros(n_classes, 2), "last.bias": torch.full((n_classes,), value)},
        path,
    )
    return path


def write_nnunet(
    folder: Path,
    labels: dict | None = None,
    files: tuple[str, ...] = ("fold_0/checkpoint_final.pth",),
):
    """A trained model's folder without a network."""
    folder.mkdir(parents=True)
    dataset = {
        "channel_names": {"0": "CT"},
        "labels": labels or {"background": 0, "lung": 1},
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(dataset))
    (folder / "plans.json").write_text(json.dumps({"dataset_name": "Dataset007_Lung"}))
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_bytes(np.random.default_rng(0).bytes(100))
    return folder
