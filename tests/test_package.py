"""How the package is built: imports point one way, and ARCHITECTURE.md names what is there."""

from __future__ import annotations

import ast
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "normnet"
# A part may import from lower layers and, among the stages, from those named in STAGES.
LAYERS = {
    **dict.fromkeys(("errors", "scan", "version"), 0),
    **dict.fromkeys(("config", "filters", "memory"), 1),
    **dict.fromkeys(
        ("io", "datasets", "lungs", "preparation", "synthesis", "network", "inference"), 2
    ),
    **dict.fromkeys(("postprocessing", "quantification"), 2),
    **dict.fromkeys(("models", "quality"), 3),
    "findings": 4,
    "restoration": 5,
    **dict.fromkeys(("training", "pipeline"), 6),
    **dict.fromkeys(("baselines", "results"), 7),
    **dict.fromkeys(("evaluation", "followup"), 8),
    "report": 9,
    **dict.fromkeys(("experiments", "serve"), 10),
    "cli": 11,
    "__main__": 12,
}
STAGES = {
    "datasets": {"io", "lungs"},
    "network": {"io"},
    "preparation": {"io"},
    "inference": {"network", "preparation"},
    "synthesis": {"preparation"},
    "lungs": {"inference", "io", "network", "preparation", "quantification"},
}


def imports_of(path: Path) -> Iterator[str]:
    """Modules of the package that a file imports when it runs, wherever the statement stands."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for_types |= {inner for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        if node in for_types:
            continue
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            is_package = (PACKAGE / Path(*(node.module or "").split(".")[1:])).is_dir()
            names = [
                f"{node.module}.{alias.name}" if is_package else str(node.module)
                for alias in node.names
            ]
        yield from (name.removeprefix("normnet.") for name in names if name.startswith("normnet."))


MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
    if path != PACKAGE / "__init__.py"
}


def test_every_part_has_its_layer():
    parts = {name.split(".")[0] for name in MODULES}
    assert len(MODULES) > 40
    assert parts == set(LAYERS)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_one_way(module):
    part = module.split(".")[0]
    for imported in imports_of(MODULES[module]):
        other = imported.split(".")[0]
        if other == part:
            continue
        allowed = LAYERS[other] < LAYERS[part] or other in STAGES.get(part, ())
        assert allowed, f"{module} imports {imported}"


def test_the_guard_sees_imports():
    """Of functions too, but not those for type checkers."""
    assert {"results.preview", "results.schema"} <= set(imports_of(MODULES["results.folder"]))
    assert "pipeline" not in set(imports_of(MODULES["results.folder"]))
    assert "pipeline" not in set(imports_of(MODULES["results.schema"]))
    assert {"cli.segment", "cli.train", "version"} <= set(imports_of(MODULES["cli.main"]))


def test_every_module_is_imported_without_what_only_unix_has():
    """Windows has neither ``fcntl`` nor ``resource``."""
    code = (
        "import importlib, sys\n"
        f"sys.path[:] = {[str(PACKAGE.parent), *sys.path]!r}\n"
        "sys.modules['fcntl'] = sys.modules['resource'] = None\n"
        f"for name in {sorted(MODULES)!r}: importlib.import_module('normnet.' + name)\n"
        "from normnet.io.dicom.worker import _limit_memory; _limit_memory()\n"
        "print('imported', len(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.startswith("imported"), done.stderr


def test_the_generator_knows_no_network():
    for module in ("synthesis.generator", "synthesis.shapes", "synthesis.textures"):
        text = MODULES[module].read_text(encoding="utf-8")
        assert not re.search(r"import monai|from monai|torch\.nn import|nn\.Module", text)


def test_architecture_names_what_is_there():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    columns = [row.split("|")[1] for row in re.findall(r"^\| `.*$", text, re.MULTILINE)]
    paths = {name for column in columns for name in re.findall(r"`([^`]+)`", column)}
    assert len(paths) > 12
    assert [name for name in paths if not (PACKAGE / name).exists()] == []
    named = {name.split(".")[0].strip("/") for name in paths}
    assert set(LAYERS) - named <= {"pipeline", "models", "datasets"}
    flow = text[text.index("## The way of the data") : text.index("## Where things are")]
    dotted = set(re.findall(r"\b[a-z_]+(?:\.[A-Za-z_]+)+\b", flow)) - {"pipeline.py"}
    assert len(dotted) > 15
    for name in dotted:
        pkgutil.resolve_name(f"normnet.{name}")
