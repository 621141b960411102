"""One version everywhere: in the package, its metadata, the citation and the changelog."""

from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path

import normnet.version

ROOT = Path(__file__).parents[1]


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def latest_release() -> tuple[str, str]:
    """Version and date of the uppermost release in the changelog."""
    releases = re.findall(r"^## \[(\d[^\]]*)\] - (\S+)$", text_of("CHANGELOG.md"), re.MULTILINE)
    return releases[0]


def test_packages_take_the_version_from_the_module():
    settings = tomllib.loads(text_of("pyproject.toml"))
    assert "version" not in settings["project"]
    assert settings["project"]["dynamic"] == ["version"]
    source = ROOT / settings["tool"]["hatch"]["version"]["path"]
    assert source.samefile(normnet.version.__file__)
    found = re.findall(r'^__version__ = "(\d+\.\d+\.\d+)"$', source.read_text(), re.MULTILINE)
    assert found == [normnet.__version__]  # release.yml looks for this very line


def test_changelog_and_citation_have_the_same_version_and_date():
    citation = dict(
        re.findall(r"^(version|date-released): (\S+)$", text_of("CITATION.cff"), re.MULTILINE)
    )
    version, day = latest_release()
    assert version == citation["version"] == normnet.__version__
    assert day == citation["date-released"]
    assert date.fromisoformat(day)


def test_make_check_is_what_everyone_calls():
    targets = re.search(r"^check: (.+)$", text_of("Makefile"), re.MULTILINE)
    assert targets is not None
    assert targets[1].split() == ["lint", "types", "docs", "test"]
    assert "make check\n" in text_of(".ci/run")
    assert "run: make check\n" in text_of(".github/workflows/tests.yml")


def test_actions_are_pinned():
    workflows = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert len(workflows) == 2
    for path in workflows:
        used = re.findall(r"uses: (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert used
        for action in used:
            assert re.fullmatch(r"\S+@[0-9a-f]{40} # v\d+\.\d+\.\d+|\./\S+", action), action
