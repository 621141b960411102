"""Time and memory of `normnet segment` on a CT of 300 slices, beside a textbook MONAI pipeline.

    python benchmarks/segment.py --ct coronacases_001_ct.nii.gz --threads 2 --repeat 3

Each pipeline runs in its own process, from the start of the interpreter to the written result, on
the same CPUs, one after the other. The rival is what a user would write with MONAI: the transforms
of its spleen tutorial, the volume padded to 512 x 512, `SlidingWindowInferer` with windows of
32 x 512 x 512, half overlap and Gaussian weights in float32, the same networks, then the same
threshold, vote and post-processing. The rival gets the lung mask that normnet searched, and writes
the lesion mask alone. It has no lesion networks, so both results are compared without them.

A last run of normnet is limited to AVX2, as on a CPU without bfloat16
(`ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2`), and is compared with the fastest other one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

START = time.perf_counter()
SHAPE, SPACING_MM = (300, 512, 512), (1.0, 0.68, 0.68)
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
STAGES = (
    "imports",
    "reading",
    "model",
    "lungs",
    "preparation",
    "inference",
    "postprocessing",
    "restoring",
    "writing",
)


class Laps:
    """Seconds of each stage since the start of the process."""

    def __init__(self):
        self.seconds: dict[str, float] = {}
        self.last = START

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self.last = now - self.last, now


def make_ct(source: Path, target: Path) -> None:
    """Put the source into the middle of a grid of ``SHAPE`` and ``SPACING_MM``, with air around."""
    import numpy as np

    from normnet.io import read_ct, write_image
    from normnet.preparation.orient import Orientation
    from normnet.preparation.resample import Grid, resample
    from normnet.scan import Geometry

    scan = read_ct(source)
    orientation = Orientation.of(scan.geometry)
    turned = orientation.apply(scan.volume_hu)
    own = orientation.spacing_mm(scan.geometry)
    step = tuple(target_mm / own_mm for target_mm, own_mm in zip(SPACING_MM, own, strict=True))
    start = tuple(
        ((n - 1) - (m - 1) * d) / 2 for n, m, d in zip(turned.shape, SHAPE, step, strict=True)
    )
    volume = resample(turned.astype(np.float32), Grid(start, step, SHAPE), outside=-1024)
    write_image(target, np.rint(volume).astype(np.int16), Geometry(SPACING_MM))


def run_normnet(
    ct: Path,
    out: Path,
    model_folder: Path | None,
    lungs: Path | None,
    laps: Laps,
    vote_alone: bool = False,
) -> None:
    from normnet import load_model, read_ct, segment, write_results
    from normnet.io import read_labels

    laps.lap("imports")
    scan = read_ct(ct)
    laps.lap("reading")
    model = load_model(model_folder)
    laps.lap("model")
    config = model.config
    if vote_alone:
        alone = config.postprocessing.model_copy(update={"lesion_networks": False, "lungs_vox": 0})
        config = config.model_copy(update={"postprocessing": alone})
    found = segment(
        scan, model, config, lung_labels=None if lungs is None else read_labels(lungs, scan)
    )
    laps.seconds |= found.seconds
    laps.last = time.perf_counter()
    write_results(found, scan, out, model)
    laps.lap("writing")


def run_rival(ct: Path, out: Path, model_folder: Path | None, lungs: Path, laps: Laps) -> None:
    import torch
    from monai.data import MetaTensor
    from monai.inferers import SlidingWindowInferer
    from monai.transforms import (
        Compose,
        CopyItemsd,
        EnsureChannelFirstd,
        Invertd,
        LoadImaged,
        MaskIntensityd,
        Orientationd,
        SaveImaged,
        ScaleIntensityRanged,
        Spacingd,
        SpatialPadd,
        ThresholdIntensityd,
    )

    from normnet.models import settings_of, shipped
    from normnet.network.weights import load_members
    from normnet.postprocessing import postprocess

    laps.lap("imports")
    networks, manifest = load_members(
        model_folder or shipped("normnet"), "normnet", for_training=True
    )  # as MONAI made them
    config, _ = settings_of(manifest, Path("manifest"))
    window = config.window
    laps.lap("model")
    keys = ["image", "lungs"]
    prepare = Compose(
        [
            LoadImaged(keys),
            EnsureChannelFirstd(keys),
            CopyItemsd("image", names="hu"),
            ScaleIntensityRanged("image", window.low_hu, window.high_hu, 0.0, 1.0, clip=True),
            ThresholdIntensityd("lungs", 0.5, above=False, cval=1.0),  # right and left alike
            Orientationd([*keys, "hu"], "LPS", labels=None),
            Spacingd([*keys, "hu"], config.preparation.spacing_mm[::-1], mode="bilinear"),
            ThresholdIntensityd("lungs", 0.5, above=True),
            MaskIntensityd("image", mask_key="lungs"),
            SpatialPadd([*keys, "hu"], (512, 512, 32), method="end"),
        ]
    )
    data = prepare({"image": str(ct), "lungs": str(lungs)})
    laps.lap("reading and preparation")

    inferer = SlidingWindowInferer((512, 512, 32), sw_batch_size=1, overlap=0.5, mode="gaussian")
    n_normal = torch.zeros(data["image"].shape[1:], dtype=torch.uint8)
    with torch.inference_mode():
        for network in networks:  # trained on (z, y, x), MONAI holds (x, y, z)
            logits = inferer(
                torch.as_tensor(data["image"])[None],
                lambda part, network=network: network(part.transpose(2, 4)).transpose(2, 4),
            )
            n_normal += torch.sigmoid(logits[0, 0]) > config.inference.prob_normal
    laps.lap("inference")

    thorax, lung_mask, hu = (data[key][0].numpy().T for key in [*keys, "hu"])  # (z, y, x)
    needed = config.inference.votes_needed(len(networks))
    n_votes = n_normal.numpy().T
    steps = postprocess(
        thorax, hu, lung_mask >= 0.5, n_votes >= needed, window.tau, config.postprocessing
    )
    laps.lap("postprocessing")

    lesions = torch.from_numpy(steps.lesions.T.astype("float32"))[None]
    data["lesions"] = MetaTensor(
        lesions, meta=data["image"].meta, applied_operations=data["image"].applied_operations
    )
    data = Invertd("lesions", prepare, orig_keys="image", nearest_interp=False)(data)
    data["lesions"] = (data["lesions"] >= 0.5).to(torch.uint8)
    laps.lap("restoring")
    save = SaveImaged(
        "lesions",
        output_dir=out,
        output_postfix="",
        output_name_formatter=None,
        separate_folder=False,
        output_dtype="uint8",
        print_log=False,
        resample=False,
    )
    save(data)
    laps.lap("writing")


def child(args: argparse.Namespace) -> None:
    """One measured process; prints its stages and peak memory as the last line."""
    laps = Laps()
    if args.child == "ct":
        make_ct(args.ct, args.out)
    else:
        import torch

        torch.set_num_threads(args.threads)
        runs = {
            "normnet": run_normnet,
            "vote": partial(run_normnet, vote_alone=True),
            "rival": run_rival,
        }
        runs[args.child](args.ct, args.out, args.model, args.lungs, laps)
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"seconds": laps.seconds, "peak_gb": peak_gb}))


def measure(
    what: str,
    args: argparse.Namespace,
    ct: Path,
    out: Path,
    lungs: Path | None,
    instructions: dict[str, str] | None = None,
) -> dict:
    """Run one child on ``--threads`` CPUs; wall time from start to end of the process.

    ``instructions`` are variables of the environment that limit what the CPU may do.
    """
    command = [
        sys.executable,
        __file__,
        "--child",
        what,
        "--ct",
        ct,
        "--out",
        out,
        "--threads",
        args.threads,
    ]
    command += ["--model", args.model] if args.model else []
    command += ["--lungs", lungs] if lungs else []
    threads = str(args.threads)
    limits = dict.fromkeys(
        ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"), threads
    )
    start = time.perf_counter()
    done = subprocess.run(
        list(map(str, command)),
        env=os.environ | limits | (instructions or {}),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    wall = time.perf_counter() - start
    return json.loads(done.stdout.splitlines()[-1]) | {"wall": wall}


def compare(first: Path, second: Path, lungs: Path) -> tuple[float, list[float], str]:
    """DSC of two lesion masks, the millilitres of each, and the box of the lungs."""
    import numpy as np

    from normnet.evaluation.metrics import compute_overlap
    from normnet.filters import bounding_box
    from normnet.io.read import read_stored

    masks = [np.asarray(read_stored(path).voxels) > 0 for path in (first, second)]
    ml = [float(mask.sum()) * float(np.prod(SPACING_MM)) / 1000 for mask in masks]
    sides = [
        part.stop - part.start
        for part in bounding_box(np.asarray(read_stored(lungs).voxels) > 0, 0)
    ]
    mm = [n * s for n, s in zip(sides, SPACING_MM, strict=True)]
    box = f"{' x '.join(map(str, sides))} voxels, {' x '.join(f'{v:.0f}' for v in mm)} mm"
    return compute_overlap(*masks).dsc, ml, box


def show(name: str, runs: list[dict]) -> dict:
    """Print the stages of the fastest run; return that run."""
    best = min(runs, key=lambda run: run["wall"])
    walls = ", ".join(f"{run['wall']:.1f}" for run in runs)
    print(f"\n{name}: {best['wall']:.1f} s from reading to writing (runs: {walls})")
    print(f"  peak memory {best['peak_gb']:.2f} GB")
    for stage, seconds in best["seconds"].items():
        print(f"  {stage:24} {seconds:7.1f} s")
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    data = os.environ.get("NORMNET_DATA")
    default = Path(data) / "covid_dev" / "coronacases_001_ct.nii.gz" if data else None
    parser.add_argument(
        "--ct",
        type=Path,
        default=default,
        help="CT to put on the 512 x 512 grid (default: in NORMNET_DATA)",
    )
    parser.add_argument("--model", type=Path, help="model folder (default: the shipped one)")
    parser.add_argument("--repeat", type=int, default=1, help="runs of each; the fastest counts")
    parser.add_argument("--threads", type=int, default=2, help="CPUs")
    parser.add_argument("--lungs", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    parser.add_argument(
        "--child", choices=("ct", "normnet", "vote", "rival"), help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    if args.child:
        child(args)
        return
    if args.ct is None:
        parser.error("give --ct, or set NORMNET_DATA")
    if hasattr(os, "sched_setaffinity"):  # children inherit it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    with tempfile.TemporaryDirectory() as folder:
        ct, ours, theirs = (
            Path(folder) / "ct.nii.gz",
            Path(folder) / "normnet",
            Path(folder) / "rival",
        )
        measure("ct", args, args.ct, ct, None)
        runs: dict[str, list[dict]] = {"normnet": [], "rival": []}
        same = Path(folder) / "vote"  # its lungs are those that were searched
        vote = measure("vote", args, ct, same, None)
        for _ in range(args.repeat):
            runs["normnet"].append(measure("normnet", args, ct, ours, None))
            runs["rival"].append(measure("rival", args, ct, theirs, same / "lungs.nii.gz"))
        old = Path(folder) / "avx2"
        limited = measure("normnet", args, ct, old, None, AVX2)
        dsc_old = compare(ours / "lesions.nii.gz", old / "lesions.nii.gz", ours / "lungs.nii.gz")[0]
        lesions = next(theirs.glob("*.nii.gz"))
        dsc, ml, box = compare(same / "lesions.nii.gz", lesions, same / "lungs.nii.gz")

    size, spacing = (" x ".join(map(str, values)) for values in (SHAPE, SPACING_MM))
    print(f"{args.ct.name} on {size} voxels of {spacing} mm, {args.threads} CPUs")
    print(f"lung box {box}")
    best, rival = show("normnet", runs["normnet"]), show("textbook MONAI", runs["rival"])
    lungs = best["seconds"]["lungs"]
    ratio, ratio_alone = rival["wall"] / best["wall"], rival["wall"] / vote["wall"]
    ratio_with_lungs = (rival["wall"] + lungs) / best["wall"]
    print(f"\nratio of wall times {ratio:.1f} (the rival gets the lung mask)")
    print(f"ratio with {lungs:.1f} s for the mask added to the rival {ratio_with_lungs:.1f}")
    print(f"without lesion networks, as the rival: {vote['wall']:.1f} s, ratio {ratio_alone:.1f}")
    print(
        f"limited to AVX2: {limited['wall']:.1f} s, ratio {limited['wall'] / best['wall']:.1f}, "
        f"inference {limited['seconds']['inference'] / best['seconds']['inference']:.1f}, "
        f"DSC {dsc_old:.4f}"
    )
    print(f"lesions {ml[0]:.1f} and {ml[1]:.1f} ml, DSC between both {dsc:.4f}")


if __name__ == "__main__":
    main()
