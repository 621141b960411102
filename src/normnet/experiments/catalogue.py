"""What can be reproduced: one short TOML per experiment, and the scales at which it can run.

An experiment of kind ``scores`` is a table of rows. A row is a change of the settings (empty for
NormNet itself), the networks that vote, and the mask that is scored; or it is another method (see
``rivals``). ``paper`` holds the paper's numbers, in per cent, in the order of ``scores``.
"""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field, field_validator

from normnet.config import Config, Members, Section, load_config, override
from normnet.datasets.registry import with_role
from normnet.errors import ConfigError
from normnet.evaluation.scores import SCORES

SETS = {dataset.name: dataset.label for dataset in with_role("lesions")}
Reading = Literal["lesions", "no growing", "cap"]
N_VOTES = 5  # of the paper's ensemble, whose networks a row can name
Kind = Literal["datasets", "scores", "search-postprocessing", "search-threshold", "lungs", "figure"]


class Row(Section):
    """One row of a table.

    Attributes:
        id: Name on the command line.
        label: What is changed; the heading of the row.
        settings: Sections and keys that differ from the scale's settings.
        votes: Networks that vote, by their place in an ensemble of five; None: as many as the scale
            says.
        length: Iterations as a multiple of the scale's.
        reading: The mask that is scored: Eq. 10, the same without dilation, or Fig. 4(g).
        shipped: Score the package as it ships (its weights, its settings); nothing is trained.
        method: Another method in place of NormNet, by its name in ``rivals``; it is trained once.
        paper: The paper's values for each data set.
    """

    model_config = ConfigDict(strict=False)  # lists become tuples

    id: str
    label: str
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    votes: tuple[int, ...] | None = None
    length: float = 1.0
    reading: Reading = "lesions"
    shipped: bool = False
    method: str = ""
    paper: dict[str, tuple[float, ...]] = Field(default_factory=dict)


class Experiment(Section):
    """A table or a figure.

    Attributes:
        name: Name on the command line and of its file.
        kind: Which code runs it.
        title: What it shows.
        where: Its place in the paper.
        cost: Time and trainings, in words.
        note: What a reader must know to compare it with the paper.
        scores: Columns of a table of scores, by their names in ``normnet.evaluation.scores``.
        compared_with: Id of the row that the other rows are compared with; empty: no comparison.
        rows: Rows of a table of scores.
        needs_lesions: Whether it needs CTs with lesion masks.
    """

    model_config = ConfigDict(strict=False)  # lists become tuples

    name: str
    kind: Kind
    title: str
    where: str
    cost: str = ""
    note: str = ""
    scores: tuple[str, ...] = ("dsc",)
    compared_with: str = ""
    rows: tuple[Row, ...] = ()
    needs_lesions: bool = True

    @field_validator("scores")
    @classmethod
    def _scores_are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in SCORES]
        if unknown:
            raise ValueError(f"no score '{unknown[0]}'")
        return names


class Baselines(Section):
    """Size and length of the unsupervised methods' trainings; the defaults are the paper's.

    Attributes:
        size: Pixels per side of a slice; some methods have a smaller one.
        iterations: Of every stage of a training.
        batch: Number of slices.
        learning_rate: Of Adam.
        restore_steps: Steps of a restoration (``vae-restoration``).
    """

    size: int = Field(default=512, ge=16, le=1024)
    iterations: int = Field(default=6000, ge=1, le=1_000_000)
    batch: int = Field(default=16, ge=1, le=1024)
    learning_rate: float = Field(default=3e-4, gt=0, le=1)
    restore_steps: int = Field(default=150, ge=1, le=10_000)


class SupervisedSizes(Section):
    """Size and length of the trainings of COPLE-Net and Inf-Net.

    Attributes:
        size: Pixels per side of a slice, at most.
        iterations: Number of batches.
        batch: Number of slices.
        learning_rate: Of Adam at the start; it falls along a half cosine to 0.
        folds: Number of folds of patients; nnU-Net's, too.
    """

    size: int = Field(default=384, ge=32, le=1024)
    iterations: int = Field(default=6000, ge=1, le=1_000_000)
    batch: int = Field(default=16, ge=1, le=1024)
    learning_rate: float = Field(default=3e-4, gt=0, le=1)
    folds: int = Field(default=2, ge=2, le=20)


class Scale(Section):
    """At which size an experiment runs.

    Attributes:
        name: ``small``, ``paper`` or the name of a user's file.
        note: What is smaller than in the paper; printed with every table.
        cost: How long one network takes, in words.
        members: Number of networks that vote.
        seeds: Number of times that every training is done, each time with another seed.
        settings: Sections and keys that differ from ``paper.toml``.
        baselines: Size and length of the unsupervised methods' trainings.
        supervised: Size and length of the supervised methods' trainings, and their folds.
        nnunet_trainer: nnU-Net's trainer; a name such as ``nnUNetTrainer_10epochs`` says how long.
    """

    name: str
    note: str = ""
    cost: str = ""
    members: Members = 5
    seeds: Members = 1
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    baselines: Baselines = Field(default_factory=Baselines)
    supervised: SupervisedSizes = Field(default_factory=SupervisedSizes)
    nnunet_trainer: str = Field(default="nnUNetTrainer", pattern=r"^\w+$")

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
            if not Path(source).is_file():  # a folder, or a pipe that would block
                raise FileNotFoundError(source)
            text = Path(source).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                "NN-EXP-002", "no such scale", source, "give small, paper or a TOML file"
            ) from error
    try:
        scale = Scale(**{"name": Path(source).stem, **tomllib.loads(text)})
        scale.config()
    except (ValueError, RecursionError) as error:  # those of TOML and pydantic are ValueErrors
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
    """Seeds of the networks that vote for a row in its repetition ``seed``."""
    if row.votes is not None:
        return tuple(seed * N_VOTES + vote for vote in row.votes)
    return tuple(range(seed * scale.members, (seed + 1) * scale.members))


def n_seeds(row: Row, scale: Scale) -> int:
    """Number of times a row is done; once if it is another method or trains nothing."""
    return 1 if row.method or row.shipped else scale.seeds


def count_trainings(experiment: Experiment, scale: Scale) -> int:
    """Number of NormNet's networks to train for a table if none is there."""
    wanted = set()
    for row in experiment.rows:
        if not row.shipped and not row.method:
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
