"""The options of ``normnet segment`` for DICOM objects and DICOMweb servers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from normnet.errors import ConfigError

if TYPE_CHECKING:
    import typer

    from normnet.io.dicomweb import Server
    from normnet.results.exports import Exports


def choose_exports(
    seg: bool, report: bool, anomaly: bool, nrrd: bool, keep_identity: bool, empty_frames: bool
) -> Exports:
    """What is written beside the usual files; a report comes with the SEG that it refers to.

    Raises:
        ConfigError: NN-CLI-002 if an option has no effect, 004 if a library is missing.
    """
    from normnet.results.exports import ANOMALY, SEG, SEG_NRRD, SR, Exports

    wanted = {SEG: seg or report, ANOMALY: anomaly, SR: report, SEG_NRRD: nrrd}
    names = tuple(name for name, is_wanted in wanted.items() if is_wanted)
    exports = Exports(names, keep_identity, empty_frames)
    if (keep_identity or empty_frames) and not exports.dicom:
        raise ConfigError(
            "NN-CLI-002",
            "no DICOM object is asked for",
            "--keep-identity, --empty-frames",
            "add --dicom-seg, --dicom-sr or --dicom-anomaly",
        )
    if exports.dicom:
        check_installed("highdicom")
    return exports


def check_installed(library: str, extra: str = "dicom") -> None:
    """See that a library of an extra is there; it is not loaded.

    Raises:
        ConfigError: NN-CLI-004.
    """
    from importlib.util import find_spec

    if find_spec(library) is None:
        todo = f"pip install 'normnet[{extra}]'"
        raise ConfigError("NN-CLI-004", f"{library} is missing", "", todo)


def choose_server(
    scans: list[str] | None, url: str | None, study: str | None, store: bool, exports: Exports
) -> Server | None:
    """The server to read from; None where the CTs are files.

    Raises:
        ConfigError: NN-CLI-002 if the options contradict each other, NN-NET-007.
    """
    if url is None:
        if study or store:
            raise ConfigError("NN-CLI-002", "no server", "--study, --store", "add --dicomweb URL")
        if not scans:
            raise ConfigError("NN-CLI-002", "no CT", "", "give a file or folder, or --dicomweb")
        return None
    if scans:
        raise ConfigError("NN-CLI-002", "files and a server", "--dicomweb", "give one of them")
    if not study:
        raise ConfigError("NN-CLI-002", "no study", "--dicomweb", "add --study UID")
    if store and not (exports.dicom and exports.keep_identity):
        raise ConfigError(
            "NN-CLI-002",
            "a server sorts objects by patient and study",
            "--store",
            "add --keep-identity, and --dicom-seg or --dicom-sr",
        )
    check_installed("dicomweb_client")
    from normnet.io.dicomweb import Server

    return Server(url)


def inputs_of(
    context: typer.Context,
    scans: list[str] | None,
    server: Server | None,
    study: str | None,
    series: str | None,
) -> Sequence[str | Path]:
    """The paths to search for CTs; what was downloaded is removed when the command ends.

    Raises:
        NormNetError: As ``Server.downloaded``.
    """
    if server is None:
        return scans or []
    return [context.with_resource(server.downloaded(study or "", series))]
