"""What `benchmarks/segment.py` counts, against counts by hand, and what it prints."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import segment as benchmark
from benchmarks.stage_work import StageFlops, count_work, n_bytes, time_calls

from normnet.cli.settings import override_config
from normnet.config import load_config
from normnet.io import write_image
from normnet.scan import Geometry
from tests.phantoms import thorax_phantom
from tests.test_device import make_model

WRITER = """
import json, pathlib, sys
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1]) / "ct"
out.mkdir(parents=True)
(out / "result.json").write_text(json.dumps({"seconds": {"reading": 0.25, "lungs": 0.5}}))
"""
WORK = {
    "flop_per_s": 100e9,
    "bytes_per_s": 10e9,
    "precision": "bfloat16",
    "stages": {
        "reading": {"flop": 0, "bytes": {"CT file": 1_000_000_000, "HU": 1_000_000_000}},
        "lungs": {"flop": 200e9, "bytes": {"HU": 1_000_000_000}},
    },
}


def test_flops_of_stages():
    """A multiplication and an addition are two; each report takes what ran since the last."""
    flat, up = torch.nn.Conv2d(3, 4, 5, padding=2), torch.nn.ConvTranspose3d(2, 6, 3, stride=2)
    with torch.inference_mode(), StageFlops() as flops:
        flat(torch.zeros(2, 3, 8, 10))
        flops.report("lungs")
        up(torch.zeros(1, 2, 4, 4, 4))
        flops.report("inference", 1, 2)
        up(torch.zeros(1, 2, 4, 4, 4))
        flops.report("inference", 2, 2)
    every_output = 2 * (3 * 5 * 5)
    every_input = 2 * (6 * 3 * 3 * 3)
    assert flops.of_stage == {
        "lungs": 2 * 4 * 8 * 10 * every_output,
        "inference": 2 * (2 * 4 * 4 * 4) * every_input,
    }


def test_work_of_a_phantom(tmp_path):
    """FLOPs are those that hooks on the layers see; bytes are those of arrays and files."""
    scan, model = thorax_phantom().scan, make_model()
    ct = tmp_path / "ct.nii.gz"
    write_image(ct, scan.volume_hu, scan.geometry)
    counted: dict[str, float] = {"lungs": 0, "inference": 0}

    def watch(stage):
        def hook(layer, given, result):
            of = given[0] if layer.transposed else result
            n = layer.out_channels if layer.transposed else layer.in_channels
            counted[stage] += 2 * of.numel() * n * math.prod(layer.kernel_size)

        return hook

    for part, stage in (
        (model.ensemble, "inference"),
        (model.lungs, "lungs"),
        (model.lesions, "inference"),
    ):
        for network in part.networks:
            for layer in network.modules():
                if hasattr(layer, "transposed"):
                    layer.register_forward_hook(watch(stage))
    work = count_work(ct, scan, model, "cpu")

    assert list(work) == [
        *("reading", "lungs", "preparation", "inference"),
        *("postprocessing", "restoring", "writing"),
    ]
    assert work["inference"]["flop"] == counted["inference"] > 0
    # the filter that looks for the spine is a convolution, too
    assert work["lungs"]["flop"] > counted["lungs"] > 0
    assert sum(work[stage]["flop"] for stage in ("reading", "preparation", "postprocessing")) == 0
    n_vox = scan.volume_hu.size
    assert work["reading"]["bytes"] == {"CT file": ct.stat().st_size, "HU": 2 * n_vox}
    assert work["lungs"]["bytes"]["lungs"] == n_vox
    written = work["writing"]["bytes"]
    assert sum(n for name, n in written.items() if name != "result files") == 4 * n_vox
    assert 0 < written["result files"] < 4 * n_vox
    on_grid = work["inference"]["bytes"]["prepared lungs"]
    assert work["inference"]["bytes"]["thorax"] == 4 * on_grid
    assert work["inference"]["bytes"]["prob_normal"] == 2 * on_grid


def test_bytes(tmp_path):
    """Of an array as it is seen, of a file, of a folder; nothing where there is nothing."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "one").write_bytes(bytes(7))
    (tmp_path / "two").write_bytes(bytes(5))
    assert n_bytes(np.zeros((4, 6), np.int16)[::2]) == 24
    assert n_bytes(tmp_path / "two") == 5
    assert n_bytes(tmp_path) == 12
    assert n_bytes(None) == 0


def test_calls_in_memory():
    """As many calls as asked for; the stages lie inside each."""
    timed = time_calls(thorax_phantom().scan, make_model(), "cpu", 2)
    assert list(timed) == ["calls"] and len(timed["calls"]) == 2
    for call in timed["calls"]:
        assert 0 < sum(call["stages"].values()) <= call["seconds"]


@pytest.mark.parametrize(
    ("seconds", "flop", "moved", "share"),
    [(4.0, 200e9, 1e9, 0.5), (4.0, 0, 20e9, 0.5), (4.0, 200e9, 30e9, 0.75)],
)
def test_share_of_reachable(seconds, flop, moved, share):
    """What needs longer at its rate counts: 100 GFLOP/s, 10 GB/s."""
    assert benchmark.share_of_reachable(seconds, flop, moved, WORK) == share


def test_table(capsys):
    benchmark.show_stages({"start, models": 1.0, "reading": 0.4, "lungs": 4.0}, WORK)
    lines = capsys.readouterr().out.splitlines()
    assert "| start, models | 1.00 | | | |" in lines
    assert "| reading | 0.40 | 0 | 2.00 | 50.0 |" in lines
    assert "| lungs | 4.00 | 200 | 1.00 | 50.0 |" in lines
    assert "| all | 5.40 | | | |" in lines
    assert "  reading: CT file 1000 MB, HU 1000 MB" in lines
    assert any("100 GFLOP/s (matrix product, bfloat16), 10.0 GB/s" in line for line in lines)


def test_runs(tmp_path):
    """Fresh processes: their wall time, memory and stages; medians; the rest is the start."""
    variant = benchmark.Variant("normnet", [sys.executable, "-c", WRITER])
    for _ in range(3):
        benchmark.measure(variant, tmp_path / "out", 1)
    stages = benchmark.stage_medians(variant.runs, benchmark.START)
    assert list(stages) == ["start, models", "reading", "lungs"]
    assert (stages["reading"], stages["lungs"]) == (0.25, 0.5)
    assert sum(stages.values()) == pytest.approx(variant.seconds)
    assert variant.seconds == sorted(run["seconds"] for run in variant.runs)[1]
    assert variant.peak_gb > 0


def test_failed_run(tmp_path):
    """A run that fails ends the benchmark with what it said."""
    variant = benchmark.Variant("normnet", [sys.executable, "-c", "raise SystemExit('no CT')"])
    with pytest.raises(SystemExit, match="no CT"):
        benchmark.measure(variant, tmp_path / "out", 1)


def test_variants(tmp_path):
    """What the options add: the same command with one thing changed; lungs for the rival."""
    asked = argparse.Namespace(model=None, before=tmp_path, avx2=True, rival=True)
    chosen = {v.name: v for v in benchmark.variants(asked, tmp_path / "ct.nii.gz", tmp_path)}
    assert list(chosen) == ["normnet", "before", "AVX2", "vote alone", "MONAI"]
    plain = chosen["normnet"].command
    assert chosen["before"].command == chosen["AVX2"].command == plain
    assert chosen["before"].environment == {"PYTHONPATH": str(tmp_path / "src")}
    settings = Path(chosen["vote alone"].command[-1])
    assert override_config(load_config("default"), str(settings)).postprocessing.lungs_vox == 0
    assert chosen["MONAI"].beside == "vote alone"
    assert str(tmp_path / "vote alone" / "ct" / "lungs.nii.gz") in chosen["MONAI"].command


def test_lesions_of(tmp_path):
    """The lesion mask of a result, or the only image of another method; the DSC of two."""
    geometry = Geometry((1.0, 1.0, 1.0))
    masks = np.zeros((2, 4, 4, 4), np.uint8)
    masks[0, :2], masks[1, 1:3] = 1, 1
    for name, mask in zip(("own/ct/lesions", "other/ct"), masks, strict=True):
        file = tmp_path / f"{name}.nii.gz"
        file.parent.mkdir(parents=True)
        write_image(file, mask, geometry)
    write_image(tmp_path / "own" / "ct" / "anomaly.nii.gz", masks[0], geometry)
    assert benchmark.lesions_of(tmp_path / "own").name == "lesions.nii.gz"
    assert benchmark.dsc_of(tmp_path / "own", tmp_path / "other") == 0.5
