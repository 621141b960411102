"""Time and memory of `normnet segment` on a CT of 300 slices, and what limits each stage.

    python benchmarks/segment.py
    python benchmarks/segment.py --before ../older --rival --avx2
    python benchmarks/segment.py --device cuda

Each run is a fresh process, `python -m normnet segment CT --out FOLDER` with all defaults, timed
from its start to its end, on the same CPUs. What an option adds runs in turn with it:

- `--before FOLDER`: the same command with the source of another checkout,
- `--avx2`: the same command limited to AVX2, as on a CPU without bfloat16
  (`ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2`),
- `--rival`: a textbook MONAI pipeline (`textbook_monai.py`), which is given the lungs. It has no
  lesion networks, so normnet without these runs, too.

The share of reachable is the time that a stage would need at the measured rates over the time that
it took: its FLOPs at the rate of a matrix product, or its bytes at the rate of a copy, whichever
takes longer. `stage_work.py` says what is counted. A run itself is never counted, only timed.

`--device` measures something else: `normnet.segment` from arrays in memory to arrays in memory on
that device, in one process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SHAPE, SPACING_MM = (300, 512, 512), (1.0, 0.68, 0.68)
AVX2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
START = "start, models"  # of a process: what lies in no stage
VOTE_ALONE = "[postprocessing]\nlesion_networks = false\nlungs_vox = 0\n"


@dataclass(frozen=True)
class Variant:
    """A command that writes ``lesions`` below its output folder, and its runs.

    Attributes:
        name: For the tables.
        command: Without its output folder.
        environment: Variables beside those that all runs have.
        beside: Name of the variant with whose lesions its own are compared.
        runs: Seconds, peak memory and, where the command tells them, seconds of the stages.
    """

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    beside: str = "normnet"
    runs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return statistics.median(run["seconds"] for run in self.runs)

    @property
    def peak_gb(self) -> float:
        return max(run["peak_gb"] for run in self.runs)


def stage_medians(runs: list[dict[str, Any]], rest: str) -> dict[str, float]:
    """Median seconds of each stage of runs, and first of what lies in none, under a name."""
    named = runs[0]["stages"]
    outside = [run["seconds"] - sum(run["stages"].values()) for run in runs]
    medians = {name: statistics.median(run["stages"][name] for run in runs) for name in named}
    return {rest: statistics.median(outside)} | medians


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


def variants(args: argparse.Namespace, ct: Path, folder: Path) -> list[Variant]:
    """The command and what is compared with it, in the order in which they run."""
    given = ["--model", str(args.model)] if args.model else []
    command = [sys.executable, "-m", "normnet", "segment", str(ct), *given]
    chosen = [Variant("normnet", command)]
    if args.before:
        source = {"PYTHONPATH": str(args.before.resolve() / "src")}
        chosen.append(Variant("before", command, source))
    if args.avx2:
        chosen.append(Variant("AVX2", command, AVX2))
    if args.rival:
        settings = folder / "vote.toml"
        settings.write_text(VOTE_ALONE)
        chosen.append(Variant("vote alone", [*command, "--config", str(settings)]))
        lungs = folder / "vote alone" / "ct" / "lungs.nii.gz"
        rival = [sys.executable, str(HERE / "textbook_monai.py"), str(ct), "--lungs", str(lungs)]
        chosen.append(Variant("MONAI", [*rival, *given], beside="vote alone"))
    return chosen


def limits(threads: int) -> dict[str, str]:
    """Variables of all runs: this checkout's source, so many threads, no GPU."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
    source = {"PYTHONPATH": str(HERE.parent / "src"), "CUDA_VISIBLE_DEVICES": ""}
    return os.environ | dict.fromkeys(names, str(threads)) | source


def measure(variant: Variant, out: Path, threads: int) -> None:
    """One more run of a variant, into a new folder."""
    shutil.rmtree(out, ignore_errors=True)
    with tempfile.TemporaryFile("w+") as told:
        start = time.perf_counter()
        process = subprocess.Popen(
            [*variant.command, "--out", str(out)],
            env=limits(threads) | variant.environment,
            stdout=told,
            stderr=subprocess.STDOUT,
        )
        # The peak is that of the command, as long as this process, which it was forked from, is
        # the smaller one: so no torch and no arrays here before the last run.
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        told.seek(0)
        lines = told.read().splitlines()
    if process.returncode:
        raise SystemExit("\n".join([f"{variant.name} ended with {process.returncode}", *lines]))
    result = next(out.glob("*/result.json"), None)
    stages = json.loads(result.read_text())["seconds"] if result else json.loads(lines[-1])
    variant.runs.append(
        {"seconds": seconds, "stages": stages, "peak_gb": usage.ru_maxrss * 1024 / 1e9}
    )


def ask_work(ct: Path, args: argparse.Namespace, calls: int = 0) -> dict[str, Any]:
    """What ``stage_work.py`` tells, in a process of its own."""
    device = args.device or "cpu"
    command = [sys.executable, HERE / "stage_work.py", ct, "--device", device, "--calls", calls]
    command += ["--model", args.model] if args.model else []
    environment = limits(args.threads)
    if args.device:
        environment["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    done = subprocess.run(
        list(map(str, command)), env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def share_of_reachable(seconds: float, flop: float, n_bytes: float, work: dict[str, Any]) -> float:
    """The time that a stage needs at the measured rates over the time that it took."""
    return max(flop / work["flop_per_s"], n_bytes / work["bytes_per_s"]) / max(seconds, 1e-9)


def show_stages(seconds: dict[str, float], work: dict[str, Any]) -> None:
    """One row per stage, then what was counted."""
    tflops, gb_per_s = work["flop_per_s"] / 1e12, work["bytes_per_s"] / 1e9
    print("\n| stage | seconds | GFLOP | GB | % of reachable |\n|---|---|---|---|---|")
    for stage, taken in seconds.items():
        counted = work["stages"].get(stage)
        if counted is None:
            print(f"| {stage} | {taken:.2f} | | | |")
            continue
        flop, moved = counted["flop"], sum(counted["bytes"].values())
        share = 100 * share_of_reachable(taken, flop, moved, work)
        print(f"| {stage} | {taken:.2f} | {flop / 1e9:.0f} | {moved / 1e9:.2f} | {share:.1f} |")
    print(f"| all | {sum(seconds.values()):.2f} | | | |")
    print(
        f"\nReachable here: {1000 * tflops:.0f} GFLOP/s (matrix product, {work['precision']}), "
        f"{gb_per_s:.1f} GB/s (copy, read and written). FLOPs: convolutions, as they ran."
    )
    print("Bytes: each of these once.")
    for stage in seconds:
        if stage in work["stages"]:
            named = work["stages"][stage]["bytes"].items()
            print(f"  {stage}: " + ", ".join(f"{name} {n / 1e6:.0f} MB" for name, n in named))


def lesions_of(folder: Path) -> Path:
    """The lesion mask among results; the MONAI pipeline writes nothing else."""
    return next(folder.rglob("lesions.nii.gz"), None) or next(folder.rglob("*.nii.gz"))


def dsc_of(first: Path, second: Path) -> float:
    """DSC of the lesion masks that lie in two folders of results."""
    import numpy as np

    from normnet.evaluation.metrics import compute_overlap
    from normnet.io.read import read_stored

    masks = [np.asarray(read_stored(lesions_of(of)).voxels) > 0 for of in (first, second)]
    return compute_overlap(*masks).dsc


def show_variants(chosen: list[Variant], folder: Path) -> None:
    """Medians, ratios to the first variant, and how far the lesions agree."""
    print("\n| run | median, s | all, s | memory, GB | time beside normnet | DSC | DSC with |")
    print("|---|---|---|---|---|---|---|")
    for variant in chosen:
        ratio = variant.seconds / chosen[0].seconds
        runs = " ".join(f"{run['seconds']:.1f}" for run in variant.runs)
        dsc = dsc_of(folder / variant.name, folder / variant.beside)
        print(
            f"| {variant.name} | {variant.seconds:.2f} | {runs} | {variant.peak_gb:.2f} "
            f"| {ratio:.2f} | {dsc:.4f} | {variant.beside} |"
        )
    for variant in chosen[1:]:
        medians = stage_medians(variant.runs, START)
        stages = ", ".join(f"{name} {s:.2f}" for name, s in medians.items())
        print(f"{variant.name}, seconds of the stages: {stages}")


def show_device(told: dict[str, Any], device: str) -> None:
    """Times of calls from arrays to arrays on a device."""
    first, *later = told["calls"]
    print(f"{device} ({told['device']}), arrays in memory to arrays in memory, synchronised")
    print(f"first call {first['seconds']:.2f} s", end="")
    if later:
        all_s = [call["seconds"] for call in later]
        runs = " ".join(f"{s:.2f}" for s in all_s)
        print(f"; median of the next {len(later)}: {statistics.median(all_s):.2f} s ({runs})")
    else:
        print()
    if "allocated_gb" in told:
        print(f"GPU memory: allocated {told['allocated_gb']:.2f} GB, ", end="")
        print(f"reserved {told['reserved_gb']:.2f} GB at most")
    show_stages(stage_medians(later or [first], "check of the scan"), told)


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
    parser.add_argument("--repeat", type=int, default=5, help="runs of each; the median counts")
    parser.add_argument("--threads", type=int, default=2, help="CPUs")
    parser.add_argument("--before", type=Path, help="checkout of another commit")
    parser.add_argument("--avx2", action="store_true", help="also without bfloat16")
    parser.add_argument("--rival", action="store_true", help="also a textbook MONAI pipeline")
    parser.add_argument("--device", help="time calls in memory on cpu or cuda instead")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)  # in a child process
    args = parser.parse_args()
    if args.ct is None:
        parser.error("give --ct, or set NORMNET_DATA")
    if args.make:
        make_ct(args.ct, args.make)
        return
    if hasattr(os, "sched_setaffinity"):  # children inherit it
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: args.threads])
    size, spacing = (" x ".join(map(str, values)) for values in (SHAPE, SPACING_MM))
    print(f"{args.ct.name} on {size} voxels of {spacing} mm, {args.threads} CPUs")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ct = folder / "ct.nii.gz"
        make = [sys.executable, __file__, "--ct", str(args.ct), "--make", str(ct)]
        subprocess.run(make, env=limits(args.threads), check=True)
        if args.device:
            show_device(ask_work(ct, args, calls=1 + args.repeat), args.device)
            return
        chosen = variants(args, ct, folder)
        loads = [os.getloadavg()[0]]
        for _ in range(args.repeat):
            for variant in chosen:
                measure(variant, folder / variant.name, args.threads)
        loads.append(os.getloadavg()[0])
        work = ask_work(ct, args)
        print(f"load of the machine before and after: {loads[0]:.1f} and {loads[1]:.1f}")
        show_variants(chosen, folder)
        show_stages(stage_medians(chosen[0].runs, START), work)


if __name__ == "__main__":
    main()
