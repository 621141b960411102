"""CTs from a DICOMweb server (QIDO-RS, WADO-RS), and DICOM objects back to it (STOW-RS).

Only the address that the user gives is called; redirections are refused. A token or a password
comes from the environment and is never printed.

Error ids::

    NN-NET   001 not reachable        002 not allowed to in       003 no such study or series
             004 several series       005 objects were refused    006 an odd answer
             007 unusable address
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

from normnet.errors import (
    ConfigError,
    InputError,
    NormNetError,
    OutputError,
    ResourceError,
    ValueRangeError,
)
from normnet.io.limits import MAX_DOWNLOAD_BYTES, MAX_SLICES

TOKEN, USER, PASSWORD = (f"NORMNET_DICOMWEB_{name}" for name in ("TOKEN", "USER", "PASSWORD"))
_TIMEOUT_S = (8, 60)  # to connect; between two pieces of an answer
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_ORIGINAL = (("application/dicom", "*"),)  # in the transfer syntax that the server has
_CHECK = "check the address and the network"


class Server:
    """A DICOMweb server.

    Args:
        url: Where its services begin, such as ``https://pacs.example.org/dicom-web``.

    Raises:
        ConfigError: NN-NET-007.
    """

    def __init__(self, url: str):
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query:
            raise ConfigError(
                "NN-NET-007", "no http or https address", "--dicomweb", "give the DICOMweb root"
            )
        if parts.username or parts.password:
            found = "a user or a password in the address"
            raise ConfigError("NN-NET-007", found, "--dicomweb", f"set {USER} and {PASSWORD}")
        self.host = parts.hostname
        self._n_bytes = 0
        self._client = self._connect(url.rstrip("/"))

    def _connect(self, url: str) -> Any:
        import requests
        from dicomweb_client import DICOMwebClient

        session = requests.Session()
        session.max_redirects = 0
        session.auth = _authorise  # also keeps requests from looking into ~/.netrc
        client = DICOMwebClient(url, session, callback=self._count, timeout=_TIMEOUT_S)
        client.set_http_retry_params(retry=False)
        return client

    def _count(self, response: Any, *_: Any, **__: Any) -> Any:
        """Make a response end in an error when too many bytes have come."""
        pieces = response.iter_content

        def counted(*arguments: Any, **options: Any) -> Iterator[bytes]:
            for piece in pieces(*arguments, **options):
                self._n_bytes += len(piece)
                if self._n_bytes > MAX_DOWNLOAD_BYTES:
                    found = f"more than {MAX_DOWNLOAD_BYTES} bytes from the server"
                    raise ResourceError("NN-RES-041", found, self.host, "give one series")
                yield piece

        response.iter_content = counted
        return response

    @contextmanager
    def downloaded(self, study: str, series: str | None) -> Iterator[Path]:
        """The files of a study's CT series, in a private folder that is removed afterwards.

        Args:
            study: StudyInstanceUID.
            series: SeriesInstanceUID, ``"auto"`` for all CT series of the study, or None, where
                there may be one only.

        Yields:
            The folder, which has one folder per series. Their names follow from the UIDs, but do
            not show them.

        Raises:
            NormNetError: NN-NET, NN-VAL-003 if there is no CT, NN-RES if there is too much.
        """
        for uid in (study, *([series] if series and series != "auto" else [])):
            if not _UID.fullmatch(uid) or len(uid) > 64:
                raise ConfigError(
                    "NN-NET-003", "no UID: digits and dots", "--study, --series", "check the UID"
                )
        chosen = self._choose(study, series)
        with TemporaryDirectory(prefix="normnet-") as place:
            folder = Path(place, "dicomweb")
            for uid in chosen:
                name = hashlib.sha256(f"{study} {uid}".encode()).hexdigest()[:8]
                self._download(study, uid, folder / f"dicomweb_{name}")
            yield folder

    def _choose(self, study: str, series: str | None) -> list[str]:
        with self._named_errors():
            found = self._client.search_for_series(study)
            known = {str(row["0020000E"]["Value"][0]): row for row in found}
        if not known or (series and series != "auto" and series not in known):
            what = "study" if not known else "series in this study"
            raise InputError("NN-NET-003", f"no such {what}", self.host, "check the UID")
        cts = [uid for uid, row in known.items() if _text(row, "00080060") == "CT"]
        wanted = cts if series in (None, "auto") else [str(series)]
        if not cts or not set(wanted) <= set(cts):
            raise ValueRangeError(
                "NN-VAL-003", "Modality is not CT", self.host, "give a study or series of CT"
            )
        if series is None and len(cts) > 1:
            shown = ", ".join(f"{uid} ({_text(known[uid], '00201209') or '?'})" for uid in cts[:5])
            raise InputError(
                "NN-NET-004",
                f"{len(cts)} CT series (images): {shown}",
                self.host,
                "choose one with --series UID, or --series auto",
            )
        return wanted

    def _download(self, study: str, series: str, folder: Path) -> None:
        folder.mkdir(parents=True)
        with self._named_errors():
            images = self._client.iter_series(study, series, media_types=_ORIGINAL)
            n_images = 0
            for n_images, image in enumerate(images, 1):
                if n_images > MAX_SLICES:
                    found = f"more than {MAX_SLICES} slices"
                    raise ResourceError("NN-RES-002", found, self.host, "give one series")
                image.save_as(folder / f"{n_images:05d}.dcm", enforce_file_format=False)
        if not n_images:
            raise InputError("NN-NET-003", "a series without images", self.host, "check the UID")

    def store(self, files: Sequence[Path]) -> None:
        """Send DICOM objects to the server.

        Raises:
            OutputError: NN-NET-005 if it does not take all of them.
            NormNetError: Other ids of NN-NET.
        """
        from pydicom import dcmread

        with self._named_errors(storing=True):
            answer = self._client.store_instances([dcmread(file) for file in files])
        if len(answer.get("ReferencedSOPSequence") or ()) < len(files):
            raise self._refused()

    def _refused(self) -> OutputError:
        return OutputError(
            "NN-NET-005", "the server does not store the objects", self.host, "ask who runs it"
        )

    @contextmanager
    def _named_errors(self, storing: bool = False) -> Iterator[None]:
        """Turn failures of the network into named errors that quote no address and no header."""
        import requests
        from requests.exceptions import ChunkedEncodingError

        try:
            yield
        except (NormNetError, MemoryError):
            raise
        except requests.HTTPError as error:
            status = error.response.status_code
            if status in (401, 403):
                raise InputError(
                    "NN-NET-002",
                    f"the server does not let normnet in (HTTP {status})",
                    self.host,
                    f"set {TOKEN}, or {USER} and {PASSWORD}",
                ) from error
            if storing:
                raise self._refused() from error
            if status == 404:
                raise InputError(
                    "NN-NET-003", "no such study or series", self.host, "check address and UID"
                ) from error
            raise self._odd(f"HTTP {status}") from error
        except requests.TooManyRedirects as error:
            raise self._odd("a redirection") from error
        except (requests.ConnectionError, requests.Timeout, ChunkedEncodingError) as error:
            late = isinstance(error, requests.Timeout)
            found = "the server does not answer in time" if late else "the server is not reachable"
            raise InputError("NN-NET-001", found, self.host, _CHECK) from error
        except Exception as error:  # whatever the libraries raise on an answer that is no DICOM
            raise self._odd("an answer that is no DICOMweb") from error

    def _odd(self, found: str) -> InputError:
        return InputError("NN-NET-006", found, self.host, "give the root of the DICOMweb services")


def _authorise(request: Any) -> Any:
    """Add what the environment holds to a request."""
    import requests

    if token := os.environ.get(TOKEN):
        request.headers["Authorization"] = f"Bearer {token}"
    elif user := os.environ.get(USER):
        return requests.auth.HTTPBasicAuth(user, os.environ.get(PASSWORD, ""))(request)
    return request


def _text(row: dict[str, Any], tag: str) -> str:
    """The first value of a tag in an answer of QIDO-RS."""
    values: Iterable[Any] = row.get(tag, {}).get("Value") or [""]
    return str(next(iter(values)))
