"""``normnet info``: what is installed, what a scan is, or all settings with their sources."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from normnet.cli.arguments import Series

if TYPE_CHECKING:
    from normnet.io.census import Item

Settings = dict[str, dict[str, tuple[Any, str]]]  # section, key: value and where it is set


def info(
    name: Annotated[
        Path | None,
        typer.Argument(
            help="A CT to describe, or a folder or zip to list; with --config: default, paper, "
            "lesions, a TOML file, a model's folder, or model (the shipped one).",
            show_default=False,
        ),
    ] = None,
    series: Series = None,
    config: Annotated[
        bool, typer.Option("--config", help="Print every setting with its source, as TOML.")
    ] = False,
) -> int:
    """Version, models and devices; or what a folder holds, or what a scan is; or all settings."""
    if config:
        _print_settings("default" if name is None else str(name))
    elif name is None:
        _describe_installation()
    elif series is not None or not _holds_many(name):
        _describe_scan(name, series)
    else:
        _list_census(name)
    return 0


def _holds_many(path: Path) -> bool:
    """Whether a path is a folder or an archive."""
    from normnet.io.archive import is_archive, split_member

    return path.is_dir() or is_archive(path) or split_member(path) is not None


def _list_census(path: Path) -> None:
    """Print a table of all series and images; a single CT is described, too."""
    from rich.markup import escape
    from rich.table import Table

    from normnet.cli.texts import one_line, print_table, say
    from normnet.io.census import take_census
    from normnet.io.choice import candidates, proposed, reason_for
    from normnet.results.folder import is_result_file

    census = take_census([path], is_result_file)
    found = candidates(census)
    studies: dict[object, list[Item]] = defaultdict(list)
    for item in found:
        studies[item.study or item].append(item)
    best = [proposed(items) for items in studies.values() if len(items) > 1]
    table = Table("source", "kind", "series", "slices", "mm", "kernel", "description", "chest CT")
    for column in table.columns[:3]:
        column.overflow = "fold"  # whole paths and ids, to copy
    for item in census.items:
        cells = (
            str(item.source),
            " ".join(filter(None, (item.modality, item.kind))),
            item.series_uid,
            str(item.n_slices or ""),
            f"{item.thickness_mm:g}" if item.thickness_mm > 0 else "",
            item.kernel,
            item.description,
            _verdict(item, found, best),
        )
        table.add_row(*(escape(one_line(cell)) for cell in cells))
    print_table(table)
    for note in census.notes:
        say(note)
    for item in best:
        say(f"proposed of its study: {item.source}, {item.series_uid} ({reason_for(item)})")
    if len(found) == 1:
        _describe_scan(path, None)


def _verdict(item: Item, found: list[Item], best: list[Item]) -> str:
    """Whether an item can be a CT of the chest, and why not."""
    if item.error is not None:
        return str(item.error)
    parts = [item.why_not or ("proposed" if item in best else "possible")]
    if item not in found:
        parts = [item.why_not or item.weak_why_not]
    if not item.has_position and "no position" not in parts:
        parts.append("no position")
    return ", ".join(parts)


def _print_settings(name: str) -> None:
    from normnet.models import shipped

    if name == "model":
        settings = _settings_of_model(shipped("normnet"))
        settings["lungs"] = _settings_of_model(shipped("lungs"))["lungs"]
    elif Path(name).is_dir():
        settings = _settings_of_model(Path(name))
    else:
        settings = _settings_of_files(name)
    lines = []
    for section, keys in settings.items():
        lines += ["", f"[{section}]"]
        for key, (value, source) in keys.items():
            lines.append(f"{key} = {json.dumps(value)}".ljust(44) + f"  # {source}")
    print("\n".join(lines[1:]))


def _settings_of_files(name: str) -> Settings:
    """All settings; a key that no file sets has the value of ``config.py``."""
    from normnet.config import merge_layers, read_layers

    layers = read_layers(name)
    sources = {
        (section, key): layer.name
        for layer in layers
        for section, values in layer.values.items()
        for key in values
    }
    return {
        section: {
            key: (value, sources.get((section, key), "config.py")) for key, value in values.items()
        }
        for section, values in merge_layers(layers).model_dump(mode="json").items()
    }


def _settings_of_model(folder: Path) -> Settings:
    """What a model is used with, and then how it was trained, which is not checked."""
    from normnet.models import settings_of
    from normnet.network.weights import read_manifest

    manifest = read_manifest(folder)
    config, _ = settings_of(manifest, folder)
    stated = {**manifest["inference"], "network": manifest["network"]}
    source = f"{folder.name}/manifest.json"
    used = {
        section: {
            key: (value, source if key in stated[section] else "config.py")
            for key, value in values.items()
        }
        for section, values in config.model_dump(mode="json").items()
        if section in stated
    }
    trained = {
        section: {key: (value, source) for key, value in values.items()}
        for section, values in manifest.get("provenance", {}).items()
    }
    return {**used, **trained}


def _describe_installation() -> None:
    import platform
    from importlib import resources

    from normnet.memory import check_memory

    check_memory()
    import torch

    from normnet.cli.texts import say
    from normnet.version import __version__

    say(f"normnet {__version__}; research use only, not a medical device")
    threads = f"{torch.get_num_threads()} CPU threads"
    say(f"python {platform.python_version()}, torch {torch.__version__}, {threads}")
    n_devices = torch.cuda.device_count()
    names = (
        ", ".join(torch.cuda.get_device_name(n) for n in range(n_devices))
        if n_devices
        else "no GPU"
    )
    say(f"devices: cpu, {names}")
    files = (resources.files("normnet") / "configs").iterdir()
    configs = sorted(file.name for file in files if file.name.endswith(".toml"))
    say(f"settings: {', '.join(configs)}")
    for name in ("normnet", "lungs", "lesions"):
        _describe_model(name)


def _describe_model(name: str) -> None:
    from normnet.cli.texts import say
    from normnet.errors import ModelError
    from normnet.io.fingerprint import sha256_of
    from normnet.models import shipped
    from normnet.network.weights import MANIFEST, read_manifest

    folder = shipped(name)
    try:
        manifest = read_manifest(folder, name)
    except ModelError:
        say(f"model {name}: not shipped with this build")
        return
    members = manifest.get("members", [])
    megabytes = sum(member.get("bytes", 0) for member in members) / 1e6
    sha256 = sha256_of(folder / MANIFEST)
    version = f" {manifest['version']}" if "version" in manifest else ""
    say(
        f"model {name}{version}: {len(members)} members, {megabytes:.1f} MB, manifest {sha256[:16]}"
    )
    training = manifest.get("training")
    cases = training.get("cases") if isinstance(training, dict) else None
    if cases:
        say(f"  trained on {len(cases)} cases: {', '.join(str(case) for case in cases)}")
    for member in members:
        file = folder / member["file"]
        whole = file.is_file() and sha256_of(file) == member["sha256"]
        state = "whole" if whole else "MISSING OR ALTERED"
        say(f"  {member['file']}: sha256 {member['sha256'][:16]}, {state}")


def _describe_scan(path: Path, series: str | None) -> None:
    import numpy as np

    from normnet.cli.texts import say
    from normnet.io.read import read_ct
    from normnet.preparation.orient import Orientation

    scan = read_ct(path, series)
    orientation = Orientation.of(scan.geometry)
    ends = [("foot", "head"), ("front", "back"), ("right", "left")]
    runs = [""] * 3
    for world, axis in enumerate(orientation.axes):
        runs[axis] = " to ".join(ends[world][::-1] if orientation.flips[world] else ends[world])
    low, median, high = (float(v) for v in np.percentile(scan.volume_hu, (0, 50, 100)))

    def triple(values: tuple[float, ...], digits: int = 4) -> str:
        return " x ".join(f"{value:.{digits}g}" for value in values)

    say(f"case: {scan.case_id}")
    say(f"voxels: {triple(scan.file_shape, 6)} (slices, rows, columns as stored)")
    geometry = scan.file_geometry
    say(f"spacing: {triple(geometry.spacing_mm)} mm")
    say(f"origin: {', '.join(f'{v:.2f}' for v in geometry.origin_mm)} mm (z, y, x; LPS)")
    say(f"axes run: {'; '.join(runs)}")
    say(f"HU: {low:.0f} to {high:.0f}, median {median:.0f}")
    for warning in scan.warnings:
        say(f"warning: {warning}")
