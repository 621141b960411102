"""Recipes of images: they copy what is there, install what was measured, and end without rights."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTALL = (ROOT / "container/install.sh").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "container/Dockerfile").read_text(encoding="utf-8")
APPTAINER = (ROOT / "container/normnet.def").read_text(encoding="utf-8")
PAGE = (ROOT / "docs/how-to/container.md").read_text(encoding="utf-8")
# Where it changes, the size in docs/how-to/container.md must be measured again.
MEASURED = (
    'python3 -m pip --python "$folder" install --no-cache-dir $constraints .',
    "-c constraints.txt -c container/cpu.txt",
)


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, those of its base first."""
    found: dict[str, list[tuple[str, str]]] = {}
    lines = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.M)).splitlines()
    for line in filter(str.strip, lines):
        word, rest = line.split(maxsplit=1)
        if word == "FROM":
            base, _, name = rest.split()
            found[name] = list(found.get(base, []))
        found[name].append((word, rest))
    return found


def copied() -> set[str]:
    """What the stage that installs gets from the clone."""
    sources = [rest.split()[:-1] for word, rest in stages()["sources"] if word == "COPY"]
    return {path for paths in sources for path in paths}


def test_what_is_copied_is_there():
    assert len(copied()) > 5
    assert [path for path in copied() if not (ROOT / path).exists()] == []
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in allowed
    assert {line[1:] for line in allowed if line.startswith("!")} == copied()
    files = APPTAINER[APPTAINER.index("%files") : APPTAINER.index("%post")]
    pairs = [line.split() for line in files.splitlines()[1:] if line.strip()]
    assert {source for source, _ in pairs} == copied()
    assert all(target == f"/src/{source}" for source, target in pairs)


def test_what_the_build_needs_is_copied():
    """The files that pyproject.toml and the script name."""
    named = set(re.findall(r"-c (\S+\.txt)", INSTALL))
    assert named == {"constraints.txt", "container/cpu.txt"}
    assert named | {"pyproject.toml", "README.md", "LICENSE", "src"} <= copied()
    assert (ROOT / "src/normnet/weights/normnet/manifest.json").is_file()


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_targets(target):
    steps = stages()[target]
    last = {word: rest for word, rest in steps}
    assert last["ENTRYPOINT"] == '["normnet"]'
    assert steps[-1] == ("USER", "1000:1000")
    assert ("COPY", f"--from=install-{target} /opt/normnet /opt/normnet") in steps
    assert "HOME=/tmp" in last["ENV"]
    runs = [rest for word, rest in stages()[f"install-{target}"] if word == "RUN"]
    assert runs == [f"sh container/install.sh /opt/normnet {target}"]
    assert list(stages())[-1] == "cpu"


def test_the_images_install_what_was_measured():
    for part in MEASURED:
        assert part in INSTALL
    assert INSTALL.count("pip ") == DOCKERFILE.count("pip ") + 1 == 2  # one is a comment
    assert "sh container/install.sh /opt/normnet {{ kind }}" in APPTAINER
    assert "pip install" not in APPTAINER + DOCKERFILE
    assert "`sh container/install.sh FOLDER cpu && du -sb FOLDER`" in " ".join(PAGE.split())
    (n_bytes,) = re.findall(r"([\d,]+) bytes", PAGE)
    assert 1e9 < int(n_bytes.replace(",", "")) < 1.5e9


def test_the_versions_are_pinned():
    (image,) = re.findall(r"^FROM (python:\S+) AS base$", DOCKERFILE, re.M)
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-bookworm", image)
    assert f"From: {image}\n" in APPTAINER
    assert f"`{image}`" in PAGE
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    (torch,) = [line for line in constraints if line.startswith("torch==")]
    assert f"{torch}+cpu" in (ROOT / "container/cpu.txt").read_text(encoding="utf-8").splitlines()


def test_the_script_refuses_another_kind(tmp_path):
    command = ["sh", str(ROOT / "container/install.sh"), str(tmp_path / "venv"), "gpu"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert "neither cpu nor cuda" in done.stderr
    assert not (tmp_path / "venv").exists()
