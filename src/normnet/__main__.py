"""The program ``normnet``, also called as ``python -m normnet``."""

import _signal  # type: ignore[import-not-found]  # signal itself takes long to import
import os
import sys


def main() -> int:
    """Run the command line; before its modules are loaded, Ctrl-C ends the program at once.

    Returns:
        The exit code.
    """
    _signal.signal(_signal.SIGINT, lambda number, frame: os._exit(128 + number))
    import gc

    gc.set_threshold(200_000)  # the many objects of an import are no garbage
    from normnet.cli.main import main as run

    code = run()
    gc.freeze()  # at its end, Python would look through all that torch has made: half a second
    return code


if __name__ == "__main__":
    sys.exit(main())
