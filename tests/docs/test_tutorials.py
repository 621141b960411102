"""The tutorials work: their commands and their Python run in order, and print what they show.

The files that a reader has are phantoms here. A comment above a block may change its commands, so
that a training takes seconds: ``<!-- test: "A" becomes "B" -->`` or ``<!-- test: add "B" -->``.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from normnet import load_model, read_ct, segment
from normnet.cli.main import main
from tests.experiments.conftest import SCALE
from tests.phantoms import thorax_phantom, write_nifti

ROOT = Path(__file__).parents[2]
TUTORIALS = ROOT / "docs/tutorials"
SHAPE, SPACING_MM = (40, 80, 88), (3.0, 3.0, 3.0)
BLOCK = re.compile(
    r"(?:^<!-- test: (?P<change>.+) -->\n)?^```(?P<kind>console|python|text)\n(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)


def changed(command: str, change: str | None) -> str:
    """A command as the comment above its block changes it for the tests."""
    if change is None:
        return command
    if becomes := re.fullmatch(r'"(.+)" becomes "(.+)"', change):
        assert becomes[1] in command, f"{change}: not in {command}"
        return command.replace(becomes[1], becomes[2])
    add = re.fullmatch(r'add "(.+)"', change)
    assert add is not None, f"unknown marker: {change}"
    return f"{command} {add[1]}"


def masked(text: str) -> list[str]:
    """Lines with every number as ``#``: phantoms are not the reader's CTs."""
    lines = re.sub(r"-?\d+(\.\d+)?", "#", text).splitlines()
    return [line.strip() for line in lines if line.strip()]


def check_output(printed: str, shown: str, where: str) -> None:
    """See that a command prints the lines that the page shows; ``...`` stands for any others."""
    got, expected = masked(printed), masked(shown)
    if "..." in expected:
        rest = iter(got)
        missing = [line for line in expected if line != "..." and line not in rest]
        assert missing == [], f"{where}: printed {got}"
    else:
        assert got == expected, where


def follow(page: str, capsys) -> None:
    """Do what a tutorial says, block by block."""
    names: dict[str, object] = {}
    printed_by_python = ""
    for block in BLOCK.finditer((TUTORIALS / page).read_text(encoding="utf-8")):
        text = block["text"]
        if block["kind"] == "python":
            exec(compile(text, page, "exec"), names)
            printed_by_python = capsys.readouterr().out
        elif block["kind"] == "text" and printed_by_python:
            check_output(printed_by_python, text, page)
            printed_by_python = ""
        elif block["kind"] == "console":
            for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
                command, _, shown = step.partition("\n")
                words = shlex.split(changed(command, block["change"]))
                assert words[0] == "normnet"
                code = main(words[1:])
                printed = capsys.readouterr()
                assert code == 0, f"{command}: {printed.err}"
                check_output(printed.out, shown, command)


@pytest.fixture(scope="module")
def phantoms():
    """A diseased and two healthy ones."""
    sick = thorax_phantom(SHAPE, SPACING_MM)
    healthy = [thorax_phantom(SHAPE, SPACING_MM, lesions=False, seed=n) for n in (1, 2)]
    return sick, healthy


@pytest.fixture
def place(tmp_path, monkeypatch, phantoms) -> Path:
    """A folder with phantoms under the names that the tutorials use."""
    monkeypatch.chdir(tmp_path)
    sick, healthy = phantoms
    for name in ("demo", "normals"):
        Path(name).mkdir()
    write_nifti(sick.scan, Path("demo/lidc0001.nii.gz"))
    write_nifti(sick.scan, Path("ct.nii.gz"))
    for name, phantom in zip(("one", "two"), healthy, strict=True):
        write_nifti(phantom.scan, Path(f"normals/{name}.nii.gz"))
    return tmp_path


def test_markers_are_checked():
    assert changed("normnet train --iterations 300", '"300" becomes "2"').endswith("ations 2")
    assert changed("normnet info", 'add "ct.nii"') == "normnet info ct.nii"
    with pytest.raises(AssertionError):
        changed("normnet info", '"300" becomes "2"')
    with pytest.raises(AssertionError):
        changed("normnet info", "hurry")


def test_other_output_is_noticed():
    check_output("a: 3.5 ml\n", "a: 17.0 ml\n", "")
    check_output("first\nmiddle\nlast\n", "first\n...\nlast\n", "")
    for shown in ("a: 17.0 %", "a: 17.0 ml\nb", "...\na: 17.0 %"):
        with pytest.raises(AssertionError):
            check_output("a: 3.5 ml\n", shown, "")


@pytest.mark.slow
def test_first_ct(place, capsys):
    follow("first-ct.md", capsys)
    result = json.loads(Path("results/lidc0001/result.json").read_text())
    written = {path.name for path in Path("results/lidc0001").iterdir()}
    assert written == {*result["files"], "result.json"}


@pytest.mark.slow
def test_numbers_of_the_demo_ct():
    """README and tutorial print what the shipped networks find in the demo CT.

    Another processor rounds otherwise, so 2 % are allowed.
    """
    found = segment(read_ct(ROOT / "demo/lidc0001.nii.gz"), load_model())
    page = (TUTORIALS / "first-ct.md").read_text(encoding="utf-8")
    sides = {side: volumes["lesion_ml"] for side, volumes in found.volumes.items()}
    shown = dict(re.findall(r"^(\w+) ([\d.]+) ml, [\d.]+ % of the lung$", page, re.MULTILINE))
    assert {side: float(ml) for side, ml in shown.items()} == pytest.approx(sides, rel=0.02)
    low_high = re.findall(r"(?:wider: \[|The range )([\d.]+)(?:, | to )([\d.]+)\]? ml", page)
    assert len(low_high) == 2
    for pair in low_high:
        assert [float(ml) for ml in pair] == pytest.approx(found.uncertainty["lesion_ml"], rel=0.02)
    for text in (page, (ROOT / "README.md").read_text(encoding="utf-8")):
        (line,) = re.findall(r"lidc0001: ok; lesions ([\d.]+) ml, ([\d.]+) % of the lung", text)
        both = found.volumes["both"]
        assert [float(part) for part in line] == pytest.approx(
            [both["lesion_ml"], both["lesion_percent"]], rel=0.02
        )


@pytest.mark.slow
def test_train(place, capsys):
    follow("train.md", capsys)
    assert Path("sheet.png").is_file()
    with np.load("cache/one.npz") as case:
        assert len(case.files) > 0
    assert Path("my_model/manifest.json").is_file()
    assert Path("results/ct/lesions.nii.gz").is_file()


@pytest.mark.slow
def test_reproduce(place, phantoms, capsys):
    listed = re.search(
        r"```text\n(\s*case_id.+?)```", (TUTORIALS / "reproduce.md").read_text(), re.S
    )
    assert listed is not None
    lines = [line.strip() for line in listed[1].splitlines() if line.strip()]
    Path("normals.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    Path("tiny.toml").write_text(SCALE, encoding="utf-8")
    sick, _ = phantoms
    for folder, array in (("Lung_Mask", sick.lung_mask), ("Infection_Mask", sick.lesion_mask)):
        Path("covid", folder).mkdir(parents=True)
        for name in ("coronacases_001", "coronacases_002"):
            mask = replace(sick.scan, volume_hu=array.astype(np.int16))
            write_nifti(mask, Path("covid", folder, f"{name}.nii.gz"))
    cts = Path("covid/COVID-19-CT-Seg_20cases")
    cts.mkdir()
    for name in ("coronacases_001", "coronacases_002"):
        shutil.copy("ct.nii.gz", cts / f"{name}.nii.gz")
    follow("reproduce.md", capsys)
    for suffix in ("csv", "md", "tex"):
        assert Path("reproduced/tiny", f"table2.{suffix}").is_file()
