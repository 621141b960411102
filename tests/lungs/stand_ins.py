"""Commands with the arguments of lungmask 0.2.22 and nnunetv2 2.8.1 that find a phantom's lungs by their HU."""

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
    parser.add_argument("--modelname", choices=["R231", "LTRCLobes", "LTRCLobes_R231", "R231CovidWeb"], default="R231")
    parser.add_argument("--modelpath")
    parser.add_argument("--batchsize", type=int, default=20)
    for flag in ("--cpu", "--nopostprocess", "--noprogress", "--removemetadata"):
        parser.add_argument(flag, action="store_true")
    asked = parser.parse_args()
    image, result = Path(asked.input), Path(asked.output)
    assert Path(asked.modelpath).is_file()
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
    for flag in ("--disable_tta", "--verbose", "--save_probabilities", "--disable_progress_bar", "--not_on_device"):
        parser.add_argument(flag, action="store_true")
    asked = parser.parse_args()
    (image,) = Path(asked.i).glob("*_0000.nii.gz")
    result = Path(asked.o, image.name.replace("_0000", ""))
    for fold in asked.f:
        assert Path(asked.m, f"fold_{{fold}}", asked.chk).is_file()
    Path(asked.o, "plans.json").write_text("{{}}")

stored = nibabel.load(image)
hu = np.asarray(stored.dataobj)
log = {{**vars(asked), "image": str(image), "mode": oct(Path(os.environ["TMPDIR"]).stat().st_mode), "hu": int(hu.sum()),
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
x, y, z = (c.reshape(hu.shape) for c in (stored.affine @ np.stack([*(i.ravel() for i in np.indices(hu.shape)),
                                                                   np.ones(hu.size)]))[:3])
labels = {{
    "one": lungs * 1,
    "sides": lungs * np.where(x > 0, 1, 2),
    "mirrored": lungs * np.where(x > 0, 2, 1),
    "lobes": lungs * np.where(x > 0, np.where(z > 20, 3, np.where(z > -20, 4, 5)), np.where(z > 0, 1, 2)),
    "organs": lungs * np.where(x > 0, 7, 8) + (hu > 300),
    "finds nothing": lungs * 0,
    "other grid": (lungs * 1)[::2],
    "fractions": lungs * 0.5,
}}.get(kind)
if labels is not None:
    kept = np.float32 if kind == "fractions" else np.uint8
    nibabel.save(nibabel.Nifti1Image(labels.astype(kept), stored.affine), result)
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
