"""The server of the app: its folder, its address, its token, its life.

Error ids: NN-APP-002 the port is in use; those of ``serve.jobs``.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from normnet.errors import NormNetError, OutputError
from normnet.io.lock import locked_folder
from normnet.serve.children import Child
from normnet.serve.editing import Editor
from normnet.serve.guard import Guard
from normnet.serve.jobs import Jobs, make_private
from normnet.serve.segmenting import Loaded, Segmenter
from normnet.serve.worker import Worker

ADDRESS = "127.0.0.1"


class Setup(NamedTuple):
    """How the app works.

    Attributes:
        folder: For uploads and results.
        port: To listen on; 0: any that is free.
        load: Loads the models, in a child; can be pickled.
        name_error: Turns any exception into one with an id; can be pickled.
        keep_identity: Whether DICOM objects name the patient and the study.
        keep_s: For how many seconds jobs stay after their end; None: until they are deleted.
    """

    folder: Path
    port: int
    load: Callable[[], Loaded]
    name_error: Callable[[Exception, str], NormNetError]
    keep_identity: bool = False
    keep_s: float | None = None


def serve(setup: Setup, on_start: Callable[[str], None]) -> None:
    """Serve the app until a signal comes.

    Args:
        setup: How.
        on_start: Called with the address to open, which holds the token.

    Raises:
        OutputError: NN-APP-002, 003; NN-OUT-010 or 012 for the folder.
    """
    import uvicorn

    os.umask(0o077)  # of the children, too
    make_private(setup.folder)
    with locked_folder(setup.folder), _listen(setup.port) as listener:
        jobs = Jobs(setup.folder)
        port = listener.getsockname()[1]
        token = secrets.token_urlsafe(32)
        app = guarded(setup, jobs, token, port)
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            ws="none",
            timeout_graceful_shutdown=5,
        )
        server = uvicorn.Server(config)
        config.load()
        on_start(f"http://{ADDRESS}:{port}/?token={token}")
        server.run(sockets=[listener])


def guarded(setup: Setup, jobs: Jobs, token: str, port: int) -> Any:
    """The app behind its guard."""
    from normnet.serve.app import create_app

    segmenter = Child(partial(Segmenter, setup.load, setup.keep_identity), setup.name_error)
    editor = Child(Editor, setup.name_error)
    return Guard(create_app(jobs, Worker(jobs, segmenter, setup.keep_s), editor), token, port)


def _listen(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((ADDRESS, port))
        listener.listen()
    except OSError as error:
        listener.close()
        found = f"port {port} cannot be used ({error.strerror})"
        raise OutputError("NN-APP-002", found, "--port", "choose another, or 0") from error
    return listener
