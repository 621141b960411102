"""The U-Net as it is used: the operations of MONAI's in evaluation mode, without MONAI.

The import of MONAI takes 3 seconds, which is a third of the time of a whole CT. The answers are the
same bits, but for the last layer of the 3D networks (see ``_Subpixel``), which rounds otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn
from torch.nn.functional import leaky_relu_, pad

from normnet.config import NetworkConfig


def lean_unet(config: NetworkConfig, state: Mapping[str, torch.Tensor]) -> nn.Module:
    """The network of ``build_unet(config)`` with these weights, for inference alone.

    Args:
        config: Shape of the network; ``norm`` is ``"batch"``.
        state: As ``build_unet(config).state_dict()`` has it.

    Returns:
        In evaluation mode, float32, channels last. Every axis of its input must be a multiple of
        ``config.stride``. Called with an image and a box, it gives that part alone, in less time.

    Raises:
        KeyError: If a weight is missing.
        ValueError: If one has another shape or there are more.
    """
    weights = _Weights(config, state)
    network = weights.level("model.", config.in_channels, list(config.channels), 1)
    if weights.left:
        raise ValueError(f"{len(weights.left)} weights too many")
    layout = torch.channels_last_3d if config.spatial_dims == 3 else torch.channels_last
    lean: nn.Module = network.to(memory_format=layout)  # type: ignore[call-overload]
    return lean.eval().requires_grad_(False)


class _Layer(nn.Module):
    """A convolution, batch normalisation, and a rectifier with one slope, in place."""

    def __init__(self, convolution: nn.Module, norm: nn.Module, slope: torch.Tensor):
        super().__init__()
        self.convolution, self.norm = convolution, norm
        self.slopes = {kind: float(slope.to(kind)) for kind in (torch.float32, torch.bfloat16)}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        image = self.norm(self.convolution(image))
        return leaky_relu_(image, self.slopes[image.dtype])


class _Residual(nn.Module):
    """Layers, and a way past them."""

    def __init__(self, layers: nn.Module, shortcut: nn.Module):
        super().__init__()
        self.layers, self.shortcut = layers, shortcut

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        past = self.shortcut(image)
        added: torch.Tensor = self.layers(image) + past
        return added


class LeanUNet(nn.Module):
    """Down, what lies below, and up from both."""

    def __init__(self, down: nn.Module, below: nn.Module, up: nn.Module):
        super().__init__()
        self.down, self.below, self.up = down, below, up

    def forward(self, image: torch.Tensor, box: Sequence[slice] = ()) -> torch.Tensor:
        """The answer, or a part of it: what only the rest needs is left out on the way up.

        Args:
            image: (batch, channels, ...).
            box: The part, along the first axes of the image; all of an axis that is not given.
        """
        image = self.down(image)
        sizes = image.shape[2:]
        spans = [part.indices(2 * n)[:2] for part, n in zip(box, sizes, strict=False)]
        if isinstance(self.up, nn.Sequential):  # a residual unit, which looks further
            needed = [slice(0, n) for _, n in zip(spans, sizes, strict=False)]
        else:  # up[2i] comes from i, up[2i + 1] from i and i + 1
            needed = [
                slice(first // 2, min((last + 1) // 2 + 1, n))
                for (first, last), n in zip(spans, sizes, strict=False)
            ]
        if isinstance(self.below, LeanUNet):
            below = self.below(image, needed)
        else:
            below = _cut(self.below(image), needed)
        above = self.up(torch.cat([_cut(image, needed), below], 1))
        wanted = [
            slice(first - 2 * part.start, last - 2 * part.start)
            for (first, last), part in zip(spans, needed, strict=True)
        ]
        return _cut(above, wanted)


def _cut(image: torch.Tensor, box: Sequence[slice]) -> torch.Tensor:
    """A part of an image (batch, channels, ...) along the first of its axes; a view."""
    return image[(slice(None), slice(None), *box)]


class _Subpixel(nn.Module):
    """A transposed convolution to one channel as a small convolution: the same sums, in less time.

    On CPUs a transposed convolution to one channel at full resolution takes a third of the time of
    the whole network. It equals a convolution whose channels are interleaved into the positions of
    each block of 2 x 2 (x 2) voxels (Shi et al. 2016, doi:10.1109/CVPR.2016.207).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor):
        super().__init__()
        n_in, n_axes = weight.shape[0], weight.dim() - 2
        # Along one axis out[2i] = w[1] x[i] and out[2i + 1] = w[2] x[i] + w[0] x[i + 1]: this
        # matrix has the phases, then the taps, as rows and the three weights as columns.
        taps = torch.zeros(2, 2, 3)
        taps[0, 0, 1] = taps[1, 0, 2] = taps[1, 1, 0] = 1
        kernel = weight[:, 0]  # (channel, weight along each axis)
        for _ in range(n_axes):  # an axis of weights becomes a phase and a tap at the end
            kernel = torch.tensordot(kernel, taps, ([1], [2])).flatten(-2)
        order = [n for axis in range(n_axes) for n in (2 * axis + 1, 2 * axis + 2)]
        kernel = kernel.reshape(n_in, *(2,) * (2 * n_axes)).permute(*order[::2], 0, *order[1::2])
        convolution = (nn.Conv2d, nn.Conv3d)[n_axes - 2]
        self.phases = convolution(n_in, 2**n_axes, 2, device="meta")
        self.phases.weight = nn.Parameter(kernel.reshape(-1, n_in, *(2,) * n_axes).contiguous())
        self.phases.bias = nn.Parameter(bias.expand(2**n_axes).clone())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        size = image.shape[2:]
        n_axes = len(size)
        phases: torch.Tensor = self.phases(pad(image, (0, 1) * n_axes))
        split = phases.reshape(len(image), *(2,) * n_axes, *size)
        order = [n for axis in range(1, n_axes + 1) for n in (axis + n_axes, axis)]
        return split.permute(0, *order).reshape(len(image), 1, *(2 * n for n in size))


class _Weights:
    """Builds layers from the weights whose names start with a prefix."""

    def __init__(self, config: NetworkConfig, state: Mapping[str, torch.Tensor]):
        self.config, self.state = config, state
        self.left = {name for name in state if not name.endswith("num_batches_tracked")}

    def take(self, name: str, *shape: int) -> torch.Tensor:
        value = self.state[name].float()
        if tuple(value.shape) != shape:
            raise ValueError(f"{name} of shape {tuple(value.shape)}, not {shape}")
        self.left.discard(name)
        return value

    def level(self, prefix: str, n_in: int, channels: list[int], n_out: int) -> nn.Module:
        """A level of the U with all below it, of channels[0] and channels[1:]."""
        n, units = channels[0], self.config.n_res_units
        down = self.unit(f"{prefix}0.", n_in, n, 2, units)
        inner = f"{prefix}1.submodule."
        if len(channels) > 2:
            below, n_below = self.level(inner, n, channels[1:], n), n
        else:
            n_below = channels[1]
            below = self.unit(inner, n, n_below, 1, units)
        top = prefix == "model."
        if units == 0:
            up: nn.Module = self.layer(f"{prefix}2.", n + n_below, n_out, 2, up=True, plain=top)
        else:
            first = self.layer(f"{prefix}2.0.", n + n_below, n_out, 2, up=True)
            up = nn.Sequential(first, self.unit(f"{prefix}2.1.", n_out, n_out, 1, 1, plain=top))
        return LeanUNet(down, below, up)

    def unit(
        self, prefix: str, n_in: int, n_out: int, stride: int, n_layers: int, plain: bool = False
    ) -> nn.Module:
        """A residual unit of ``n_layers``, or one layer without a way past it where that is 0."""
        if n_layers == 0:
            return self.layer(prefix, n_in, n_out, stride)
        layers = [
            self.layer(
                f"{prefix}conv.unit{n}.",
                n_out if n else n_in,
                n_out,
                1 if n else stride,
                plain=plain and n == n_layers - 1,
            )
            for n in range(n_layers)
        ]
        shortcut: nn.Module = nn.Identity()
        if stride > 1 or n_in != n_out:
            kernel = (3 if stride > 1 else 1,) * self.config.spatial_dims
            weight = self.take(f"{prefix}residual.weight", n_out, n_in, *kernel)
            bias = self.take(f"{prefix}residual.bias", n_out)
            shortcut = self.convolution(weight, bias, stride)
        return _Residual(nn.Sequential(*layers), shortcut)

    def layer(
        self,
        prefix: str,
        n_in: int,
        n_out: int,
        stride: int,
        *,
        up: bool = False,
        plain: bool = False,
    ) -> nn.Module:
        """A convolution with its normalisation and its rectifier; ``plain``: the first alone."""
        channels = (n_in, n_out) if up else (n_out, n_in)
        weight = self.take(f"{prefix}conv.weight", *channels, *(3,) * self.config.spatial_dims)
        bias = self.take(f"{prefix}conv.bias", n_out)
        if plain:
            return _Subpixel(weight, bias) if up else self.convolution(weight, bias, stride)
        norm = (nn.BatchNorm2d if self.config.spatial_dims == 2 else nn.BatchNorm3d)(n_out)
        names = ("weight", "bias", "running_mean", "running_var")
        own = {name: self.take(f"{prefix}adn.N.{name}", n_out) for name in names}
        norm.load_state_dict(own, strict=False)  # the number of batches is of no use
        slope = self.take(f"{prefix}adn.A.weight", 1)
        return _Layer(self.convolution(weight, bias, stride, up), norm, slope)

    def convolution(
        self, weight: torch.Tensor, bias: torch.Tensor, stride: int, up: bool = False
    ) -> nn.Module:
        first, second, size = weight.shape[:3]
        module: nn.Module  # on "meta" nothing is initialised
        if up:
            upward = (nn.ConvTranspose2d, nn.ConvTranspose3d)[self.config.spatial_dims - 2]
            module = upward(first, second, size, stride, padding=1, output_padding=1, device="meta")
        else:
            kind = (nn.Conv2d, nn.Conv3d)[self.config.spatial_dims - 2]
            module = kind(second, first, size, stride, padding=size // 2, device="meta")
        module.weight, module.bias = nn.Parameter(weight), nn.Parameter(bias)
        return module
