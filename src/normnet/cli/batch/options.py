"""The options of ``normnet segment`` for many scans: who does the work, and remote storage."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from normnet.cli.exchange import check_installed
from normnet.errors import ConfigError

if TYPE_CHECKING:
    import typer

    from normnet.cli.batch.driver import Start
    from normnet.results.remote import RemoteResults


def choose_workers(n_workers: int | None, ray: str | None, dicomweb: str | None) -> Start | None:
    """Who does the work; None: this process does it.

    Args:
        n_workers: How many processes; None: as many as fit, in a cluster.
        ray: Address of a Ray cluster.
        dicomweb: Address of the server that the CT is read from.

    Raises:
        ConfigError: NN-CLI-002 if the options contradict each other, 004 if Ray is missing.
    """
    if ray is not None:
        check_installed("ray", "cluster")
        if dicomweb is not None:
            found, todo = "one CT of a server, and a cluster", "leave out --ray"
            raise ConfigError("NN-CLI-002", found, "--ray, --dicomweb", todo)
        from normnet.cli.batch.cluster import Cluster

        return partial(Cluster, address=ray, n_workers=n_workers)
    if n_workers is None:
        return None
    from normnet.cli.batch.processes import Processes

    return partial(Processes, n_workers=n_workers)


def split_inputs(given: Sequence[str | Path]) -> tuple[list[Path], list[str]]:
    """The paths among what the user gave, and the addresses of remote files and folders."""
    from normnet.io.remote import is_address

    addresses = [str(place) for place in given if is_address(str(place))]
    if addresses:
        check_installed("fsspec", "cluster")
    return [Path(place) for place in given if not is_address(str(place))], addresses


def open_output(
    context: typer.Context, out: str, needs_files: bool
) -> tuple[Path, RemoteResults | None]:
    """The folder where results are written; they go on from there if ``out`` is an address.

    Args:
        context: Of the command; it removes that folder.
        out: A folder, or the address of a remote one.
        needs_files: Whether the files of finished results are needed on this machine.

    Raises:
        ConfigError: NN-CLI-002 or 004.
        NormNetError: As ``RemoteResults.pull``.
    """
    from normnet.io.remote import is_address
    from normnet.results.remote import RemoteResults

    if not is_address(out):
        return Path(out), None
    check_installed("fsspec", "cluster")
    if needs_files:
        found, todo = "a remote output, and options that read its files again", "give a folder"
        raise ConfigError("NN-CLI-002", found, "--report, --store, --out", todo)
    folder = Path(context.with_resource(TemporaryDirectory(prefix="normnet-")))
    remote = RemoteResults(out, folder)
    remote.pull()
    return folder, remote
