"""Every setting of every stage, as TOML with the paper's names beside ours.

``configs/paper.toml`` holds the paper's numbers, ``configs/default.toml`` what the shipped ensemble was trained
and is used with, ``configs/lesions.toml`` the same for the lesion networks. A user's file overrides single keys of the
default.
"""

from __future__ import annotations

import difflib
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from normnet.errors import ConfigError

Range = tuple[float, float]


class Section(BaseModel):
    """A section of the file: unknown keys are refused, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class WindowConfig(Section):
    """HU window mapped to [0, 1] and the threshold of bright tissue (Sec. III-A, IV-B2)."""

    low_hu: float = -800.0
    high_hu: float = 100.0
    bright_hu: float = -500.0  # T; tau in the window

    @property
    def tau(self) -> float:
        """The bright threshold on the windowed scale; 1/3 for the paper's values."""
        return (self.bright_hu - self.low_hu) / (self.high_hu - self.low_hu)


class NetworkConfig(Section):
    """Shape of a U-Net."""

    spatial_dims: Literal[2, 3] = 3
    in_channels: int = 1
    channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    n_res_units: int = 2
    norm: Literal["batch", "instance"] = "batch"
    rare_start: bool = False  # begin with a steep output that says "no" almost everywhere

    @property
    def stride(self) -> int:
        """Every input axis must be a multiple of this."""
        return 2 ** (len(self.channels) - 1)


class LungsConfig(Section):
    """Grid and grey scale of the learned lung segmenter."""

    pixel_mm: float = 1.5
    slice_mm: float = 2.0  # thinner scans are looked at this far apart
    neighbours_mm: tuple[float, ...] = (
        6.0,
    )  # how far below and above lie slices that are seen with each
    # dense tissue: standard deviation of a Gaussian along z, over which slices agree; 0: none
    smooth_mm: float = 0.0
    low_hu: float = -1024.0
    high_hu: float = 600.0
    threshold: float = 0.5

    @property
    def n_seen(self) -> int:
        """Slices that the network sees: one and its neighbours on both sides."""
        return 2 * len(self.neighbours_mm) + 1


class PreparationConfig(Section):
    """Grid and crop of what the network sees (Sec. IV-B2) and the erroneous edges (Sec. III-B)."""

    spacing_mm: tuple[float, float, float] = (1.0, 0.8, 0.8)  # z, y, x
    margin_vox: int = 4  # around the lungs' bounding box
    align_vox: int = 16  # the crop starts at a multiple of this, the network's stride
    pool_vox: int = 2  # edge of the cubes that lesion networks see as one voxel
    pad_to: tuple[int, int] | None = (
        None  # (y, x); the paper pads to 512 x 512, the result inside is the same
    )
    edge_share: float = (
        0.5  # components with more of their voxels on the mask's edge are dropped in training
    )
    edge_vox: int = 2  # thickness of that edge
    edge_cut_rim: bool = False  # cut the chest wall's rim off the vessels first
    inspired_hu: float = -905.0  # what the lightest tenth of the lung is brought to
    breath_limits: Range = (
        0.0,
        0.0,
    )  # share of tissue in the air that is undone for it; 0, 0: the paper, nothing


class SynthesisConfig(Section):
    """The synthetic 'lesion' generator (Sec. III-C); lengths in voxels of the prepared grid."""

    n_small: Range = (5, 10)  # N_s ~ F[5 lambda, 10 lambda]
    n_medium: Range = (5, 10)  # N_m
    prob_large: float = 0.2  # P_L, times lambda
    axes_small_vox: Range = (3, 10)
    axes_medium_vox: Range = (10, 32)
    axes_large_vox: Range = (32, 64)
    elastic: Range = (0.15, 0.35)  # displacement over mean semi-axis; not published
    elastic_cells: int = 4  # control points an axis of an ellipsoid's box
    rotate: bool = True
    texture: str = "salt noise"  # a name of synthesis/textures.py
    sigma_a_vox: Range = (3, 15)  # Eq. 7
    a_limits: Range = (0.0, 0.3)  # Eq. 8: a_L, a_U ~ U[...]
    a_gap: float = 0.15  # a_U - a_L is larger
    sigma_b_fine_vox: Range = (0.8, 2.0)  # Eq. 4
    sigma_b_coarse_vox: Range = (2.0, 5.0)
    prob_fine: float = 0.7
    mu0: Range = (0.4, 0.8)  # Eq. 6
    mean_above: float = 0.2  # mean_t of Eq. 6


class GroundGlassConfig(Section):
    """Pale disease for the lesion networks, ours; lengths in voxels of their coarse grid."""

    prob_texture: float = 0.2  # blobs that carry the paper's texture instead
    density: Range = (0.08, 0.9)  # share of the air that is fluid
    density_clumped: Range = (0.2, 0.9)
    soft_vox: Range = (0.3, 1.8)  # edge
    grain: Range = (0.0, 0.4)  # relative, fine and coarse
    sigma_fine_vox: Range = (0.5, 1.2)
    sigma_coarse_vox: Range = (1.5, 5.0)
    prob_mottled: float = 0.3
    sigma_mottled_vox: Range = (0.6, 2.5)
    prob_clumped: float = (
        0.4  # dense spots in hardly changed lung, the patch around them is the lesion
    )
    sigma_clumped_vox: Range = (0.6, 3.5)
    clump_level: Range = (-0.2, 1.1)  # clumps are where unit noise exceeds it
    prob_empty: float = 0.1  # slabs without disease


class TrainingConfig(Section):
    """How one member is trained (Sec. IV-B3) and what is varied in its slabs."""

    # "normal": bright tissue, the paper's. "areas", "lesions": all healthy lung, the synthetic
    # lesions (Table IV). "disease": what the shipped lesion networks learn, dense and pale disease
    # on a coarse grid.
    target: Literal["normal", "areas", "lesions", "disease"] = "normal"
    slab_vox: tuple[int, int, int] = (32, 512, 512)
    batch: int = 8
    iterations: int = 2000
    learning_rate: float = 3e-4
    schedule: Literal["constant", "cosine"] = "constant"
    falls_to: float = 0.02  # share of the learning rate that the cosine ends at
    # the weights that count are a running mean, to which each step's add this share; 0: the last
    average: float = 0.0
    members: int = 5
    seed: int = 0
    checkpoint_every: int = 100
    remove_edges: bool = True  # III-B; False: the rim of the lung mask is learned as normal
    flip: bool = False  # mirror slabs along each axis
    prob_thick: float = 0.0  # slabs blurred along z as thick slices are
    thick_mm: Range = (2.0, 6.0)
    prob_noise: float = 0.0  # slabs with reconstruction noise
    noise_hu: Range = (5.0, 60.0)
    prob_shift: float = 0.0  # slabs whose air is denser or lighter (breathing, scale of the HU)
    shift_hu: Range = (-40.0, 60.0)


class VariationConfig(Section):
    """How healthy lungs and scanners differ, for the lesion networks; ours."""

    zoom: Range = (0.85, 1.18)
    rotate_deg: Range = (0.0, 0.0)  # in the axial plane
    elastic_vox: Range = (0.0, 0.0)  # standard deviation of a smooth displacement
    scale: Range = (0.95, 1.05)  # of HU + 1024: calibration
    prob_breath: float = 0.35
    breath: Range = (-0.03, 0.08)  # share of the air that is tissue, in the whole lung
    prob_gradient: float = 0.3
    gradient: Range = (0.0, 0.06)  # the same at the back, growing from nothing at the front
    gradient_power: Range = (1.0, 1.0)  # 1: evenly; larger: in the dependent part alone
    prob_motion: float = 0.0  # slabs in which the diaphragm or the heart has moved
    motion_vox: Range = (2.0, 6.0)  # how far
    motion_share: Range = (0.2, 0.6)  # of the time
    motion_sigma_vox: Range = (6.0, 16.0)  # of the region
    prob_regional: float = 0.3
    regional: Range = (0.0, 0.025)  # the same, rising and falling over a tenth of the slab
    prob_kernel: float = 0.0  # slabs smoothed or sharpened inside the lungs, disease included
    kernel: Range = (-0.7, 1.0)  # share of the way to the smoothed lungs; below 0 sharper
    kernel_sigma_vox: Range = (0.4, 1.0)
    prob_slices: float = 0.3
    slices: float = 0.015  # standard deviation of every slice's own scale of HU + 1024
    lung_share: Range = (
        0.1,
        0.6,
    )  # thick slices: voxels with more lung than this are in the mask, hazy domes too


class InferenceConfig(Section):
    """Slabs over the lungs and the vote (Sec. IV-B3)."""

    slab_vox: int = 32  # slices a window sees, as in training; windows lie half a slab apart
    # "vote": normal is what enough members call normal; "mean": where their mean probability of
    # normal is above prob_normal
    rule: Literal["vote", "mean"] = "vote"
    prob_normal: float = 0.95
    min_votes: int | None = None  # None: more than half of the members
    max_members: int | None = Field(default=None, ge=1)  # only the first ones vote; None: all


class PostprocessingConfig(Section):
    """Mean filters and thresholds (Sec. III-D, Eq. 10); all from lesion networks on is ours."""

    k_d: int = 9
    k_f: int = 7
    t_d: float = 0.2
    t_f: float = 0.15
    dilation_vox: int = 4  # not published; capped by I_g
    dimensions: Literal[2, 3] = 3  # of the mean filters
    normalised: bool = False  # means over lung voxels only
    lesion_networks: bool = False  # use them, and the boundary below; False: the paper
    prob_lesion: float = 0.1  # could be lesion: they give it more than this,
    prob_possible: float = 0.02  # or Eq. 10 finds it and they give it more than this
    step_hu: float = 60.0  # lesion: denser than the healthy lung by this
    share: float = 0.15  # and this share of the way from there to the disease
    share_range: Range = (0.05, 0.25)  # the volume is also told for these
    disease_percentile: float = (
        75.0  # the disease's density: this percentile of what is more likely lesion than not
    )
    least_contrast_hu: float = 150.0  # of the disease with the healthy lung
    density_sigma_vox: float = 2.0  # the density is smoothed with this Gaussian
    rim_vox: int = (
        0  # layers of the lungs' outline, in each slice, that are never lesion; 0: the paper
    )
    lungs_vox: int = (
        0  # steps from a lesion within which bright tissue that could be lung is lung; 0: the paper
    )
    lungs_prob: float = 0.1  # could be lung: the lung networks give it more than this


class Config(Section):
    """All stages."""

    window: WindowConfig = WindowConfig()
    lungs: LungsConfig = LungsConfig()
    preparation: PreparationConfig = PreparationConfig()
    synthesis: SynthesisConfig = SynthesisConfig()
    ground_glass: GroundGlassConfig = GroundGlassConfig()
    network: NetworkConfig = NetworkConfig()
    training: TrainingConfig = TrainingConfig()
    variation: VariationConfig = VariationConfig()
    inference: InferenceConfig = InferenceConfig()
    postprocessing: PostprocessingConfig = PostprocessingConfig()


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    keys = []
    for name, info in model.model_fields.items():
        keys.append(prefix + name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys += _known_keys(info.annotation, f"{prefix}{name}.")
    return keys


def parse_config(values: dict[str, Any], where: str) -> Config:
    """Check nested settings.

    Raises:
        ConfigError: For the first unknown key (with the nearest known one) or wrong value.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            near = difflib.get_close_matches(key, _known_keys(Config), n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else "see configs/default.toml for all keys"
            raise ConfigError("NN-CFG-001", f"unknown setting '{key}'", where, hint) from error
        message = first["msg"][0].lower() + first["msg"][1:]
        raise ConfigError(
            "NN-CFG-002", f"wrong value of '{key}': {message}", where, "mend the value"
        ) from error


def parse_manifest_config(values: dict[str, Any], where: str) -> tuple[Config, list[str]]:
    """Check the settings of a trained model, some of which this version may not know.

    Returns:
        The settings, and the names of the unknown ones, which are left out.

    Raises:
        ConfigError: For the first wrong value.
    """
    known = set(_known_keys(Config))
    kept, unknown = {}, []
    for name, section in values.items():
        if name not in Config.model_fields:
            unknown.append(name)
            continue
        if isinstance(section, dict):
            unknown += [f"{name}.{key}" for key in section if f"{name}.{key}" not in known]
            section = {key: value for key, value in section.items() if f"{name}.{key}" in known}
        kept[name] = section
    return parse_config(kept, where), unknown


def load_config(source: str | Path | None = None) -> Config:
    """Settings by name of a shipped file (``"paper"``, ``"default"``, ``"lesions"``) or by path of a TOML file.

    A path overrides single keys of the default.

    Raises:
        ConfigError: If the file is missing, not TOML, or holds unknown keys or wrong values.
    """
    shipped = resources.files("normnet") / "configs"
    base = tomllib.loads((shipped / "default.toml").read_text(encoding="utf-8"))
    if source is None or str(source) == "default":
        return parse_config(base, "default.toml")
    if str(source) in ("paper", "lesions"):
        name = f"{source}.toml"
        return parse_config(tomllib.loads((shipped / name).read_text(encoding="utf-8")), name)
    path = Path(source)
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            "NN-CFG-003",
            "no such config",
            str(source),
            "give 'paper', 'default', 'lesions' or a TOML file",
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            "NN-CFG-004", f"not TOML ({error})", str(source), "mend the file"
        ) from error
    return parse_config(_merged(base, values), str(source))


def override(config: Config, values: dict[str, Any], where: str) -> Config:
    """The settings with single keys of ``values`` (as a TOML file holds them) put over; raises as ``parse_config``."""
    return parse_config(_merged(config.model_dump(), values), where)


def _merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    merged = {name: dict(section) for name, section in base.items()}
    for name, section in values.items():
        if isinstance(section, dict):
            merged.setdefault(name, {}).update(section)
        else:
            merged[name] = section
    return merged
