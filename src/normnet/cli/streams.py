"""Standard output and error, so that no failure to print ends a command.

A terminal may not know UTF-8, a disk may be full, a pipe may be closed by its reader.

Error ids: NN-OUT-005 a part of the output is lost.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, TextIO, cast

from normnet.errors import OutputError


class Stream:
    """A text stream that takes everything; the first error ends the output, not the command.

    Args:
        stream: Where the text goes.

    Attributes:
        error: Why the stream cannot be written any more; None while it can.
    """

    def __init__(self, stream: TextIO):
        self._stream = stream
        self.error: OSError | ValueError | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text; characters that the encoding lacks are written as escapes."""
        if self.error is None:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                encoding = self._stream.encoding or "ascii"
                self.write(text.encode(encoding, "backslashreplace").decode(encoding))
            except (OSError, ValueError) as error:  # ValueError: the stream is closed
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Pass on what was written."""
        if self.error is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def _give_up(self, error: OSError | ValueError) -> None:
        self.error = error
        # What the stream still holds must go somewhere when Python ends.
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def lasting_streams() -> Iterator[Stream]:
    """In the block ``sys.stdout`` and ``sys.stderr`` are streams of the kind ``Stream``.

    Yields:
        The new ``sys.stdout``.
    """
    _fill_standard_descriptors()
    with Path(os.devnull).open("w") as nowhere:
        out, err = Stream(sys.stdout or nowhere), Stream(sys.stderr or nowhere)
        with redirect_stdout(cast(TextIO, out)), redirect_stderr(cast(TextIO, err)):
            yield out
            out.flush()
            err.flush()


def lost_output(stream: Stream) -> OutputError | None:
    """NN-OUT-005 if a part of the output is lost; None if its reader wanted no more."""
    if stream.error is None or isinstance(stream.error, BrokenPipeError):
        return None
    reason = getattr(stream.error, "strerror", None) or "it is closed"
    return OutputError(
        "NN-OUT-005",
        f"a part of what was printed is lost ({reason})",
        "standard output",
        "print to another place; result files are not concerned",
    )


def _fill_standard_descriptors() -> None:
    """Open the null device where a standard descriptor is closed.

    Otherwise a file that is opened later gets its number, and all that C libraries print.
    """
    with suppress(OSError):
        while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
            pass
        os.close(descriptor)
