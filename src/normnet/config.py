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

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from normnet.errors import ConfigError

SHIPPED = ("paper", "default", "lesions")  # files in configs/, by name
MAX_BYTES = 2**20  # of a file of settings
LUNGS_STRIDE = 16  # slices are padded to multiples of it, which five levels of a U-Net need
Range = tuple[float, float]


def _ordered(pair: Range) -> Range:
    if pair[1] < pair[0]:
        raise PydanticCustomError("order", "The second number is below the first")
    return pair


def _odd(size: int) -> int:
    if size % 2 == 0:
        raise PydanticCustomError("odd", "The number is even; a kernel has a middle voxel")
    return size


# Whole numbers.
Size = Annotated[int, Field(ge=1, le=4096)]  # voxels or pixels along an axis, slabs of a batch
Edge = Annotated[int, Field(ge=1, le=256)]  # of something small, in voxels or pixels
Steps = Annotated[int, Field(ge=0, le=256)]  # layers of voxels; 0: none
Points = Annotated[int, Field(ge=1, le=64)]  # per axis
Units = Annotated[int, Field(ge=0, le=8)]
Kernel = Annotated[int, Field(ge=1, le=99), AfterValidator(_odd)]
Members = Annotated[int, Field(ge=1, le=100)]
Iterations = Annotated[int, Field(ge=1, le=999_999)]  # six digits in names of checkpoints
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
Channels = Annotated[
    tuple[Annotated[int, Field(ge=1, le=4096)], ...],
    Field(strict=False, min_length=2, max_length=8),
]
Slab = Annotated[tuple[Size, Size, Size], Field(strict=False)]
Name = Annotated[str, Field(min_length=1, max_length=64)]

# Single numbers.
Share = Annotated[float, Field(ge=0, le=1)]  # also a probability
Part = Annotated[float, Field(ge=0, le=0.9)]  # a share that is never all
Hu = Annotated[float, Field(ge=-2000, le=4000)]
LightHu = Annotated[float, Field(ge=-1000, le=-600)]  # of a lung full of air
Spread = Annotated[float, Field(ge=0, le=4000)]  # a difference of HU
Tissue = Annotated[float, Field(ge=-0.9, le=0.9)]  # share of tissue in the air that is added
Mm = Annotated[float, Field(ge=0.1, le=200)]
GridMm = Annotated[float, Field(ge=0.4, le=20)]  # between voxels; the memory grows with its cube
Spacing = Annotated[tuple[GridMm, GridMm, GridMm], Field(strict=False)]
Length = Annotated[float, Field(ge=0, le=512)]  # in voxels
Axis = Annotated[float, Field(ge=0.5, le=512)]  # semi-axis in voxels
LogPx = Annotated[float, Field(ge=-1, le=7)]  # logarithm of a semi-axis
Sigma = Annotated[float, Field(ge=0.1, le=100)]  # filters round it to one or two decimals
Smoothing = Annotated[float, Field(ge=0, le=100)]  # sigma of a filter; 0: none
Percent = Annotated[float, Field(ge=0, le=100)]
Factor = Annotated[float, Field(ge=0, le=10)]
Shrinking = Annotated[float, Field(ge=0.05, le=1)]
Zoom = Annotated[float, Field(ge=0.1, le=10)]
Density = Annotated[float, Field(ge=0.001, le=1)]  # its logarithm is drawn
Width = Annotated[float, Field(ge=0.001, le=100)]  # of an edge; divides
Level = Annotated[float, Field(ge=-20, le=20)]  # in units of a noise or of a logit
Gain = Annotated[float, Field(ge=0, le=1000)]
Rate = Annotated[float, Field(gt=0, le=1)]  # of learning
Degree = Annotated[float, Field(ge=-180, le=180)]
Tilt = Annotated[float, Field(ge=-2, le=2)]

# Two numbers: from the first to the second.
Ordered = AfterValidator(_ordered)
Numbers = Annotated[tuple[Gain, Gain], Field(strict=False), Ordered]
Shares = Annotated[tuple[Share, Share], Field(strict=False), Ordered]
Hus = Annotated[tuple[Hu, Hu], Field(strict=False), Ordered]
Spreads = Annotated[tuple[Spread, Spread], Field(strict=False), Ordered]
Tissues = Annotated[tuple[Tissue, Tissue], Field(strict=False), Ordered]
Thicknesses = Annotated[tuple[Mm, Mm], Field(strict=False), Ordered]
Lengths = Annotated[tuple[Length, Length], Field(strict=False), Ordered]
Axes = Annotated[tuple[Axis, Axis], Field(strict=False), Ordered]
Sigmas = Annotated[tuple[Sigma, Sigma], Field(strict=False), Ordered]
Factors = Annotated[tuple[Factor, Factor], Field(strict=False), Ordered]
Zooms = Annotated[tuple[Zoom, Zoom], Field(strict=False), Ordered]
Densities = Annotated[tuple[Density, Density], Field(strict=False), Ordered]
Widths = Annotated[tuple[Width, Width], Field(strict=False), Ordered]
Levels = Annotated[tuple[Level, Level], Field(strict=False), Ordered]
Degrees = Annotated[tuple[Degree, Degree], Field(strict=False), Ordered]
Tilts = Annotated[tuple[Tilt, Tilt], Field(strict=False), Ordered]
Logs = Annotated[tuple[LogPx, LogPx], Field(strict=False), Ordered]


class Section(BaseModel):
    """A section of the file: unknown keys are errors, and values never change after reading.

    Each key has its type and its range, and no text or truth value stands for a number. Lists of a
    file become tuples, which ``strict=False`` allows.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class WindowConfig(Section):
    """HU window mapped to [0, 1] and the threshold of bright tissue (Sec. III-A, IV-B2)."""

    low_hu: Hu = -800.0
    high_hu: Hu = 100.0
    bright_hu: Hu = -500.0  # T; tau in the window

    @property
    def tau(self) -> float:
        """The bright threshold on the windowed scale; 1/3 for the paper's values."""
        return (self.bright_hu - self.low_hu) / (self.high_hu - self.low_hu)


class NetworkConfig(Section):
    """Shape of a U-Net."""

    spatial_dims: Literal[2, 3] = 3
    in_channels: Annotated[int, Field(ge=1, le=64)] = 1
    channels: Channels = (16, 32, 64, 128, 256)
    n_res_units: Units = 2
    norm: Literal["batch", "instance"] = "batch"
    rare_start: bool = False  # begin with a steep output that says "no" almost everywhere
    start_gain: Gain = 4.0  # of the last map before the output, with rare_start
    start_logit: Level = -3.0  # of the output, with rare_start

    @property
    def stride(self) -> int:
        """Every input axis must be a multiple of this."""
        return 1 << (len(self.channels) - 1)


class LungsConfig(Section):
    """Grid and grey scale of the learned lung segmenter."""

    pixel_mm: GridMm = 1.5
    slice_mm: GridMm = 2.0  # in thinner scans, slices this far apart are segmented
    # The network sees each slice with the slices this far below and above it.
    neighbours_mm: Annotated[tuple[Mm, ...], Field(strict=False, max_length=16)] = (6.0,)
    # In dense tissue the probability is smoothed along z by a Gaussian of this sigma; 0: nowhere.
    smooth_mm: Smoothing = 0.0
    low_hu: Hu = -1024.0
    high_hu: Hu = 600.0
    threshold: Share = 0.5

    @property
    def n_seen(self) -> int:
        """Slices that the network sees: one and its neighbours on both sides."""
        return 2 * len(self.neighbours_mm) + 1


class PreparationConfig(Section):
    """Grid and crop of what the network sees (Sec. IV-B2) and the erroneous edges (Sec. III-B)."""

    spacing_mm: Spacing = (1.0, 0.8, 0.8)  # z, y, x
    margin_vox: Steps = 4  # around the lungs' bounding box
    align_vox: Edge = 16  # the crop starts at a multiple of this, the network's stride
    pool_vox: Edge = 2  # edge of the cubes that lesion networks see as one voxel
    # "crop": the lungs' box as it is. A size, one for both axes or (y, x): zeros around it up to
    # there; the paper pads to 512 x 512.
    pad_to: Literal["crop"] | Size | Annotated[tuple[Size, Size], Field(strict=False)] = "crop"
    # Training drops components with more than this share of their voxels on the mask's edge.
    edge_share: Share = 0.5
    edge_vox: Edge = 2  # thickness of that edge
    edge_cut_rim: bool = False  # cut the chest wall's rim off the vessels first
    inspired_hu: LightHu = -905.0  # density that the lightest tenth of the lung is brought to
    # Limits of the share of tissue in the air that is taken out for it; 0, 0: nothing, the paper.
    breath_limits: Tissues = (0.0, 0.0)

    @property
    def padded_yx_vox(self) -> tuple[int, int] | None:
        """Least size in y and x; None where the lungs' box is not padded."""
        if isinstance(self.pad_to, str):
            return None
        return (self.pad_to, self.pad_to) if isinstance(self.pad_to, int) else self.pad_to


class SynthesisConfig(Section):
    """The synthetic 'lesion' generator (Sec. III-C); lengths in voxels of the prepared grid."""

    n_small: Numbers = (5, 10)  # N_s ~ F[5 lambda, 10 lambda]
    n_medium: Numbers = (5, 10)  # N_m
    prob_large: Share = 0.2  # P_L, times lambda
    axes_small_vox: Axes = (3, 10)
    axes_medium_vox: Axes = (10, 32)
    axes_large_vox: Axes = (32, 64)
    elastic: Factors = (0.15, 0.35)  # displacement over mean semi-axis; not published
    elastic_cells: Points = 4  # control points per axis of an ellipsoid's box
    rotate: bool = True
    texture: Name = "salt noise"  # a name of synthesis/textures.py
    sigma_a_vox: Sigmas = (3, 15)  # Eq. 7
    a_limits: Shares = (0.0, 0.3)  # Eq. 8: a_L, a_U ~ U[...]
    a_gap: Share = 0.15  # a_U - a_L is larger
    sigma_b_fine_vox: Sigmas = (0.8, 2.0)  # Eq. 4
    sigma_b_coarse_vox: Sigmas = (2.0, 5.0)
    prob_fine: Share = 0.7
    mu0: Shares = (0.4, 0.8)  # Eq. 6
    mean_above: Share = 0.2  # mean_t of Eq. 6


class GroundGlassConfig(Section):
    """Pale disease for the lesion networks, ours; lengths in voxels of their coarse grid."""

    prob_texture: Share = 0.2  # blobs that carry the paper's texture instead
    density: Densities = (0.08, 0.9)  # share of the air that is fluid
    density_clumped: Densities = (0.2, 0.9)
    soft_vox: Sigmas = (0.3, 1.8)  # edge
    grain: Factors = (0.0, 0.4)  # relative, fine and coarse
    sigma_fine_vox: Sigmas = (0.5, 1.2)
    sigma_coarse_vox: Sigmas = (1.5, 5.0)
    prob_mottled: Share = 0.3
    sigma_mottled_vox: Sigmas = (0.6, 2.5)
    mottled_floor: Factors = (0.1, 0.6)  # relative density between the spots
    mottled_gain: Factors = (0.6, 1.8)  # what the spots add to it
    # Dense spots in lung that hardly changes; the patch around them is the lesion.
    prob_clumped: Share = 0.4
    sigma_clumped_vox: Sigmas = (0.6, 3.5)
    clump_level: Levels = (-0.2, 1.1)  # clumps are where unit noise exceeds it
    clump_edge: Widths = (0.1, 0.5)  # width of their edge, in units of that noise
    clump_floor: Factors = (0.0, 0.35)  # relative density between the clumps
    most_fluid: Share = 0.97  # largest share of the air that is fluid
    texture_hu: Hus = (-800.0, 100.0)  # window of the paper's textures, Sec. IV-B2
    prob_empty: Share = 0.1  # slabs without disease
    prob_subpleural: Share = 0.0  # slabs with one or two sheets of disease along the pleura
    subpleural_depth_vox: Sigmas = (2.0, 9.0)  # how far such a sheet reaches into the lung
    subpleural_axes_vox: Axes = (8, 36)  # semi-axes of the ellipsoid that cuts it out
    prob_dependent: Share = 0.7  # of the sheets, those whose middle lies in the dependent half


class TrainingConfig(Section):
    """How one member is trained (Sec. IV-B3) and what is varied in its slabs."""

    # "normal": bright tissue, the paper's. "areas", "lesions": all healthy lung, the synthetic
    # lesions (Table IV). "disease": what the shipped lesion networks learn, dense and pale disease
    # on a coarse grid.
    target: Literal["normal", "areas", "lesions", "disease"] = "normal"
    slab_vox: Slab = (32, 512, 512)
    usable_share: Share = 0.5  # target "disease": least share of a slab's slices without findings
    batch: Size = 8
    iterations: Iterations = 2000
    learning_rate: Rate = 3e-4
    schedule: Literal["constant", "cosine"] = "constant"
    warm_up: Iterations = 50  # iterations in which the rate of "cosine" rises from zero
    falls_to: Share = 0.02  # share of the learning rate that "cosine" ends at
    # The trained weights are a running mean, to which each iteration adds this share of its own;
    # 0: the weights of the last iteration.
    average: Share = 0.0
    members: Members = 5
    seed: Seed = 0
    checkpoint_every: Iterations = 100
    remove_edges: bool = True  # III-B; False: the rim of the lung mask is learned as normal
    flip: bool = False  # mirror slabs along each axis
    prob_thick: Share = 0.0  # slabs blurred along z as thick slices are
    thick_mm: Thicknesses = (2.0, 6.0)
    prob_noise: Share = 0.0  # slabs with reconstruction noise
    noise_hu: Spreads = (5.0, 60.0)
    noise_sigma_vox: Sigmas = (0.4, 1.0)  # grain of that noise


class VariationConfig(Section):
    """How healthy lungs and scanners differ, for the lesion networks; ours."""

    zoom: Zooms = (0.85, 1.18)
    rotate_deg: Degrees = (0.0, 0.0)  # in the axial plane
    elastic_vox: Lengths = (0.0, 0.0)  # standard deviation of a smooth displacement
    elastic_points: Points = 5  # control points per axis of that displacement
    scale: Zooms = (0.95, 1.05)  # of HU + 1024: calibration
    prob_breath: Share = 0.35
    breath: Tissues = (-0.03, 0.08)  # share of the air that is tissue, in the whole lung
    prob_gradient: Share = 0.3
    gradient: Tissues = (0.0, 0.06)  # the same at the back, growing from nothing at the front
    gradient_power: Factors = (1.0, 1.0)  # 1: evenly; larger: in the dependent part alone
    prob_anterior: Share = 0.2  # of those, slabs in which it grows to the front: prone patients
    prob_motion: Share = 0.0  # slabs in which the diaphragm or the heart has moved
    motion_vox: Lengths = (2.0, 6.0)  # how far
    motion_share: Shares = (0.2, 0.6)  # of the time
    motion_sigma_vox: Sigmas = (6.0, 16.0)  # of the region
    motion_near_vox: Edge = 4  # greatest distance of its centre from the border that moves
    motion_across_vox: Size = 45  # from there to the other lung, across the heart
    prob_regional: Share = 0.3
    regional: Tissues = (0.0, 0.025)  # the same, rising and falling over a tenth of the slab
    regional_points: Points = 10  # control points per axis of that density
    prob_kernel: Share = 0.0  # slabs smoothed or sharpened inside the lungs, disease included
    kernel: Levels = (-0.7, 1.0)  # share of the way to the smoothed lungs; below 0 sharper
    kernel_sigma_vox: Sigmas = (0.4, 1.0)
    prob_slices: Share = 0.3
    slices: Share = 0.015  # standard deviation of every slice's own scale of HU + 1024
    # Thick slices: voxels with more lung than a share drawn from here are in the mask.
    lung_share: Shares = (0.1, 0.6)


class LungsTrainingConfig(Section):
    """How the lung segmenter is trained and what is varied in its crops; ours.

    A width is that of an interval around zero, from which a value is drawn evenly.
    """

    channels: Channels = (16, 32, 64, 128, 256)  # of its U-Net
    n_res_units: Units = 2
    iterations: Iterations = 3000
    batch: Size = 12
    learning_rate: Rate = 1.5e-3  # peak; falls to zero along a cosine
    rise_share: Part = 0.05  # share of the iterations in which it rises to the peak
    weight_decay: Share = 1e-4
    clip_norm: Annotated[float, Field(gt=0, le=1e6)] = 5.0  # largest norm of a gradient
    seed: Seed = 0
    checkpoint_every: Iterations = 100
    # crops
    crop_px: Size = 192
    empty_share: Share = 0.2  # of the crops, from slices without lung
    zoom_width: Factor = 0.6  # of the zoom's logarithm
    rotate_width_rad: Factor = 0.6
    prob_upside_down: Share = 0.04
    prob_flip: Share = 0.5  # right and left
    shift_width: Factor = 1.2  # of the part of the slice that lies outside the crop
    shift_crop_share: Share = 0.8  # a crop counts as no larger than this share of the slice
    prob_end: Share = 0.15  # crops at either end of the stack, where neighbours are missing
    # scanner
    prob_soft: Share = 0.25  # crops that are blurred
    soft_scale: Shrinking = 0.6  # by shrinking them to this size and back
    noise: Factor = 0.6  # share of fine noise, and the same of noise with a grain of noise_px
    noise_px: Size = 2
    noise_hu: Spread = 70.0  # largest factor of that noise; small ones are drawn more often
    scale_from: Zoom = 0.94  # least factor of the HU
    scale_width: Factor = 0.12  # from the least factor to the largest
    shift_width_hu: Spread = 60.0
    prob_clip: Share = 0.3  # crops whose bright tissue is clipped, as windowed archives are
    clip_hu: Hu = 100.0  # least HU that are clipped
    clip_width_hu: Spread = 500.0  # from the least to the largest; crops without it end there, too
    # disease
    sick_share: Share = 0.75  # crops with synthetic disease
    n_ellipses: Annotated[int, Field(ge=1, le=100)] = 6  # most in one crop
    border_share: Share = 0.7  # of the ellipses, centred near the lungs' border
    border_px: Edge = 3  # width of that border
    log_axes_px: Logs = (1.1, 4.0)  # logarithm of the semi-axes: 3 to 55 pixels
    height_share: Tilts = (-0.7, 0.7)  # height of the centre over the semi-axis along z
    ripple: Factor = 0.25  # relative change of the radius
    ripple_px: Size = 12
    softness: Widths = (0.03, 0.25)  # relative width of the edge
    prob_large: Share = 0.3  # sick crops with half a lung or all of it
    prob_dependent: Share = 0.5  # of those, whose plane is horizontal: the back is solid
    prob_tilted: Share = 0.5  # of those, whose plane runs up or down, too
    tilt: Tilts = (-0.5, 1.0)  # in right angles; above 0 the bases are solid
    plane_at: Tilts = (-0.15, 0.25)  # place of the plane, in crops behind the middle
    plane_steepness: Gain = 30.0
    plane_ripple: Gain = 2.0
    plane_ripple_px: Size = 24
    prob_half: Share = 0.75  # of the large opacities, those that end at a plane
    everywhere_level: Level = 1.0  # the others: density before smooth noise of everywhere_ripple
    everywhere_ripple: Gain = 2.0
    everywhere_px: Size = 32
    prob_layer: Share = 0.25  # sick crops with a layer along the border
    deepest_px: Edge = 6  # thickest layer: a thicker one is an effusion
    layer_level: Level = 0.3  # relative thickness before smooth noise; none where below 0
    layer_px: Size = 32
    layer_edge_px: Width = 0.4
    prob_dense: Share = 0.45  # consolidation; the others are ground glass
    dense_hu: Hus = (-150.0, 80.0)
    pale_hu: Hus = (-700.0, -250.0)
    dense_spread_hu: Spreads = (5.0, 60.0)
    pale_spread_hu: Spreads = (20.0, 130.0)
    prob_fine: Share = 0.5  # opacities with a fine grain; the others have a coarse one
    fine_px: Size = 2
    coarse_px: Size = 10
    prob_air: Share = 0.4  # consolidations with air in their bronchi
    bronchi_px: Size = 3
    bronchi_level: Levels = (0.8, 1.4)  # bronchi are where smooth noise exceeds it
    air_hu: Hus = (-900.0, -300.0)


class InferenceConfig(Section):
    """Slabs over the lungs and the vote (Sec. IV-B3)."""

    slab_vox: Size = 32  # slices of a slab, as in training; slabs lie half a slab apart
    # "vote": normal is what enough members call normal; "mean": where their mean probability of
    # normal is above prob_normal
    rule: Literal["vote", "mean"] = "vote"
    prob_normal: Share = 0.95
    # Members that must call a voxel normal; "majority": more than half of those that vote.
    min_votes: Literal["majority"] | Annotated[int, Field(ge=0, le=100)] = "majority"
    max_members: Literal["all"] | Members = "all"  # members that vote: so many, the first ones

    def members_voting(self, n_members: int) -> int:
        """How many of ``n_members`` vote."""
        return n_members if self.max_members == "all" else min(self.max_members, n_members)

    def votes_needed(self, n_members: int) -> int:
        """How many of the ``n_members`` that vote must call a voxel normal.

        Raises:
            ConfigError: NN-CFG-002 if they are more than vote: then nothing could be normal.
        """
        if self.min_votes == "majority":
            return n_members // 2 + 1
        if self.min_votes > n_members:
            fault = f"{self.min_votes} votes needed, {n_members} members vote"
            raise _wrong_value("inference.min_votes", fault, "settings")
        return self.min_votes


class PostprocessingConfig(Section):
    """Mean filters and thresholds (Sec. III-D, Eq. 10); all from lesion networks on is ours."""

    k_d: Kernel = 9
    k_f: Kernel = 7
    t_d: Share = 0.2
    t_f: Share = 0.15
    dilation_vox: Steps = 4  # not published; capped by I_g
    dimensions: Literal[2, 3] = 3  # of the mean filters
    normalised: bool = False  # means over lung voxels only
    lesion_networks: bool = False  # use them, and the boundary below; False: the paper
    prob_lesion: Share = 0.2  # could be lesion: they give it more than this,
    prob_possible: Share = 0.02  # or Eq. 10 finds it and they give it more than this
    step_hu: Spread = 75.0  # lesion: denser than the healthy lung by this
    share: Share = 0.12  # and this share of the way from there to the disease
    share_range: Shares = (0.05, 0.25)  # the results give the volume for these shares, too
    # Density of the disease: this percentile of what is more likely lesion than not.
    disease_percentile: Percent = 75.0
    least_contrast_hu: Spread = 150.0  # of the disease with the healthy lung
    density_sigma_vox: Smoothing = 2.0  # the density is smoothed with this Gaussian
    # Layers of the lungs' outline, in each slice, that are never lesion; 0: none, the paper.
    rim_vox: Steps = 0
    # Bright tissue that could be lung is lung up to this many steps from a lesion; 0: the paper.
    lungs_vox: Steps = 0
    lungs_prob: Share = 0.1  # could be lung: the lung networks give it more than this


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
    """Check nested settings, each key and those that must fit together.

    Raises:
        ConfigError: NN-CFG-001 for the first unknown key (with the nearest known one), NN-CFG-002
            for the first wrong value.
    """
    config = _check_keys(values, where)
    for key, (good, fault) in _fits(config).items():
        if not good:
            raise _wrong_value(key, fault, where)
    return config


def _fits(config: Config) -> dict[str, tuple[bool, str]]:
    """For keys that must fit others: whether they do, and what is wrong where they do not."""
    window, lungs, texture = config.window, config.lungs, config.synthesis
    widest_gap = 0.9 * (texture.a_limits[1] - texture.a_limits[0])
    clumped = config.ground_glass.prob_mottled + config.ground_glass.prob_clumped
    inside = window.low_hu <= window.bright_hu <= window.high_hu
    return {
        "window.high_hu": (window.low_hu < window.high_hu, "not above window.low_hu"),
        "window.bright_hu": (inside, "not between window.low_hu and window.high_hu"),
        "lungs.high_hu": (lungs.low_hu < lungs.high_hu, "not above lungs.low_hu"),
        # Two limits are drawn again until they lie so far apart.
        "synthesis.a_gap": (
            texture.a_gap == 0 or texture.a_gap <= widest_gap,
            "more than nine tenths of the width of synthesis.a_limits",
        ),
        "ground_glass.prob_clumped": (
            clumped <= 1,
            "more than 1 together with ground_glass.prob_mottled",
        ),
    }


def _wrong_value(key: str, fault: str, where: str) -> ConfigError:
    return ConfigError("NN-CFG-002", f"wrong value of '{key}': {fault}", where, "correct the value")


def _check_keys(values: dict[str, Any], where: str) -> Config:
    """Check each key by itself, as in one layer of settings, which other layers complete.

    Raises:
        ConfigError: As ``parse_config`` raises it.
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
        raise _wrong_value(key, message, where) from error


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
    name = "default" if source is None else str(source)
    path = Path(name)
    seen: set[str] = set()
    while True:
        shipped = name in SHIPPED
        values = _read_toml(name, path, layers[0].name if layers else None)
        place = name if shipped else str(path.resolve())
        if place in seen:
            raise ConfigError(
                "NN-CFG-006", "'extends' leads back to the same file", layers[0].name, "remove one"
            )
        seen.add(place)
        parent = values.pop("extends", None if shipped else implied)
        where = f"{name}.toml" if shipped else str(path)
        if parent is not None and not isinstance(parent, str):
            raise ConfigError(
                "NN-CFG-005", "'extends' is not a text", where, "give a name or a path"
            )
        _check_keys(values, where)
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
        if not path.is_file():  # a folder, or a pipe that would block
            raise FileNotFoundError(path)
        with path.open("rb") as handle:
            content = handle.read(MAX_BYTES + 1)
    except OSError as error:
        if extended_by is not None:
            found, todo = f"no config '{name}' to extend", f"give {names} or a path from its folder"
            raise ConfigError("NN-CFG-005", found, extended_by, todo) from error
        todo = f"give {names} or a TOML file"
        raise ConfigError("NN-CFG-003", "no such config", str(path), todo) from error
    try:
        if len(content) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            "NN-CFG-004", f"not TOML ({error})", str(path), "correct the file"
        ) from error


def merge_layers(layers: list[Layer]) -> Config:
    """All settings; a key of a later layer stands over the same key of an earlier one.

    Raises:
        ConfigError: As ``parse_config`` raises it, or if slabs or crops for training do not fit the
            strides of their network.
    """
    values: dict[str, Any] = {}
    for layer in layers:
        values = _merged(values, layer.values)
    where = layers[-1].name
    config = parse_config(values, where)
    crop_stride = 1 << (len(config.lungs_training.channels) - 1)
    if crop_stride > LUNGS_STRIDE:
        raise _wrong_value("lungs_training.channels", "more than five levels", where)
    for key, sizes, stride in (
        ("training.slab_vox", config.training.slab_vox, config.network.stride),
        ("lungs_training.crop_px", (config.lungs_training.crop_px,), crop_stride),
    ):
        if any(size % stride for size in sizes):
            raise _wrong_value(key, f"not a multiple of {stride}, the network's stride", where)
    return config


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
