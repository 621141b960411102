"""Every setting of every stage, as TOML with the paper's names beside ours.

``configs/paper.toml`` holds the paper's numbers. ``configs/default.toml`` extends it with what the
shipped ensemble was trained and is used with, and ``configs/lesions.toml`` extends that for the
lesion networks. A user's file changes single keys of the file that its ``extends`` names
(``"default"`` where it names none).
"""

from __future__ import annotations

import difflib
import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from normnet.errors import ConfigError

SHIPPED = ("paper", "default", "lesions")  # files in configs/, by name
Range = tuple[float, float]
Size = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A section of the file: unknown keys are errors, and values never change after reading."""

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
    start_gain: float = 4.0  # of the last map before the output, with rare_start
    start_logit: float = -3.0  # of the output, with rare_start

    @property
    def stride(self) -> int:
        """Every input axis must be a multiple of this."""
        return 1 << (len(self.channels) - 1)


class LungsConfig(Section):
    """Grid and grey scale of the learned lung segmenter."""

    pixel_mm: float = 1.5
    slice_mm: float = 2.0  # in thinner scans, slices this far apart are segmented
    # The network sees each slice with the slices this far below and above it.
    neighbours_mm: tuple[float, ...] = (6.0,)
    # In dense tissue the probability is smoothed along z by a Gaussian of this sigma; 0: nowhere.
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
    # "crop": the lungs' box as it is. A size, one for both axes or (y, x): zeros around it up to
    # there; the paper pads to 512 x 512.
    pad_to: Literal["crop"] | Size | tuple[Size, Size] = "crop"
    # Training drops components with more than this share of their voxels on the mask's edge.
    edge_share: float = 0.5
    edge_vox: int = 2  # thickness of that edge
    edge_cut_rim: bool = False  # cut the chest wall's rim off the vessels first
    inspired_hu: float = -905.0  # density that the lightest tenth of the lung is brought to
    # Limits of the share of tissue in the air that is taken out for it; 0, 0: nothing, the paper.
    breath_limits: Range = (0.0, 0.0)

    @property
    def padded_yx_vox(self) -> tuple[int, int] | None:
        """Least size in y and x; None where the lungs' box is not padded."""
        if isinstance(self.pad_to, str):
            return None
        return (self.pad_to, self.pad_to) if isinstance(self.pad_to, int) else self.pad_to


class SynthesisConfig(Section):
    """The synthetic 'lesion' generator (Sec. III-C); lengths in voxels of the prepared grid."""

    n_small: Range = (5, 10)  # N_s ~ F[5 lambda, 10 lambda]
    n_medium: Range = (5, 10)  # N_m
    prob_large: float = 0.2  # P_L, times lambda
    axes_small_vox: Range = (3, 10)
    axes_medium_vox: Range = (10, 32)
    axes_large_vox: Range = (32, 64)
    elastic: Range = (0.15, 0.35)  # displacement over mean semi-axis; not published
    elastic_cells: int = 4  # control points per axis of an ellipsoid's box
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
    mottled_floor: Range = (0.1, 0.6)  # relative density between the spots
    mottled_gain: Range = (0.6, 1.8)  # what the spots add to it
    # Dense spots in lung that hardly changes; the patch around them is the lesion.
    prob_clumped: float = 0.4
    sigma_clumped_vox: Range = (0.6, 3.5)
    clump_level: Range = (-0.2, 1.1)  # clumps are where unit noise exceeds it
    clump_edge: Range = (0.1, 0.5)  # width of their edge, in units of that noise
    clump_floor: Range = (0.0, 0.35)  # relative density between the clumps
    most_fluid: float = 0.97  # largest share of the air that is fluid
    texture_hu: Range = (-800.0, 100.0)  # window of the paper's textures, Sec. IV-B2
    prob_empty: float = 0.1  # slabs without disease


class TrainingConfig(Section):
    """How one member is trained (Sec. IV-B3) and what is varied in its slabs."""

    # "normal": bright tissue, the paper's. "areas", "lesions": all healthy lung, the synthetic
    # lesions (Table IV). "disease": what the shipped lesion networks learn, dense and pale disease
    # on a coarse grid.
    target: Literal["normal", "areas", "lesions", "disease"] = "normal"
    slab_vox: tuple[int, int, int] = (32, 512, 512)
    usable_share: float = 0.5  # target "disease": least share of a slab's slices without findings
    batch: int = 8
    iterations: int = 2000
    learning_rate: float = 3e-4
    schedule: Literal["constant", "cosine"] = "constant"
    warm_up: int = 50  # iterations in which the rate of "cosine" rises from zero
    falls_to: float = 0.02  # share of the learning rate that "cosine" ends at
    # The trained weights are a running mean, to which each iteration adds this share of its own;
    # 0: the weights of the last iteration.
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
    noise_sigma_vox: Range = (0.4, 1.0)  # grain of that noise


class VariationConfig(Section):
    """How healthy lungs and scanners differ, for the lesion networks; ours."""

    zoom: Range = (0.85, 1.18)
    rotate_deg: Range = (0.0, 0.0)  # in the axial plane
    elastic_vox: Range = (0.0, 0.0)  # standard deviation of a smooth displacement
    elastic_points: int = 5  # control points per axis of that displacement
    scale: Range = (0.95, 1.05)  # of HU + 1024: calibration
    prob_breath: float = 0.35
    breath: Range = (-0.03, 0.08)  # share of the air that is tissue, in the whole lung
    prob_gradient: float = 0.3
    gradient: Range = (0.0, 0.06)  # the same at the back, growing from nothing at the front
    gradient_power: Range = (1.0, 1.0)  # 1: evenly; larger: in the dependent part alone
    prob_anterior: float = 0.2  # of those, slabs in which it grows to the front: prone patients
    prob_motion: float = 0.0  # slabs in which the diaphragm or the heart has moved
    motion_vox: Range = (2.0, 6.0)  # how far
    motion_share: Range = (0.2, 0.6)  # of the time
    motion_sigma_vox: Range = (6.0, 16.0)  # of the region
    motion_near_vox: int = 4  # greatest distance of its centre from the border that moves
    motion_across_vox: int = 45  # from there to the other lung, across the heart
    prob_regional: float = 0.3
    regional: Range = (0.0, 0.025)  # the same, rising and falling over a tenth of the slab
    regional_points: int = 10  # control points per axis of that density
    prob_kernel: float = 0.0  # slabs smoothed or sharpened inside the lungs, disease included
    kernel: Range = (-0.7, 1.0)  # share of the way to the smoothed lungs; below 0 sharper
    kernel_sigma_vox: Range = (0.4, 1.0)
    prob_slices: float = 0.3
    slices: float = 0.015  # standard deviation of every slice's own scale of HU + 1024
    # Thick slices: voxels with more lung than a share drawn from here are in the mask.
    lung_share: Range = (0.1, 0.6)


class LungsTrainingConfig(Section):
    """How the lung segmenter is trained and what is varied in its crops; ours.

    A width is that of an interval around zero, from which a value is drawn evenly.
    """

    channels: tuple[int, ...] = (16, 32, 64, 128, 256)  # of its U-Net
    n_res_units: int = 2
    iterations: int = Field(default=3000, ge=1)
    batch: int = 12
    learning_rate: float = 1.5e-3  # peak; falls to zero along a cosine
    rise_share: float = 0.05  # share of the iterations in which it rises to the peak
    weight_decay: float = 1e-4
    clip_norm: float = 5.0  # largest norm of a gradient
    seed: int = 0
    checkpoint_every: int = 100
    # crops
    crop_px: int = 192
    empty_share: float = 0.2  # of the crops, from slices without lung
    zoom_width: float = 0.6  # of the zoom's logarithm
    rotate_width_rad: float = 0.6
    prob_upside_down: float = 0.04
    prob_flip: float = 0.5  # right and left
    shift_width: float = 1.2  # of the part of the slice that lies outside the crop
    shift_crop_share: float = 0.8  # a crop counts as no larger than this share of the slice
    prob_end: float = 0.15  # crops at either end of the stack, where neighbours are missing
    # scanner
    prob_soft: float = 0.25  # crops that are blurred
    soft_scale: float = 0.6  # by shrinking them to this size and back
    noise: float = 0.6  # share of fine noise, and the same of noise with a grain of noise_px
    noise_px: int = 2
    noise_hu: float = 70.0  # largest factor of that noise; small ones are drawn more often
    scale_from: float = 0.94  # least factor of the HU
    scale_width: float = 0.12  # from the least factor to the largest
    shift_width_hu: float = 60.0
    prob_clip: float = 0.3  # crops whose bright tissue is clipped, as windowed archives are
    clip_hu: float = 100.0  # least HU that are clipped
    clip_width_hu: float = 500.0  # from the least to the largest; crops without it end there, too
    # disease
    sick_share: float = Field(default=0.75, ge=0, le=1)  # crops with synthetic disease
    n_ellipses: int = 6  # most in one crop
    border_share: float = 0.7  # of the ellipses, centred near the lungs' border
    border_px: int = 3  # width of that border
    log_axes_px: Range = (1.1, 4.0)  # logarithm of the semi-axes: 3 to 55 pixels
    height_share: Range = (-0.7, 0.7)  # height of the centre over the semi-axis along z
    ripple: float = 0.25  # relative change of the radius
    ripple_px: int = 12
    softness: Range = (0.03, 0.25)  # relative width of the edge
    prob_large: float = 0.3  # sick crops with half a lung or all of it
    prob_dependent: float = 0.5  # of those, whose plane is horizontal: the back is solid
    prob_tilted: float = 0.5  # of those, whose plane runs up or down, too
    tilt: Range = (-0.5, 1.0)  # in right angles; above 0 the bases are solid
    plane_at: Range = (-0.15, 0.25)  # place of the plane, in crops behind the middle
    plane_steepness: float = 30.0
    plane_ripple: float = 2.0
    plane_ripple_px: int = 24
    prob_half: float = 0.75  # of the large opacities, those that end at a plane
    everywhere_level: float = 1.0  # the others: density before smooth noise of everywhere_ripple
    everywhere_ripple: float = 2.0
    everywhere_px: int = 32
    prob_layer: float = 0.25  # sick crops with a layer along the border
    deepest_px: int = 6  # thickest layer: a thicker one is an effusion
    layer_level: float = 0.3  # relative thickness before smooth noise; none where below 0
    layer_px: int = 32
    layer_edge_px: float = 0.4
    prob_dense: float = 0.45  # consolidation; the others are ground glass
    dense_hu: Range = (-150.0, 80.0)
    pale_hu: Range = (-700.0, -250.0)
    dense_spread_hu: Range = (5.0, 60.0)
    pale_spread_hu: Range = (20.0, 130.0)
    prob_fine: float = 0.5  # opacities with a fine grain; the others have a coarse one
    fine_px: int = 2
    coarse_px: int = 10
    prob_air: float = 0.4  # consolidations with air in their bronchi
    bronchi_px: int = 3
    bronchi_level: Range = (0.8, 1.4)  # bronchi are where smooth noise exceeds it
    air_hu: Range = (-900.0, -300.0)


class InferenceConfig(Section):
    """Slabs over the lungs and the vote (Sec. IV-B3)."""

    slab_vox: int = 32  # slices of a slab, as in training; slabs lie half a slab apart
    # "vote": normal is what enough members call normal; "mean": where their mean probability of
    # normal is above prob_normal
    rule: Literal["vote", "mean"] = "vote"
    prob_normal: float = 0.95
    # Members that must call a voxel normal; "majority": more than half of those that vote.
    min_votes: Literal["majority"] | Annotated[int, Field(ge=0)] = "majority"
    max_members: Literal["all"] | Size = "all"  # members that vote: so many, the first ones

    def members_voting(self, n_members: int) -> int:
        """How many of ``n_members`` vote."""
        return n_members if self.max_members == "all" else min(self.max_members, n_members)

    def votes_needed(self, n_members: int) -> int:
        """How many of the ``n_members`` that vote must call a voxel normal."""
        return n_members // 2 + 1 if self.min_votes == "majority" else self.min_votes


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
    share_range: Range = (0.05, 0.25)  # the results give the volume for these shares, too
    # Density of the disease: this percentile of what is more likely lesion than not.
    disease_percentile: float = 75.0
    least_contrast_hu: float = 150.0  # of the disease with the healthy lung
    density_sigma_vox: float = 2.0  # the density is smoothed with this Gaussian
    # Layers of the lungs' outline, in each slice, that are never lesion; 0: none, the paper.
    rim_vox: int = 0
    # Bright tissue that could be lung is lung up to this many steps from a lesion; 0: the paper.
    lungs_vox: int = 0
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
    lungs_training: LungsTrainingConfig = LungsTrainingConfig()
    inference: InferenceConfig = InferenceConfig()
    postprocessing: PostprocessingConfig = PostprocessingConfig()


def known_keys() -> list[str]:
    """Every key as ``section.key``, in the order of the sections above."""
    return [
        f"{section}.{key}"
        for section, info in Config.model_fields.items()
        for key in info.annotation.model_fields  # type: ignore[union-attr]
    ]


def parse_config(values: dict[str, Any], where: str) -> Config:
    """Check nested settings.

    Raises:
        ConfigError: For the first unknown key (with the nearest known one) or wrong value.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"][:2])
        if first["type"] == "extra_forbidden":
            names = ["extends", *Config.model_fields, *known_keys()]
            near = difflib.get_close_matches(key, names, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else "see 'normnet info --config'"
            raise ConfigError("NN-CFG-001", f"unknown setting '{key}'", where, hint) from error
        # A key with several forms has one error for each of them.
        wrong = [part for part in error.errors() if part["loc"][:2] == first["loc"][:2]]
        message = ", or ".join(
            dict.fromkeys(part["msg"][0].lower() + part["msg"][1:] for part in wrong)
        )
        raise ConfigError(
            "NN-CFG-002", f"wrong value of '{key}': {message}", where, "correct the value"
        ) from error


def parse_manifest_config(values: dict[str, Any], where: str) -> tuple[Config, list[str]]:
    """Check the settings of a trained model, some of which this version may not know.

    Returns:
        The settings, and the names of the unknown ones, which are left out.

    Raises:
        ConfigError: For the first wrong value.
    """
    keys = set(known_keys())
    known, unknown = {}, []
    for name, section in values.items():
        if name not in Config.model_fields:
            unknown.append(name)
            continue
        if isinstance(section, dict):
            unknown += [f"{name}.{key}" for key in section if f"{name}.{key}" not in keys]
            section = {key: value for key, value in section.items() if f"{name}.{key}" in keys}
        known[name] = section
    return parse_config(known, where), unknown


class Layer(NamedTuple):
    """Settings of one file, which stand over those of the file that it extends."""

    name: str  # of a shipped file: "paper.toml"; else the path
    shipped: bool
    values: dict[str, Any]


def read_layers(source: str | Path | None = None, implied: str | None = "default") -> list[Layer]:
    """Read a file of settings and all that it extends.

    Args:
        source: Name of a shipped file (``"paper"``, ``"default"``, ``"lesions"``) or path of a TOML
            file; ``"default"`` where None.
        implied: What a user's file without ``extends`` extends; None: nothing.

    Returns:
        The layers from the lowest to the file itself, each checked.

    Raises:
        ConfigError: If a file is missing, not TOML, holds unknown keys or wrong values, or extends
            itself.
    """
    layers: list[Layer] = []
    name, path = str(source or "default"), Path(source or "default")
    seen: set[str] = set()
    while True:
        shipped = name in SHIPPED
        place = name if shipped else str(path.resolve())
        if place in seen:
            raise ConfigError(
                "NN-CFG-006", "'extends' leads back to the same file", layers[0].name, "remove one"
            )
        seen.add(place)
        values = _read_toml(name, path, layers[0].name if layers else None)
        parent = values.pop("extends", None if shipped else implied)
        where = f"{name}.toml" if shipped else str(path)
        if parent is not None and not isinstance(parent, str):
            raise ConfigError(
                "NN-CFG-005", "'extends' is not a text", where, "give a name or a path"
            )
        parse_config(values, where)
        layers.insert(0, Layer(where, shipped, values))
        if parent is None:
            return layers
        name, path = parent, path.parent / parent


def _read_toml(name: str, path: Path, extended_by: str | None) -> dict[str, Any]:
    if name in SHIPPED:
        file = resources.files("normnet") / "configs" / f"{name}.toml"
        return tomllib.loads(file.read_text(encoding="utf-8"))
    names = ", ".join(f"'{known}'" for known in SHIPPED)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        if extended_by is not None:
            found, todo = f"no config '{name}' to extend", f"give {names} or a path from its folder"
            raise ConfigError("NN-CFG-005", found, extended_by, todo) from error
        todo = f"give {names} or a TOML file"
        raise ConfigError("NN-CFG-003", "no such config", str(path), todo) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            "NN-CFG-004", f"not TOML ({error})", str(path), "correct the file"
        ) from error


def merge_layers(layers: list[Layer]) -> Config:
    """All settings; a key of a later layer stands over the same key of an earlier one."""
    values: dict[str, Any] = {}
    for layer in layers:
        values = _merged(values, layer.values)
    return parse_config(values, layers[-1].name)


def load_config(source: str | Path | None = None) -> Config:
    """Settings by name of a shipped file or by path of a TOML file; as ``read_layers`` takes it.

    Raises:
        ConfigError: As ``read_layers`` raises it.
    """
    return merge_layers(read_layers(source))


def override(config: Config, values: dict[str, Any], where: str) -> Config:
    """The settings with single keys of ``values`` (as a TOML file holds them) in place of theirs.

    Raises:
        ConfigError: As ``parse_config`` raises it.
    """
    return parse_config(_merged(config.model_dump(), values), where)


def _merged(base: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    merged = {name: dict(section) for name, section in base.items()}
    for name, section in values.items():
        if isinstance(section, dict):
            merged.setdefault(name, {}).update(section)
        else:
            merged[name] = section
    return merged
