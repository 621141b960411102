"""``run.json``, the record of what a training depends on, and the check of a finished model.

Only a training with the same record goes on from the checkpoints of a folder, and only its model is
written there.

Error ids: NN-OUT-013 another training or model lies there, NN-TRN-022 the record is damaged.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from normnet.errors import ModelError, OutputError
from normnet.io.fingerprint import digest_of, sha256_of
from normnet.io.json_files import read_json, write_json
from normnet.network.weights import MANIFEST, read_manifest

RECORD = "run.json"
_ANOTHER = "choose another --out"


def check_same_run(out: Path, run: dict[str, Any]) -> None:
    """See that what lies in the folder comes from the same run; note it for the next time.

    Args:
        out: Model folder; it holds the checkpoints, too.
        run: What they depend on, of types that JSON knows.

    Raises:
        OutputError: NN-OUT-013 if checkpoints or a model come from another run, NN-TRN-022 if the
            record is damaged.
    """
    path, run = out / RECORD, json.loads(json.dumps(run))
    if not os.path.lexists(path):
        weights = sorted(file.name for file in out.glob("member-*.safetensors"))
        for name in (MANIFEST, *weights):
            if os.path.lexists(out / name):
                raise _another(f"'{name}' lies there, which this training has not made")
        write_json(path, {"sha256": _digest(run), **run})
        return
    before = None if path.is_symlink() else read_json(path)
    if not isinstance(before, dict) or before.pop("sha256", _digest(before)) != _digest(before):
        go_on = f"delete it, and the same command goes on from the checkpoints; or {_ANOTHER}"
        raise OutputError(
            "NN-TRN-022",
            "the record of the training is damaged",
            f"{out.name}/{RECORD}",
            f"{_ANOTHER}; the model stays" if os.path.lexists(out / MANIFEST) else go_on,
        )
    if _digest(before) != _digest(run):
        raise _another(
            f"a training with other settings or cases lies there: {difference(before, run)}"
        )


def count_finished(out: Path, kind: str) -> int:
    """Number of members of the finished model in a folder; 0 if it is not whole or none is there.

    Args:
        out: Model folder.
        kind: As ``read_manifest`` takes it.
    """
    try:
        members = read_manifest(out, kind)["members"]
        whole = [sha256_of(out / Path(m["file"]).name) == m["sha256"] for m in members]
    except (ModelError, OSError, KeyError, TypeError):
        return 0
    return len(whole) if all(whole) else 0


def difference(before: dict[str, Any], now: dict[str, Any], section: str = "") -> str:
    """The first difference of two records in words, such as ``training.seed is 0, not 1``.

    Args:
        before: Dictionaries and values, as JSON holds them.
        now: What ``before`` should be.
        section: Name of both with a dot; empty for a whole record.
    """
    for key in [*now, *(key for key in before if key not in now)]:
        name, old, new = f"{section}{key}", before.get(key), now.get(key)
        if key not in before or key not in now:
            return f"'{name}' is {'new' if key in now else 'missing'}"
        if isinstance(old, dict) and isinstance(new, dict):
            inside = difference(old, new, f"{name}.")
            if inside:
                return inside
        elif old != new:
            short = max(len(str(old)), len(str(new))) < 60
            return f"{name} is {old}, not {new}" if short else f"'{name}' has changed"
    return "" if list(before) == list(now) else f"the order of {section or 'all'} is another"


def _digest(run: dict[str, Any]) -> str:
    return digest_of(run, sort_keys=False)


def _another(found: str) -> OutputError:
    return OutputError("NN-OUT-013", found, "--out", _ANOTHER)
