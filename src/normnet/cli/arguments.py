"""Options that several commands have; each is written once, here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
ModelFolder = Annotated[Path | None, typer.Option(help="Folder made by 'normnet train'.")]
LungModel = Annotated[
    Path | None, typer.Option(help="Folder of train-lungs or nnU-Net, or lungmask file.")
]
LesionModel = Annotated[
    Path | None, typer.Option(help="Folder made by 'normnet train --config lesions'.")
]
LeftOut = Annotated[list[str] | None, typer.Option(help="A case to leave out; repeatable.")]
DataSets = Annotated[
    list[Path] | None,
    typer.Option("--data", help="Folder of a public data set or CSV list; repeatable."),
]
BenchFolder = Annotated[
    Path | None, typer.Option("--out", "-o", help="Folder for tables, networks and all else.")
]
ScaleName = Annotated[str, typer.Option(help="small, paper, or a TOML file.")]
Settings = Annotated[str, typer.Option(help="default, paper, lesions, or a TOML file.")]
Series = Annotated[
    str | None,
    typer.Option(help="SeriesInstanceUID, where a folder holds several, or auto: the best."),
]
KeepIdentity = Annotated[
    bool,
    typer.Option(
        "--keep-identity", help="DICOM objects name the patient and study, as a PACS needs it."
    ),
]
