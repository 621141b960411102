"""What can be reproduced: one short TOML an experiment, and the scales at which it can run.

An experiment of kind ``scores`` is a table of rows. A row is a change of the settings (nothing for the baseline), the
networks that vote, and which mask is read; ``paper`` holds the paper's numbers, in per cent, in the order of
``scores``.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from normnet.config import Config, Section, load_config, override
from normnet.datasets.registry import with_role
from normnet.errors import ConfigError

SETS = {dataset.name: dataset.label for dataset in with_role("lesions")}
Reading = Literal["lesions", "no growing", "cap"]
Kind = Literal["datasets", "scores", "search-postprocessing", "search-threshold", "lungs", "figure"]


class Row(Section):
    """One line of a table.

    Attributes:
        id: Name on the command line.
        label: What is changed.
        settings: Sections and keys that differ from the scale's settings.
        votes: Networks that vote, by their place in the ensemble; None: as many as the scale says.
        length: Iterations, times the scale's.
        reading: The mask that is scored: Eq. 10, the same without dilation, or Fig. 4(g).
        shipped: The package as it ships (its weights, its settings) instead of a network trained
            here.
        paper: Data set to the paper's values.
    """

    id: str
    label: str
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    votes: tuple[int, ...] | None = None
    length: float = 1.0
    reading: Reading = "lesions"
    shipped: bool = False
    paper: dict[str, tuple[float, ...]] = Field(default_factory=dict)


class Experiment(Section):
    """A table or a figure.

    Attributes:
        name: On the command line; the name of its file.
        kind: Which code runs it.
        title: What it shows.
        where: Its place in the paper.
        cost: In words.
        note: What a reader must know to compare it with the paper.
        scores: Columns, names as in ``normnet.experiments.scores``.
        baseline: Row that others are compared with.
        rows: Of a table of scores.
        needs_lesions: CTs with lesion masks.
    """

    name: str
    kind: Kind
    title: str
    where: str
    cost: str = ""
    note: str = ""
    scores: tuple[str, ...] = ("dsc",)
    baseline: str = ""
    rows: tuple[Row, ...] = ()
    needs_lesions: bool = True


class Scale(Section):
    """At which size an experiment runs.

    Attributes:
        name: ``small``, ``paper`` or the name of a user's file.
        note: What is smaller than in the paper; printed under every table.
        cost: How long one network takes, in words.
        members: Networks that vote.
        seeds: Times that every training is done over with other seeds.
        settings: Sections and keys that differ from ``paper.toml``.
    """

    name: str
    note: str = ""
    cost: str = ""
    members: int = Field(default=5, ge=1)
    seeds: int = Field(default=1, ge=1)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)

    def config(self) -> Config:
        """All settings; a majority of those that vote decides."""
        config = override(load_config("paper"), self.settings, self.name)
        return config.model_copy(
            update={"inference": config.inference.model_copy(update={"min_votes": "majority"})}
        )


def experiments() -> dict[str, Experiment]:
    """Every experiment by name, in the order of the paper."""
    folder = resources.files("normnet") / "configs" / "experiments"
    names = [
        file.name.removesuffix(".toml") for file in folder.iterdir() if file.name.endswith(".toml")
    ]
    found = [
        Experiment(
            name=name, **tomllib.loads((folder / f"{name}.toml").read_text(encoding="utf-8"))
        )
        for name in names
    ]
    return {experiment.name: experiment for experiment in sorted(found, key=_order)}


def find_experiment(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ConfigError: NN-EXP-001 if there is none.
    """
    known = experiments()
    if name not in known:
        raise ConfigError(
            "NN-EXP-001", f"no experiment '{name}'", "reproduce", "see 'normnet reproduce --list'"
        )
    return known[name]


def load_scale(source: str) -> Scale:
    """A shipped scale (``"small"``, ``"paper"``) or one from a TOML file.

    Raises:
        ConfigError: If the file is missing, not TOML or holds wrong values.
    """
    if source in ("small", "paper"):
        text = (resources.files("normnet") / "configs" / "scales" / f"{source}.toml").read_text(
            encoding="utf-8"
        )
    else:
        try:
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                "NN-EXP-002", "no such scale", source, "give small, paper or a TOML file"
            ) from error
    try:
        scale = Scale(**{"name": Path(source).stem, **tomllib.loads(text)})
        scale.config()
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        what = str(error).splitlines()[0]
        raise ConfigError(
            "NN-EXP-003", f"not a scale ({what})", source, "see configs/scales/small.toml"
        ) from error
    return scale


def row_config(row: Row, scale: Scale) -> Config:
    """The settings of a row at a scale."""
    config = override(scale.config(), row.settings, row.id)
    iterations = max(1, round(config.training.iterations * row.length))
    return config.model_copy(
        update={"training": config.training.model_copy(update={"iterations": iterations})}
    )


def row_votes(row: Row, scale: Scale, seed: int) -> tuple[int, ...]:
    """Seeds of the networks that vote for a row, the ``seed``-th time it is done."""
    if row.votes is not None:
        return row.votes
    return tuple(range(seed * scale.members, (seed + 1) * scale.members))


def n_seeds(row: Row, scale: Scale) -> int:
    """Times a row is done; once where its networks are named."""
    return 1 if row.votes is not None or row.shipped else scale.seeds


def count_trainings(experiment: Experiment, scale: Scale) -> int:
    """Networks to train for a table from nothing."""
    wanted = set()
    for row in experiment.rows:
        if not row.shipped:
            config = row_config(row, scale)
            parts = (
                config.synthesis,
                config.training,
                config.window,
                config.preparation,
                config.network,
            )
            trained = tuple(part.model_dump_json() for part in parts)
            wanted |= {
                (trained, k)
                for seed in range(n_seeds(row, scale))
                for k in row_votes(row, scale, seed)
            }
    return len(wanted)


def _order(experiment: Experiment) -> tuple[int, str]:
    kinds = ("table", "supplementary1", "search", "lungs", "figure", "supplementary-figure")
    name = experiment.name
    return next(n for n, start in reversed(list(enumerate(kinds))) if name.startswith(start)), name
