"""What each stage of a segmentation must compute and move, beside what the machine can reach.

    python benchmarks/stage_work.py CT --device cpu --calls 6

`benchmarks/segment.py` starts this script and prints its numbers as a table; alone it prints JSON.

- FLOPs are those of the convolutions, counted by torch while they run, so with the shapes that ran:
  a multiplication and an addition are two.
- Bytes are those that a stage cannot avoid: each array that it is given read once, each array that
  it returns written once. What it keeps in between is not counted.
- The reachable rates are measured here: a product of two matrices in the type that the networks
  compute in, and a copy of an array that is larger than every cache.

`--calls N` also times `normnet.segment` from arrays in memory to arrays in memory, synchronised,
before anything is counted.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

import normnet
from normnet.findings import Findings
from normnet.inference.precision import choose_precision
from normnet.lungs.learned import Lungs
from normnet.models import Model
from normnet.preparation.prepare import Prepared, prepare
from normnet.scan import Scan

MEASURED_S = 1.5  # per rate; the fastest time counts
COPY_MB = 512
MATRIX = {"cpu": 2048, "cuda": 8192}  # rows and columns


def matmul_rate(device: str, precision: str) -> float:
    """FLOPs per second of the product of two square matrices of this type."""
    n = MATRIX.get(torch.device(device).type, 2048)
    kind = getattr(torch, precision)
    left, right = (torch.rand(n, n, device=device).to(kind) for _ in range(2))
    product = torch.empty_like(left)
    return 2 * n**3 / fastest(lambda: torch.mm(left, right, out=product), device)


def copy_rate(device: str) -> float:
    """Bytes per second of a copy; each byte is read once and written once."""
    source = torch.ones(COPY_MB * 2**20 // 4, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return 2 * source.nbytes / fastest(lambda: target.copy_(source), device)


def fastest(work: Callable[[], object], device: str) -> float:
    """Seconds of the fastest of many calls, synchronised."""
    best, stop = float("inf"), time.perf_counter() + MEASURED_S
    while time.perf_counter() < stop:
        best = min(best, timed(work, device)[0])
    return best


def timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    """Seconds until the device has done the work, and what it returned."""
    synchronize(device)
    start = time.perf_counter()
    done = work()
    synchronize(device)
    return time.perf_counter() - start, done


def synchronize(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)


class StageFlops:
    """FLOPs of the convolutions that run in the block, by the stage that reports its progress."""

    def __init__(self):
        self.counter = FlopCounterMode(display=False)
        self.of_stage: dict[str, int] = {}
        self.so_far = 0

    def __enter__(self) -> StageFlops:
        self.counter.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.counter.__exit__(*error)

    def report(self, stage: str, done: int = 1, total: int = 1) -> None:
        """All since the last report belongs to this stage; fits ``on_progress`` of ``segment``."""
        now = self.counter.get_total_flops()
        self.of_stage[stage] = self.of_stage.get(stage, 0) + now - self.so_far
        self.so_far = now


def stage_bytes(
    ct: Path,
    scan: Scan,
    lungs: Lungs,
    prepared: Prepared,
    findings: Findings,
    found: normnet.Segmentation,
    written: Path,
) -> dict[str, dict[str, int]]:
    """Bytes that each stage must move, by the name of what it reads or writes."""
    steps, votes = findings.steps, findings.votes
    in_box = {
        "HU in the lungs' box": prepared.cut(scan.volume_hu),
        "lungs in it": prepared.cut(lungs.labels),
    }
    grid = {
        "thorax": prepared.thorax,
        "prepared HU": prepared.volume_hu,
        "prepared lungs": prepared.lung_mask,
    }
    answers = {"votes": votes.n_normal, "prob_lesion": findings.prob_lesion}
    results = {
        "lesion mask": found.lesion_mask,
        "lungs": found.lung_labels,
        "anomaly": found.anomaly_codes,
        "votes of the scan": found.n_votes_normal,
    }
    possible = None if lungs.possible is None else prepared.cut(lungs.possible)
    arrays: dict[str, dict[str, np.ndarray | Path | None]] = {
        "reading": {"CT file": ct, "HU": scan.volume_hu},
        "lungs": {"HU": scan.volume_hu, "lungs": lungs.labels, "possible lungs": lungs.possible},
        "preparation": {**in_box, **grid},
        "inference": {**grid, **answers, "prob_normal": votes.prob_normal},
        "postprocessing": {**grid, **answers, **steps._asdict()},
        "restoring": {
            **in_box,
            "possible lungs in it": possible,
            **answers,
            "prob_normal": votes.prob_normal,
            "lesions": steps.lesions,
            "edges": steps.edges,
            **results,
        },
        "writing": {**results, "result files": written},
    }
    return {
        stage: {name: n for name, of in named.items() if (n := n_bytes(of))}
        for stage, named in arrays.items()
    }


def n_bytes(of: object) -> int:
    """Size of an array, of a file, or of all files of a folder; 0 for anything else."""
    if isinstance(of, np.ndarray):
        return of.nbytes
    if isinstance(of, Path):
        files = of.rglob("*") if of.is_dir() else [of]
        return sum(file.stat().st_size for file in files if file.is_file())
    return 0


def count_work(ct: Path, scan: Scan, model: Model, device: str) -> dict[str, dict[str, Any]]:
    """FLOPs of the convolutions and bytes of each stage, of one segmentation that is not timed."""
    kept: dict[str, Any] = {}

    def keep(lungs: Lungs, findings: Findings) -> None:
        kept.update(lungs=lungs, findings=findings)

    with StageFlops() as flops:
        found = normnet.segment(
            scan, model, device=device, on_progress=flops.report, on_findings=keep
        )
    config = model.config
    prepared = prepare(scan, kept["lungs"].labels, config.preparation, config.window, device)
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "result"
        normnet.write_results(found, scan, written, model)
        moved = stage_bytes(ct, scan, prepared=prepared, found=found, written=written, **kept)
    return {
        stage: {"flop": flops.of_stage.get(stage, 0), "bytes": counted}
        for stage, counted in moved.items()
    }


def time_calls(scan: Scan, model: Model, device: str, n: int) -> dict[str, Any]:
    """Calls of ``segment`` with the scan in memory: seconds of each, its stages, GPU memory."""
    gpu = torch.device(device).type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats(device)
    calls = []
    for _ in range(n):
        seconds, found = timed(lambda: normnet.segment(scan, model, device=device), device)
        calls.append({"seconds": seconds, "stages": found.seconds})
    if not gpu:
        return {"calls": calls}
    peaks = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    names = ("allocated_gb", "reserved_gb")
    return {"calls": calls} | {name: n / 1e9 for name, n in zip(names, peaks, strict=True)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("ct", type=Path)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--model", type=Path, help="model folder (default: the shipped one)")
    parser.add_argument("--calls", type=int, default=0, help="timed calls of segment")
    args = parser.parse_args()
    scan, model = normnet.read_ct(args.ct), normnet.load_model(args.model)
    calls = time_calls(scan, model, args.device, args.calls)
    precision = choose_precision(args.device)
    is_gpu = torch.device(args.device).type == "cuda"
    told = {
        "source": str(Path(normnet.__file__).parent),
        "device": torch.cuda.get_device_name(args.device) if is_gpu else "CPU",
        "precision": precision,
        "flop_per_s": matmul_rate(args.device, precision),
        "bytes_per_s": copy_rate(args.device),
        "stages": count_work(args.ct, scan, model, args.device),
    }
    print(json.dumps(told | calls))


if __name__ == "__main__":
    main()
