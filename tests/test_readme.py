"""The documents keep their word: commands and Python run, every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import normnet
from normnet.cli.main import app, main
from normnet.config import Config, NetworkConfig, load_config
from normnet.errors import NormNetError
from normnet.io.formats.nifti import write_image
from normnet.results.schema import FILES, REQUESTED, RESULT
from tests.docs.test_reference import generated
from tests.experiments.conftest import SCALE
from tests.phantoms import thorax_phantom, write_dicom, write_nifti

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
)
# README and how-to pages, whose commands run one after the other in one folder; those of the
# tutorials run in tests/docs/test_tutorials.py.
HOW_TO = (
    "dicom",
    "report",
    "slicer",
    "lung-mask",
    "many-cts",
    "cluster",
    "settings",
    "evaluate",
    "reproduce",
    "compare",
)
PAGES = (
    README,
    *((ROOT / f"docs/how-to/{name}.md").read_text(encoding="utf-8") for name in HOW_TO),
)
GUIDE = "\n".join(PAGES)


def commands_of(text: str) -> list[str]:
    """``normnet …`` lines of blocks, indented or with a prompt, and those between backticks."""
    lines = re.findall(r"^(?:    |\$ )(normnet .+)$", text, re.MULTILINE)
    return lines + [
        " ".join(part.split()) for part in re.findall(r"`(normnet [a-z-]+ [^`…]+)`", text)
    ]


def words_of(command: str) -> list[str]:
    return shlex.split(command, comments=True)[1:]


def test_the_guide_has_commands():
    shown = {words_of(command)[0] for command in commands_of(GUIDE)}
    assert shown == {
        "segment",
        "segment-volume",
        "slicer-module",
        "synthesize",
        "prepare",
        "train",
        "train-lungs",
        "evaluate",
        "reproduce",
        "baseline",
        "info",
        "report",
    }
    assert len(commands_of(GUIDE)) >= 10


def test_the_readme_is_short():
    assert len(README.split()) < 600
    lines = README.splitlines()
    first = next(n for n, line in enumerate(lines, start=1) if line.startswith("$ normnet"))
    assert first < 30
    printed = lines[first]  # the line below it: what the command prints
    assert re.fullmatch(r"lidc0001: ok; lesions [\d.]+ ml, [\d.]+ % of the lung; [\d.]+ s", printed)
    tutorial = (ROOT / "docs/tutorials/first-ct.md").read_text(encoding="utf-8")
    assert f"{lines[first - 1]}\n{printed}\n" in tutorial  # which a test follows


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_parse(document):
    from typer.main import get_command

    known = get_command(app).commands
    for command in commands_of((ROOT / document).read_text(encoding="utf-8")):
        name, *arguments = words_of(command)
        assert name in known, command
        context = known[name].make_context(name, [a for a in arguments if a != "--help"])
        assert context.params, command


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        assert set(re.findall(r"^    make ([a-z]+)", text, re.MULTILINE)) <= targets
    assert {"demo", "test"} <= targets


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document):
    path = ROOT / document
    text = path.read_text(encoding="utf-8")
    links = {link for link in re.findall(r"\]\(([^)#\s]+)\)", text) if "://" not in link}
    assert [link for link in links if not (path.parent / link).exists()] == []
    assert re.findall(r"@[A-Z_]{3,}@", text) == []  # numbers still to be filled in


def test_files_of_a_result_are_all_explained():
    page = (ROOT / "docs/reference/results.md").read_text(encoding="utf-8")
    table = page[: page.index("## Axes and units")]
    named = set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE))
    assert named == {*FILES, *REQUESTED, RESULT}


def test_exit_codes_are_those_of_the_errors():
    told = {int(code) for code in re.findall(r"^\| ([\d, ]+) \|", generated.exit_codes(), re.M)
            for code in code.split(", ")}  # fmt: skip
    kinds = set(NormNetError.__subclasses__())
    kinds |= {below for kind in kinds for below in kind.__subclasses__()}
    assert told == {0, 9, 70, 130, 143} | {kind.exit_code for kind in kinds}


# --- run as they stand ---


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with phantoms under the names that the README and the how-to pages use."""
    monkeypatch.chdir(tmp_path)
    phantom = thorax_phantom((40, 80, 88), (3.0, 3.0, 3.0))
    healthy = thorax_phantom((40, 80, 88), (3.0, 3.0, 3.0), lesions=False, seed=1)
    for name in (
        "ct.nii.gz",
        "demo/lidc0001.nii.gz",
        "other.mha",
        "folder_of_scans/one.nii.gz",
        "folder_of_scans/two.nii.gz",
    ):
        Path(name).parent.mkdir(exist_ok=True)
        write_nifti(phantom.scan, Path(name))
    write_dicom(phantom.scan, Path("dicom_folder"))
    write_nifti(healthy.scan, Path("normal.nii.gz"))
    write_image(Path("lung.nii.gz"), healthy.lung_mask, healthy.scan.geometry)
    Path("references").mkdir()
    Path("cases.csv").write_text(
        "case_id,folder,file,lung_mask,suspect_slices,lesion_mask,split\nn,.,normal.nii.gz,lung.nii.gz,3;4,,train\n"
        "coronacases_1,.,ct.nii.gz,,,references/ct_lesion.nii.gz,test\n"
    )
    write_image(Path("references/ct_lesion.nii.gz"), phantom.lesion_mask, phantom.scan.geometry)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (4, 64, 64), dtype=np.uint8)
    np.savez_compressed("slices.npz", images=images, masks=images > 128, slope=6.0, inter=-1024.0)
    for text in re.findall(r"^```toml\n(.+?)^```", GUIDE, re.MULTILINE | re.DOTALL):
        name = re.match(r"# (\w+\.toml):", text)
        assert name is not None, text
        Path(name[1]).write_text(text)
    return tmp_path


def small(source: str | Path | None = None) -> Config:
    """The settings of that name with a network and a training that take a moment."""
    settings = load_config(source)
    training = {"slab_vox": (16, 32, 32), "batch": 1, "iterations": 2, "members": 1}
    trusting = {"prob_possible": 0.0}  # lesion networks of two iterations know nothing
    return settings.model_copy(
        update={
            "network": NetworkConfig(channels=(4, 8), n_res_units=0),
            "preparation": settings.preparation.model_copy(
                update={"spacing_mm": (3.0, 3.0, 3.0), "pad_to": "crop"}
            ),
            "training": settings.training.model_copy(update=training),
            "inference": settings.inference.model_copy(update={"min_votes": "majority"}),
            "postprocessing": settings.postprocessing.model_copy(update=trusting),
        }
    )


def test_every_command_of_the_guide_runs(place, monkeypatch, capsys):
    """One after the other in one folder, as a reader would."""
    import normnet.cli.settings  # noqa: F401  a module first imported now would keep ``small``

    monkeypatch.setattr("normnet.config.load_config", small)
    for command in commands_of(GUIDE):
        arguments = words_of(command)
        if arguments[0] == "train-lungs":
            arguments += ["--iterations", "1"]
        if arguments[0] in ("reproduce", "baseline") and "--out" in arguments:
            Path("tiny.toml").write_text(SCALE)
            arguments += ["--scale", "tiny.toml"]
        assert main(arguments) == 0, f"{command}: {capsys.readouterr().err}"
    assert main(["info"]) == main(["info", "ct.nii.gz"]) == 0
    for name in ("lidc0001", "ct", "dicom_folder", "other", "one", "two"):
        written = {path.name for path in Path("results", name).iterdir()}
        assert written - {"report.html", "report.pdf"} == {*FILES, RESULT}
    for name in ("sheet.png", "cache/n.npz", "my_model/manifest.json", "lungs/manifest.json"):
        assert Path(name).is_file()
    for name in ("table2.tex", "table4.md", "figure5.png", "baseline-ae.csv"):
        assert Path("reproduced/tiny", name).is_file()
    score = Path("table.csv").read_text().splitlines()[1].split(",")
    assert score[0] == "ct"
    assert 0 < float(score[1]) <= 1


def test_the_python_of_the_readme_runs(place):
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 1
    names: dict[str, object] = {}
    exec(compile(blocks[0], "README.md", "exec"), names)
    found, scan = names["found"], names["scan"]
    assert isinstance(scan, normnet.Scan)
    for attribute in re.findall(r"found\.(\w+)", blocks[0]):
        assert getattr(found, attribute) is not None
    assert found.lesion_mask.shape == scan.shape
    assert found.volumes["both"]["lesion_ml"] > 5
    assert {path.name for path in Path("results/ct").iterdir()} == {*FILES, RESULT}
