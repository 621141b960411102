"""All errors that normnet raises on purpose, each kind with its exit code.

    NormNetError
    ├── ConfigError      2   unknown key, wrong type, contradictory options
    ├── InputError       3   a file that is missing, truncated or undecodable
    │   ├── GeometryError  4   slices or axes that do not form a regular volume
    │   └── ValueRangeError  5   not CT, not HU, no lung
    ├── ModelError       6   weights that are missing, altered or do not fit
    ├── OutputError      7   a result that cannot be written
    └── ResourceError    8   more memory, slices or bytes than allowed

The library raises; only ``normnet.cli.main`` turns an error into one line and an exit code.
"""


class NormNetError(Exception):
    """Base of all errors. ``str()`` is one line: ``NN-GEO-003: what; where; what to do``.

    Args:
        code: Stable id, such as ``NN-GEO-003``.
        found: What was found.
        where: In which file, slice or option; names of files only, never DICOM tags of a person.
        todo: What the user can do about it.
    """

    exit_code = 70

    def __init__(self, code: str, found: str, where: str = "", todo: str = ""):
        self.code = code
        self.found = found
        self.where = where
        self.todo = todo
        parts = [part for part in (found, where, todo) if part]
        super().__init__(f"{code}: {'; '.join(parts)}")

    def __reduce__(self) -> tuple[type[Exception], tuple[str, str, str, str]]:
        return type(self), (self.code, self.found, self.where, self.todo)


class NormNetWarning(UserWarning):
    """What normnet noticed and accepted; the commands print no warnings of other libraries."""


class ConfigError(NormNetError):
    """A setting that does not exist or has the wrong type or value."""

    exit_code = 2


class InputError(NormNetError):
    """A file that cannot be read as what it should be."""

    exit_code = 3


class GeometryError(InputError):
    """Slices or axes that do not form one regular volume."""

    exit_code = 4


class ValueRangeError(InputError):
    """Voxel values or a modality that cannot be a chest CT in HU."""

    exit_code = 5


class ModelError(NormNetError):
    """Weights that are missing, altered, or do not fit the network."""

    exit_code = 6


class OutputError(NormNetError):
    """A result that cannot be written whole."""

    exit_code = 7


class ResourceError(NormNetError):
    """More memory, slices or bytes than the limit."""

    exit_code = 8
