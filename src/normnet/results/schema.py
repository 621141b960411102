"""What the results of a scan hold: files, keys of ``result.json``, columns of ``results.csv``.

A result folder holds masks and maps on the scan's own grid, a picture, and ``result.json``. This
file is written last: where it is, the result is complete. Its keys:

    normnet      version of the package
    notice       research use only
    status       "ok", "no_lung" or "error"
    case_id      name of the result, made of the names that the user gave to files and folders
    source       path of the input, from the given argument on; empty if it is unknown
    key          sha256 of all that the result follows from: the input, the model, the settings and
                 a given lung mask
    scan         shape_zyx and spacing_mm_zyx of the input's own grid; averaged_slices: so many
                 neighbouring slices were averaged, since all of them do not fit in memory, else 1;
                 thickness_mm of a slice and kernel, as a DICOM header states them, else null and
                 empty
    volumes      lung_ml, lesion_ml and lesion_percent (% of the lung) of both lungs, of the right
                 and of the left one
    uncertainty  lesion_ml and lesion_percent of both lungs at a narrower and at a wider edge, as
                 [low, high]; regions: lesion_ml of each side and zone; empty without the lesion
                 networks
    quality      flags: ids of what may make the numbers unreliable; slice_mm, noise_hu and
                 contrast_percent, which decide on three of them
    quantification  zones: volumes of the upper, middle and lower third of each lung; hu_bands: lung
                 and lesion in bands of density, a band holds low_hu but not high_hu;
                 ground_glass_percent and consolidation_percent: of the lesion;
                 mean_lung_density_hu and mean_lesion_density_hu; lung_density_histogram: ml in bins
                 of 25 HU, what lies beyond is left out; lesions: count of those of min_ml and more,
                 and the largest ten with volume, largest diameter in 3D, zone and mean density;
                 severity: zones_score of 0 to 24 and its parts; split_votes_percent: share of the
                 voxels voted on where the members disagree, split_votes_lesion_percent: the same in
                 the lesions; with a lobe mask also lobes and severity.lobes_score of 0 to 25
    certainty    lesion_ml_range: deprecated, the numbers of uncertainty.lesion_ml; share_range: the
                 shares at which these are measured; healthy_hu, disease_hu and boundary_hu:
                 densities of healthy lung, of disease and of the boundary between them, in a deep
                 inspiration; tissue_in_air: the share of tissue that was taken out of the air for
                 that
    labels       what the values of the images mean
    model        name, version, n_members, min_votes, prob_normal, bright_hu: from which density on
                 the members vote, the sha256 of all manifests, the name of the lung segmenter, and
                 the precision: bfloat16 or float32, the type that the networks computed in; the
                 backend: the library and the kind of device that ran them
    warnings     one line each
    edited       only where a person changed the lesions in ``normnet serve``: share, where the
                 slider stood, and default_share; removed, the lesions that were taken out, each
                 with label, ml, diameter_mm, zone, mean_hu and a position in it, at_mm_xyz (LPS);
                 rest_removed, whether those beyond the list were taken out, too; removed_ml, of all
                 of them. uncertainty is then empty
    dicom        only with DICOM objects: identity, "kept" or "removed". Their UIDs and times are
                 new in each run
    files        sha256 of each file beside it
    error        only where the status is not "ok": id, message and exit_code
    seconds      time of each stage; the only key that differs between two equal runs

``results.csv`` beside the result folders has one row per folder; ``COLUMNS`` lists its columns.
``results.parquet``, where it was asked for, has the same columns with types.

To add a number, compute it in ``describe_result``, name it above, and add a ``Column`` with, if the
picture shall show it, a ``caption``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from normnet.io.fingerprint import digest_of
from normnet.io.json_files import read_json
from normnet.quantification import BANDS_HU, ZONES
from normnet.version import __version__

if TYPE_CHECKING:
    from normnet.config import Config
    from normnet.errors import NormNetError
    from normnet.models import Model
    from normnet.pipeline import Segmentation
    from normnet.scan import Scan

NOTICE = "Research use only, not a medical device."
RESULT = "result.json"
FILES = ("lesions.nii.gz", "lungs.nii.gz", "anomaly.nii.gz", "votes.nii.gz", "preview.png")
# What a result holds beside FILES where it was asked for: see ``results.exports`` and ``report``.
EXPORTS = ("segmentation.dcm", "anomaly.dcm", "measurements.dcm", "segmentation.seg.nrrd")
PAGES = ("report.html", "report.pdf")
REQUESTED = (*EXPORTS, *PAGES)
LABELS = {
    "lesions.nii.gz": {"0": "no lesion", "1": "lesion"},
    "lungs.nii.gz": {"0": "outside", "1": "right lung", "2": "left lung"},
    "anomaly.nii.gz": "probability of anomaly in the lungs, stored / 255: where they are bright, "
    "1 - mean probability of normal, averaged with the lesion networks where these are used; "
    "elsewhere the lesion networks alone, or 0 without them",
    "votes.nii.gz": "members of the ensemble that voted normal where the lung is bright, else 0",
}
NO_LUNG = "NN-VAL-020"
# Types of what is looked up in a result that was read.
_KINDS: dict[str, type] = {
    **dict.fromkeys(("normnet", "status", "case_id"), str),
    **dict.fromkeys(
        ("key", "scan", "volumes", "certainty", "uncertainty", "quality", "quantification"), dict
    ),
    **dict.fromkeys(("files", "error", "seconds"), dict),
    "warnings": list,
}

Result = dict[str, Any]


def describe_result(
    segmentation: Segmentation,
    scan: Scan,
    model: Model,
    config: Config,
    key: dict[str, str] | None,
    source: str = "",
) -> Result:
    """The content of ``result.json`` for a segmented scan, without ``files`` and ``seconds``.

    Args:
        segmentation: Of ``scan``, on its grid.
        scan: As read.
        model: What segmented it.
        config: Settings used.
        key: As made by ``results.folder.result_key``.
        source: Path of the input, for people; empty if it is unknown.
    """
    return {
        **_head("ok", scan.case_id, key, source),
        "scan": {
            "shape_zyx": list(scan.file_shape),
            "spacing_mm_zyx": [round(v, 6) for v in scan.file_geometry.spacing_mm],
            "averaged_slices": 1 if scan.joined is None else scan.joined.size,
            "thickness_mm": scan.thickness_mm,
            "kernel": scan.kernel,
        },
        "volumes": segmentation.volumes,
        "uncertainty": segmentation.uncertainty,
        "quality": segmentation.quality,
        "quantification": segmentation.quantification,
        "certainty": segmentation.certainty,
        "labels": LABELS,
        "model": {
            **_describe_model(model, config),
            "lungs": segmentation.lungs_by,
            "precision": segmentation.precision,
            "backend": segmentation.backend,
        },
        "warnings": list(dict.fromkeys((*scan.warnings, *segmentation.warnings))),
    }


def describe_failure(
    case_id: str, error: NormNetError, key: dict[str, str] | None, source: str = ""
) -> Result:
    """The content of ``result.json`` for a scan that has no result."""
    status = "no_lung" if error.code == NO_LUNG else "error"
    found = {"id": error.code, "message": str(error), "exit_code": error.exit_code}
    return {**_head(status, case_id, key, source), "error": found}


def _head(status: str, case_id: str, key: dict[str, str] | None, source: str) -> Result:
    return {
        "normnet": __version__,
        "notice": NOTICE,
        "status": status,
        "case_id": case_id,
        "source": source,
        "key": key or {},
    }


def _describe_model(model: Model, config: Config) -> dict[str, Any]:
    n_members = len(model.voters(config.inference))
    return {
        "name": str(model.ensemble.manifest.get("name", "normnet")),
        "version": str(
            model.ensemble.manifest.get("version", model.ensemble.manifest.get("normnet", ""))
        ),
        "n_members": n_members,
        "min_votes": config.inference.votes_needed(n_members),
        "prob_normal": config.inference.prob_normal,
        "bright_hu": config.window.bright_hu,
        "sha256": digest_of(model.ensemble.manifest),
        "lungs_sha256": digest_of(model.lungs.manifest),
        "lesions_sha256": digest_of(model.lesions.manifest),
    }


def model_label(model: dict[str, Any]) -> str:
    """The key ``model`` of a result in one line: name, version, members that vote, its sha256."""
    names = " ".join(filter(None, (model["name"], model["version"])))
    members = f"{model['n_members']} member{'s' if model['n_members'] > 1 else ''}"
    return f"{names}, {members}, {model['sha256'][:8]}"


def read_result(folder: Path, name: str = RESULT) -> Result | None:
    """The ``result.json`` of a folder.

    Returns:
        None if there is no such file, or if it cannot be a result of any version of normnet.
    """
    result = read_json(folder / name)
    fits = isinstance(result, dict) and all(
        isinstance(result[key], kind) for key, kind in _KINDS.items() if key in result
    )
    return result if fits else None


def is_own(result: Result | None) -> bool:
    """Whether the content of a ``result.json`` was written by normnet."""
    return result is not None and {"normnet", "status", "case_id"} <= set(result)


def _at(*keys: str | int) -> Callable[[Result], Any]:
    """Looks up what stands below these keys of a result; None where one of them is missing."""

    def look_up(result: Result) -> Any:
        value: Any = result
        for key in keys:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    return look_up


def _in(name: str) -> Callable[[Result], Any]:
    return _at("quantification", name)


def _warnings(result: Result) -> str:
    return " | ".join(map(str, result.get("warnings", [])))


def _flags(result: Result) -> str:
    flags = result.get("quality", {}).get("flags")
    return " ".join(map(str, flags)) if isinstance(flags, list) else ""


def _seconds(result: Result) -> float | None:
    seconds = result.get("seconds", {})
    times = [value for value in seconds.values() if isinstance(value, int | float)]
    return round(sum(times), 3) if times else None


class Column(NamedTuple):
    """A column of ``results.csv``.

    Attributes:
        name: Its heading.
        meaning: What stands in it.
        value: Looks it up in the content of ``result.json``. None is an empty cell.
        caption: Format of the value in the picture's caption; empty: not shown there.
        kind: Type of the value in ``results.parquet``.
    """

    name: str
    meaning: str
    value: Callable[[Result], Any]
    caption: str = ""
    kind: type = float


COLUMNS = (
    Column("case_id", "name of the result", _at("case_id"), kind=str),
    Column("folder", "folder of the result", _at("folder"), kind=str),
    Column("source", "path of the input, from the given argument on", _at("source"), kind=str),
    Column("status", "ok, no_lung or error", _at("status"), kind=str),
    Column("error", "id of the error, where there is one", _at("error", "id"), kind=str),
    Column("lung_ml", "volume of both lungs", _at("volumes", "both", "lung_ml")),
    Column("right_lung_ml", "volume of the right lung", _at("volumes", "right", "lung_ml")),
    Column("left_lung_ml", "volume of the left lung", _at("volumes", "left", "lung_ml")),
    Column("lesion_ml", "all lesions", _at("volumes", "both", "lesion_ml"), "Lesions {:.1f} ml"),
    Column("right_lesion_ml", "lesions on the right", _at("volumes", "right", "lesion_ml")),
    Column("left_lesion_ml", "lesions on the left", _at("volumes", "left", "lesion_ml")),
    Column(
        "lesion_percent",
        "lesions, % of both lungs",
        _at("volumes", "both", "lesion_percent"),
        "{:.1f} % of the lung",
    ),
    Column("right_lesion_percent", "% of that lung", _at("volumes", "right", "lesion_percent")),
    Column("left_lesion_percent", "% of that lung", _at("volumes", "left", "lesion_percent")),
    Column(
        "lesion_ml_low",
        "narrower edge",
        _at("uncertainty", "lesion_ml", 0),
        "narrower edge {:.1f} ml",
    ),
    Column(
        "lesion_ml_high", "wider edge", _at("uncertainty", "lesion_ml", 1), "wider edge {:.1f} ml"
    ),
    Column("lesion_percent_low", "narrower edge", _at("uncertainty", "lesion_percent", 0)),
    Column("lesion_percent_high", "wider edge", _at("uncertainty", "lesion_percent", 1)),
    *(
        Column(f"{zone}_{name}", meaning, _at("quantification", "zones", zone, name))
        for zone in ZONES
        for name, meaning in (
            ("lesion_ml", "lesions in that third of the lung"),
            ("lesion_percent", "% of that third of the lung"),
        )
    ),
    Column(
        "ground_glass_percent", "-750 to -300 HU, % of the lesions", _in("ground_glass_percent")
    ),
    Column(
        "consolidation_percent", "-300 to 50 HU, % of the lesions", _in("consolidation_percent")
    ),
    *(
        Column(
            f"{band}_lung_percent",
            "% of the lungs in this band of HU",
            _at("quantification", "hu_bands", band, "lung_percent"),
        )
        for band in BANDS_HU
    ),
    Column("mean_lung_density_hu", "of both lungs with the lesions", _in("mean_lung_density_hu")),
    Column("mean_lesion_density_hu", "of the lesions", _in("mean_lesion_density_hu")),
    Column(
        "n_lesions",
        "lesions of 0.1 ml and more",
        _at("quantification", "lesions", "count"),
        kind=int,
    ),
    Column(
        "largest_lesion_ml",
        "volume of the largest lesion",
        _at("quantification", "lesions", "largest", 0, "ml"),
    ),
    Column(
        "largest_lesion_mm",
        "largest diameter of that lesion",
        _at("quantification", "lesions", "largest", 0, "diameter_mm"),
    ),
    Column(
        "zones_score",
        "severity, 0 to 24",
        _at("quantification", "severity", "zones_score"),
        kind=int,
    ),
    Column(
        "lobes_score",
        "severity, 0 to 25; empty without a lobe mask",
        _at("quantification", "severity", "lobes_score"),
        kind=int,
    ),
    Column("split_votes_percent", "% of the voxels voted on", _in("split_votes_percent")),
    Column("slice_mm", "distance of the slices", _at("quality", "slice_mm")),
    Column("noise_hu", "standard deviation in soft tissue", _at("quality", "noise_hu")),
    Column("flags", "quality flags, separated by spaces", _flags, kind=str),
    Column("warnings", "all warnings, separated by ' | '", _warnings, kind=str),
    Column("seconds", "time of all stages together", _seconds),
)


def write_caption(result: Result) -> str:
    """The numbers in the head of the picture, as one line."""
    values = [(column.caption, column.value(result)) for column in COLUMNS if column.caption]
    return ", ".join(caption.format(value) for caption, value in values if value is not None)
